//! One stream of a tunnel, as the relay uses it: bytes in, bytes out, window credit, half-close,
//! reset. Knows neither TLS nor frames.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use hbone::{ConnectResponse, ErrorCode, RespondError, StreamId};
use netio::time::timeout;

use super::Tunnel;
use crate::limits::RESPONSE_TIMEOUT;
use crate::relay::buffer::Size;

/// There is something to read, or to look at.
const READ: u8 = 1;
/// There may be room to write.
const WRITE: u8 = 2;
/// Somebody waits for [`READ`] or [`WRITE`]: those, so much to the left.
const WAITS: u8 = 2;
/// The peer's last byte was taken.
const FINISHED: u8 = 16;

/// What the tunnel has told of a stream. One task reads and writes it, so there is one waker.
#[derive(Default)]
pub(super) struct State {
    waiter: Cell<Option<Waker>>,
    /// Boxed: it is there for a moment only.
    response: Cell<Option<Box<ConnectResponse>>>,
    reset: Cell<Option<ErrorCode>>,
    marks: Cell<u8>,
}

impl State {
    /// Remembers it until it is waited for, and wakes whoever waits for it now.
    fn set(&self, mark: u8) {
        let marks = self.marks.get() | mark;
        self.marks.set(marks);
        if marks & (mark << WAITS) != 0
            && let Some(waiter) = self.waiter.take()
        {
            self.marks.set(marks & !((READ | WRITE) << WAITS));
            waiter.wake();
        }
    }

    fn poll(&self, mark: u8, cx: &Context<'_>) -> Poll<()> {
        let marks = self.marks.get();
        if marks & mark != 0 {
            self.marks.set(marks & !(mark | mark << WAITS));
            return Poll::Ready(());
        }
        self.marks.set(marks | mark << WAITS);
        let waiter = self.waiter.take();
        let same = waiter.filter(|waiter| waiter.will_wake(cx.waker()));
        self.waiter
            .set(Some(same.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }
}

/// The stream is over at once, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// By the peer, or with its tunnel.
    #[error("stream reset: {0}")]
    Reset(ErrorCode),
    /// The peer did not answer the CONNECT in time.
    #[error("no answer to CONNECT within {} s", RESPONSE_TIMEOUT.as_secs())]
    Silent,
}

/// A stream. It is reset when dropped before both directions have ended. One task at a time reads
/// and writes it: of several that wait only the last one would be woken.
pub struct TunnelStream {
    tunnel: Rc<Tunnel>,
    id: StreamId,
    state: State,
}

impl TunnelStream {
    pub(super) fn new(tunnel: Rc<Tunnel>, id: StreamId) -> Self {
        Self {
            tunnel,
            id,
            state: State::default(),
        }
    }

    pub(super) fn answered(&self, response: ConnectResponse) {
        self.state.response.set(Some(Box::new(response)));
        self.wake();
    }

    pub(super) fn readable(&self) {
        self.state.set(READ);
    }

    pub(super) fn writable(&self) {
        self.state.set(WRITE);
    }

    pub(super) fn finished(&self) {
        self.state.set(READ | FINISHED);
    }

    pub(super) fn was_reset(&self, code: ErrorCode) {
        self.state.reset.set(Some(code));
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.state.set(READ | WRITE);
    }

    fn reset_code(&self) -> Option<ErrorCode> {
        self.state.reset.get()
    }

    /// The tunnel that carries it.
    pub fn tunnel(&self) -> &Rc<Tunnel> {
        &self.tunnel
    }

    /// Waits for the answer to the CONNECT.
    ///
    /// # Errors
    /// Reset, or nothing for [`RESPONSE_TIMEOUT`].
    pub async fn response(&self) -> Result<ConnectResponse, StreamError> {
        let answer = async {
            loop {
                if let Some(response) = self.state.response.take() {
                    // What came with it was told by the same mark.
                    self.state.set(READ);
                    return Ok(*response);
                }
                self.alive()?;
                poll_fn(|cx| self.poll_ready(cx)).await;
            }
        };
        timeout(RESPONSE_TIMEOUT, answer)
            .await
            .unwrap_or(Err(StreamError::Silent))
    }

    /// Answers the CONNECT of the peer. Any other status than 200 ends the stream.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn respond(&self, response: &ConnectResponse) -> Result<(), RespondError> {
        let sent = self
            .tunnel
            .connection
            .borrow_mut()
            .respond(self.id, response);
        self.tunnel.pump();
        sent
    }

    /// Waits until the peer, or the end of the tunnel, has reset it. For whoever sets up the far
    /// end before an answer; nobody may wait for room meanwhile.
    pub fn poll_reset(&self, cx: &Context<'_>) -> Poll<StreamError> {
        loop {
            if let Err(error) = self.alive() {
                return Poll::Ready(error);
            }
            ready!(self.state.poll(WRITE, cx));
        }
    }

    /// Waits until the stream takes bytes, and says how many (more than zero).
    ///
    /// # Errors
    /// Reset.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<usize, StreamError>> {
        loop {
            self.alive()?;
            let room = self.tunnel.connection.borrow_mut().writable_bytes(self.id);
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            ready!(self.state.poll(WRITE, cx));
        }
    }

    /// Sends a buffer whose first [`hbone::FRAME_HEADROOM`] bytes are left empty. To be called
    /// when there is room for it ([`Self::poll_room`]).
    ///
    /// # Errors
    /// Reset.
    pub fn write(&self, buffer: Vec<u8>) -> Result<(), StreamError> {
        let written = self
            .tunnel
            .connection
            .borrow_mut()
            .write_buffer(self.id, buffer);
        self.tunnel.pump();
        written.map_err(|_| self.gone())
    }

    /// Memory for a [`Self::write`], used before if there is some.
    pub fn spare_buffer(&self, size: Size) -> Vec<u8> {
        let bytes = size.capacity_bytes();
        self.tunnel.connection.borrow_mut().spare_buffer(bytes)
    }

    /// Gives the memory of a [`Self::take`] back.
    pub fn recycle(&self, buffer: Vec<u8>) {
        self.tunnel.connection.borrow_mut().recycle(buffer);
    }

    /// Waits until [`Self::take`] is worth a call.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.state.poll(READ, cx)
    }

    /// Makes the next [`Self::poll_ready`] return at once: for whoever waited for it and leaves
    /// what it announced to somebody else.
    pub fn look_again(&self) {
        self.state.set(READ);
    }

    /// All bytes that have come; None when there are none now, or never again
    /// ([`Self::is_finished`]).
    ///
    /// # Errors
    /// Reset.
    pub fn take(&self) -> Result<Option<Vec<u8>>, StreamError> {
        let data = self.tunnel.connection.borrow_mut().read(self.id);
        if data.is_some() {
            // It may be the read that makes the stream finished. Nothing else changes by it.
            if self.tunnel.hear() {
                self.tunnel.remind();
            }
        } else if !self.is_finished() {
            self.alive()?;
        }
        Ok(data)
    }

    /// Whether the peer's last byte was taken.
    pub fn is_finished(&self) -> bool {
        self.state.marks.get() & FINISHED != 0
    }

    /// The application's socket took so many bytes: the peer may send as many more.
    pub fn consumed(&self, bytes: usize) {
        self.tunnel.connection.borrow_mut().consumed(self.id, bytes);
        self.tunnel.pump();
    }

    /// Half-close: nothing is written after what was written.
    pub fn finish(&self) {
        self.tunnel.connection.borrow_mut().finish(self.id);
        self.tunnel.pump();
    }

    /// Ends it now, in both directions; whoever waits on it comes back.
    pub fn reset(&self, code: ErrorCode) {
        if self.reset_code().is_none() {
            self.tunnel.connection.borrow_mut().reset(self.id, code);
            self.was_reset(code);
            self.tunnel.pump();
        }
    }

    fn alive(&self) -> Result<(), StreamError> {
        self.reset_code()
            .map_or(Ok(()), |code| Err(StreamError::Reset(code)))
    }

    fn gone(&self) -> StreamError {
        StreamError::Reset(self.reset_code().unwrap_or(ErrorCode::STREAM_CLOSED))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.tunnel.release(self.id);
    }
}
