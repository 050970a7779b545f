//! The guard between the wire and hyper. What is refused never reaches hyper: in its place comes a
//! request of the waypoint's own, which is answered with the refusal in its turn, behind the
//! answers to what came before. It must not know routes.
//!
//! A client may shut its sending side behind its last request and read on (some old ones do,
//! `nc -N`, BusyBox' wget). hyper does not read while a request is under way, so that such an end
//! waits its turn; the guard looks ahead meanwhile, and so hears of a client that is gone.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use futures::task::AtomicWaker;
use http::{HeaderMap, StatusCode};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::guard::{Guard, Violation};
use super::headers::end_connection;
use super::limits::HEAD_BYTES_MAX;

/// Stands for what was refused; its answer closes the connection.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// Bytes of one read: the largest frame of a tunnel.
const READ_BYTES: usize = 16 * 1024;

thread_local! {
    /// Memory of a read, for all connections of a thread: none keeps any while it waits.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// What the connection's two sides tell each other: the bytes below hyper, the requests above it.
#[derive(Default)]
pub struct Line {
    /// Number of the request that stands for a refusal, from 1; 0: none.
    stand_in: Cell<u64>,
    violation: Cell<Option<Violation>>,
    /// Requests that were answered without a change of protocol.
    answered: Cell<u64>,
    is_open: Cell<bool>,
    is_late: Cell<bool>,
    has_ended: Cell<bool>,
    head_since: Cell<Option<Instant>>,
    reader: RefCell<Option<Waker>>,
    interim: Arc<Interim>,
}

/// Interim answers (1xx) that wait to be written. hyper tells of them through what may be sent to
/// other threads, which never happens here.
#[derive(Default)]
pub struct Interim {
    bytes: Mutex<Vec<u8>>,
    /// The request that they may be for, from 1; 0: none. A try that was given up may tell of one
    /// when the answer of another is being written.
    open_for: AtomicU64,
    writer: AtomicWaker,
}

impl Interim {
    /// One more, for that request. It is left out when the client has not yet taken what came
    /// before, or that request has its answer.
    pub fn answer(&self, request: u64, status: StatusCode, headers: &HeaderMap) {
        let mut bytes = self.bytes();
        let is_open = self.open_for.load(Ordering::Acquire) == request;
        if !is_open || bytes.len() > HEAD_BYTES_MAX {
            return;
        }
        let mut fields = headers.clone();
        end_connection(&mut fields);
        let reason = status.canonical_reason().unwrap_or("Interim");
        bytes.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        for (name, value) in &fields {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        bytes.extend_from_slice(b"\r\n");
        drop(bytes);
        self.writer.wake();
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Why the request with this number (from 1) is to be refused.
    pub fn refused(&self, request: u64) -> Option<Violation> {
        self.violation
            .get()
            .filter(|_| self.stand_in.get() == request)
    }

    /// The request with this number, from 1, has come.
    pub fn on_request(&self, request: u64) {
        self.interim.open_for.store(request, Ordering::Release);
    }

    /// The request with this number is answered and the protocol stays.
    pub fn on_answer(&self, request: u64) {
        self.interim.open_for.store(0, Ordering::Release);
        self.answered.set(request);
        self.wake();
    }

    /// The protocol changes: from here on bytes pass as they are.
    pub fn on_upgrade(&self) {
        self.interim.open_for.store(0, Ordering::Release);
        self.is_open.set(true);
        self.wake();
    }

    /// The head that has begun did not come in time.
    pub fn on_late(&self) {
        self.is_late.set(true);
        // It was late once: hyper may not read for long, and the time must not be up again at once.
        self.head_since.set(None);
        self.wake();
    }

    /// When the head began that is not complete yet.
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since.get()
    }

    /// Whether the client has shut its side: nothing comes behind what has come.
    pub fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// Interim answers to write before anything else.
    pub fn interim(&self) -> &Arc<Interim> {
        &self.interim
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wait<T>(&self, cx: &Context<'_>) -> Poll<T> {
        *self.reader.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A connection with its guard.
pub struct Guarded<I> {
    io: I,
    guard: Guard,
    line: Rc<Line>,
    now: Box<dyn Fn() -> Instant>,
    /// What came and did not go on to hyper yet; the first `passing` bytes may.
    held: Vec<u8>,
    passing: usize,
    /// Whether bytes were held that the guard has not seen.
    is_unseen: bool,
    /// Whether hyper waits for bytes: it has asked for them since it flushed last.
    is_waiting: bool,
    /// Whether all that hyper wrote has left: only then may something be written in between.
    is_flushed: bool,
}

impl<I> Guarded<I> {
    /// Around a connection of which `taken` was read before.
    pub fn new(io: I, taken: &[u8], line: Rc<Line>, now: Box<dyn Fn() -> Instant>) -> Self {
        let mut this = Self {
            io,
            guard: Guard::default(),
            line,
            now,
            held: taken.to_vec(),
            passing: 0,
            is_unseen: false,
            is_waiting: false,
            is_flushed: true,
        };
        this.passing = this.guard.scan(&this.held);
        this.note();
        this
    }

    /// Writes down whether a head has begun.
    fn note(&self) {
        let is_waiting = self.guard.is_at_head() && self.held.len() > self.passing;
        match (is_waiting, self.line.head_since.get()) {
            (true, None) => self.line.head_since.set(Some((self.now)())),
            (false, Some(_)) => self.line.head_since.set(None),
            _ => {}
        }
    }

    /// Looks again at what is held, after something was decided.
    fn decide(&mut self) {
        // What may pass was scanned: only behind it does the guard go on.
        if self.passing == 0 && self.guard.is_undecided() {
            if self.line.is_open.get() {
                self.guard.open();
            } else if self.line.answered.get() >= self.guard.heads() {
                self.guard.resume();
            } else {
                return;
            }
            self.is_unseen = true;
        }
        if self.passing == 0 && std::mem::take(&mut self.is_unseen) {
            self.passing = self.guard.scan(&self.held);
            self.note();
        }
        if self.line.is_late.take() && self.guard.is_at_head() {
            self.guard.break_off(Violation::TooSlow);
        }
    }

    fn give(&mut self, buffer: &mut ReadBufCursor<'_>) {
        let count = self.passing.min(buffer.remaining());
        buffer.put_slice(&self.held[..count]);
        self.held.drain(..count);
        self.passing -= count;
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    /// Reads into hyper's buffer what may pass, and holds the rest. `Ready(false)`: nothing may.
    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<bool>>
    where
        I: Read + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let room = READ_BYTES.min(buffer.remaining());
            let mut read = ReadBuf::new(&mut scratch[..room]);
            ready!(Pin::new(&mut self.io).poll_read(cx, read.unfilled()))?;
            let came = read.filled();
            if came.is_empty() {
                self.line.has_ended.set(true);
                return Poll::Ready(Ok(true));
            }
            if self.held.is_empty() {
                // The usual case: it passes whole, without another copy.
                let count = self.guard.scan(came);
                buffer.put_slice(&came[..count]);
                self.held.extend_from_slice(&came[count..]);
                self.note();
                return Poll::Ready(Ok(count > 0));
            }
            self.held.extend_from_slice(came);
            self.passing = self.guard.scan(&self.held);
            self.note();
            Poll::Ready(Ok(false))
        })
    }
}

impl<I: Read + Unpin> Read for Guarded<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            this.decide();
            if this.passing > 0 {
                this.give(&mut buffer);
                return Poll::Ready(Ok(()));
            }
            if let Some((violation, in_body)) = this.guard.broken() {
                match this.refuse(violation, in_body) {
                    Refused::StandIn => continue,
                    Refused::Body(error) => return Poll::Ready(Err(error)),
                    Refused::Before => return this.line.wait(cx),
                }
            }
            if this.line.has_ended() {
                return Poll::Ready(Ok(()));
            }
            if this.guard.is_undecided() {
                return this.line.wait(cx);
            }
            if this.guard.is_open() {
                return Pin::new(&mut this.io).poll_read(cx, buffer);
            }
            let filled = this.fill(cx, &mut buffer);
            this.is_waiting = filled.is_pending();
            if ready!(filled)? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<I: Read + Unpin> Guarded<I> {
    /// Looks what the client does while nobody reads, since its request has come whole and is under
    /// way: what it sends is held within a bound, its end noted, and who is gone is an error.
    fn look_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let is_whole = self.guard.is_at_head() || self.guard.is_undecided();
        while is_whole && !self.line.has_ended() && self.held.len() < READ_BYTES {
            let count = self.held.len();
            let polled = SCRATCH.with_borrow_mut(|scratch| {
                let mut read = ReadBuf::new(&mut scratch[..READ_BYTES - count]);
                let polled = Pin::new(&mut self.io).poll_read(cx, read.unfilled());
                self.held.extend_from_slice(read.filled());
                polled
            });
            match polled? {
                Poll::Pending => break,
                Poll::Ready(()) if self.held.len() > count => self.is_unseen = true,
                // It has nothing to say in the protocol that it asked for.
                Poll::Ready(()) if count == 0 && self.guard.is_undecided() => {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                Poll::Ready(()) => self.line.has_ended.set(true),
            }
        }
        Ok(())
    }
}

/// What hyper gets in place of what was refused.
enum Refused {
    /// A request of our own.
    StandIn,
    /// An error inside a body.
    Body(io::Error),
    /// It was told before: nothing more comes.
    Before,
}

impl<I> Guarded<I> {
    fn refuse(&mut self, violation: Violation, in_body: bool) -> Refused {
        let line = &self.line;
        if line.violation.replace(Some(violation)).is_some() {
            return Refused::Before;
        }
        if in_body {
            return Refused::Body(io::Error::new(io::ErrorKind::InvalidData, violation.why()));
        }
        line.stand_in.set(self.guard.heads() + 1);
        line.head_since.set(None);
        self.held = STAND_IN.to_vec();
        self.passing = STAND_IN.len();
        Refused::StandIn
    }
}

impl<I: Write + Unpin> Guarded<I> {
    /// Writes interim answers that wait, if they fit here.
    fn write_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut interim = self.line.interim.bytes();
        while !interim.is_empty() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &interim))?;
            interim.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    fn before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_flushed {
            ready!(self.write_interim(cx))?;
        } else {
            self.line.interim.bytes().clear();
        }
        self.is_flushed = false;
        Poll::Ready(Ok(()))
    }
}

impl<I: Read + Write + Unpin> Write for Guarded<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.before_write(cx))?;
        Pin::new(&mut this.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.before_write(cx))?;
        Pin::new(&mut this.io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes when it has nothing left to write.
        this.is_flushed = true;
        ready!(this.write_interim(cx))?;
        this.line.interim.writer.register(cx.waker());
        // hyper flushes at each of its turns, behind its reading.
        if !std::mem::take(&mut this.is_waiting) {
            this.look_ahead(cx)?;
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
