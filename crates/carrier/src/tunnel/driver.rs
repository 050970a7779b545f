//! Moves a tunnel's bytes between its socket and its connection, and tells it the time.
//!
//! Knows no stream. One task a tunnel, woken when there is something to receive, to send or to be
//! late for; it sends after all streams that were ready before it have written, so that what they
//! wrote leaves in one call. A read or write is never cancelled: the socket is closed to end it.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hbone::Mono;
use netio::time::{Sleep, sleep_until};

use super::Tunnel;
use crate::limits::TUNNEL_WRITE_BYTES;
use crate::relay::abort;
use crate::relay::buffer::{Appetite, Buffers};

/// How long the last bytes of a closed tunnel (its GOAWAY) may take to leave.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// How often a tunnel that is not read looks whether it holds less, or has ended.
const HELD_BACK_LOOK: Duration = Duration::from_millis(100);

/// Bytes that a tunnel receives, or sends, before others run.
const QUOTA_BYTES: usize = 256 * 1_024;

/// Reads, or writes, before others run, however small they are.
const QUOTA_CALLS: u8 = 8;

/// Runs a tunnel to its end.
pub async fn drive(tunnel: &Rc<Tunnel>, buffers: &Buffers) {
    // The client's first flight waits already.
    tunnel.pump();
    let mut driver = Driver {
        tunnel,
        buffers,
        appetite: Appetite::default(),
        out: Vec::new(),
        sent: 0,
        blocked: false,
        timer: None,
        flushed_by: None,
    };
    poll_fn(|cx| driver.poll(cx)).await;
}

struct Driver<'a> {
    tunnel: &'a Rc<Tunnel>,
    buffers: &'a Buffers,
    /// Of the next read.
    appetite: Appetite,
    /// Ciphertext, of which the first `sent` bytes have left.
    out: Vec<u8>,
    sent: usize,
    /// The socket had no room at the last call.
    blocked: bool,
    /// The next thing to be late for.
    timer: Option<(Mono, Pin<Box<Sleep>>)>,
    /// When a closed tunnel gives up sending.
    flushed_by: Option<Mono>,
}

/// Whether something goes on by itself.
#[derive(PartialEq, Eq)]
enum Turn {
    /// It waits for the kernel or for somebody else.
    Waits,
    /// Its share is used up, and there may be more.
    Again,
}

impl Driver<'_> {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.tunnel.take_requests();
        let read = self.receive(cx);
        // Whatever it was set for until now is seen to below.
        self.tunnel.send.clear();
        let written = match self.transmit(cx) {
            Ok(turn) => turn,
            Err(_) => {
                self.tunnel.lost();
                return self.end();
            }
        };
        if self.out.is_empty() && self.tunnel.connection.borrow().is_finished() {
            return self.end();
        }
        let over = self.keep_time(cx);
        let signalled = self.tunnel.send.poll(cx).is_ready();
        let signalled = signalled || self.tunnel.connection.borrow().request_waits();
        if signalled || read == Turn::Again || written == Turn::Again {
            cx.waker().wake_by_ref();
        }
        over
    }

    /// Nothing is sent any more; whoever still writes here hears of it from the connection.
    fn end(&mut self) -> Poll<()> {
        // What the peer still sends has nobody to read it.
        let _ = self.tunnel.socket.shutdown_both();
        if !self.tunnel.connection.borrow().is_closed() {
            self.tunnel.lost();
        }
        Poll::Ready(())
    }

    fn receive(&mut self, cx: &Context<'_>) -> Turn {
        let tunnel = self.tunnel;
        let mut quota = QUOTA_BYTES;
        for _ in 0..QUOTA_CALLS {
            let stop = tunnel.connection.borrow().is_closed() || tunnel.is_held_back();
            if stop || tunnel.socket.poll_readable(cx).is_pending() {
                return Turn::Waits;
            }
            let mut buffer = self.buffers.take(self.appetite.size());
            let room = buffer.capacity();
            let outcome = tunnel.socket.try_read(&mut buffer);
            let now = tunnel.clock.now();
            match outcome {
                Ok(count @ 1..) => {
                    self.appetite.note(count, room);
                    tunnel
                        .connection
                        .borrow_mut()
                        .handle_input(now, &mut buffer);
                    quota = quota.saturating_sub(count);
                }
                Err(ref error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => tunnel.connection.borrow_mut().handle_eof(now),
            }
            self.buffers.give(buffer);
            tunnel.pump();
            if quota == 0 {
                break;
            }
        }
        Turn::Again
    }

    fn transmit(&mut self, cx: &Context<'_>) -> io::Result<Turn> {
        let tunnel = self.tunnel;
        let mut quota = QUOTA_BYTES;
        for _ in 0..QUOTA_CALLS {
            if self.sent == self.out.len() && !self.seal() {
                return Ok(Turn::Waits);
            }
            if self.blocked && tunnel.socket.poll_writable(cx).is_pending() {
                return Ok(Turn::Waits);
            }
            self.blocked = false;
            match tunnel.socket.try_write(&self.out[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    quota = quota.saturating_sub(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(error) => return Err(error),
            }
            if quota == 0 {
                break;
            }
        }
        Ok(Turn::Again)
    }

    /// Takes what waits to be sent; false when that is nothing, and then it holds no memory for it.
    fn seal(&mut self) -> bool {
        self.out.clear();
        self.sent = 0;
        if self.take_sealed() {
            // Whoever waited for room in the backlog has it now.
            self.tunnel.pump();
            return true;
        }
        self.buffers.give(std::mem::take(&mut self.out));
        false
    }

    fn take_sealed(&mut self) -> bool {
        let mut connection = self.tunnel.connection.borrow_mut();
        if !connection.wants_transmit() {
            return false;
        }
        if self.out.capacity() == 0 {
            let waiting = connection.backlog_bytes();
            self.out = self.buffers.take_for_sealing(waiting);
        }
        let now = self.tunnel.clock.now();
        connection.poll_transmit(now, &mut self.out, TUNNEL_WRITE_BYTES) > 0
    }

    /// Sees to what is due, and waits for what is due next.
    fn keep_time(&mut self, cx: &Context<'_>) -> Poll<()> {
        loop {
            let now = self.tunnel.clock.now();
            if self.flushed_by.is_some_and(|at| at <= now) {
                abort(&self.tunnel.socket);
                return self.end();
            }
            let next = self.next_time(now);
            self.tunnel.armed.set(next);
            let Some(at) = next else {
                self.timer = None;
                return Poll::Pending;
            };
            let timer = self.timer_for(at);
            if timer
                .as_mut()
                .poll(&mut Context::from_waker(cx.waker()))
                .is_pending()
            {
                return Poll::Pending;
            }
            self.timer = None;
            self.tunnel.is_late(self.tunnel.clock.now());
            if self.out.is_empty() && self.tunnel.connection.borrow().is_at_rest() {
                self.out = Vec::new();
            }
        }
    }

    /// An earlier timer than asked for is kept: it is looked at again when it wakes.
    fn timer_for(&mut self, at: Mono) -> &mut Pin<Box<Sleep>> {
        if self.timer.as_ref().is_some_and(|(armed, _)| *armed > at) {
            self.timer = None;
        }
        let clock = self.tunnel.clock;
        let (_, timer) = self
            .timer
            .get_or_insert_with(|| (at, Box::pin(sleep_until(clock.instant(at)))));
        timer
    }

    fn next_time(&mut self, now: Mono) -> Option<Mono> {
        let tunnel = self.tunnel;
        if tunnel.connection.borrow().is_closed() {
            let by = self.flushed_by.get_or_insert(now.plus(FLUSH_WAIT));
            return Some(*by);
        }
        let held_back = tunnel.is_held_back().then(|| now.plus(HELD_BACK_LOOK));
        let timeout = tunnel.connection.borrow().poll_timeout();
        [
            timeout,
            tunnel.idle_until(),
            held_back,
            tunnel.ends_at.get(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
