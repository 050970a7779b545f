//! Moves a tunnel's bytes between its socket and its connection, and tells it the time.
//!
//! Knows no stream. A read or write is never cancelled: the socket is closed to end it.

use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use netio::time::{sleep, sleep_until};

use super::Tunnel;
use crate::limits::{BUFFER_SMALL_BYTES, TUNNEL_WRITE_BYTES};
use crate::relay::abort;
use crate::relay::buffer::{Buffers, Size};

/// How long the last bytes of a closed tunnel (its GOAWAY) may take to leave.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// How often a tunnel that is not read looks whether it has ended, or holds less.
const HELD_BACK_LOOK: Duration = Duration::from_millis(100);

/// Runs a tunnel to its end.
pub async fn drive(tunnel: &Rc<Tunnel>, buffers: &Buffers) {
    // The client's first flight waits already.
    tunnel.pump();
    futures::join!(read(tunnel, buffers), write(tunnel), keep_time(tunnel));
}

async fn read(tunnel: &Rc<Tunnel>, buffers: &Buffers) {
    let mut size = Size::default();
    while !tunnel.connection.borrow().is_closed() {
        if is_held_back(tunnel) {
            // On the heap: this is rare, and a tunnel's future shall be small.
            Box::pin(may_read(tunnel)).await;
        }
        let outcome = match tunnel.socket.readable().await {
            Ok(()) => {
                let (outcome, mut buffer) = tunnel.socket.read(buffers.take(size)).await;
                if let Ok(count @ 1..) = outcome {
                    size = size.after(count);
                    let now = tunnel.clock.now();
                    tunnel
                        .connection
                        .borrow_mut()
                        .handle_input(now, &mut buffer);
                }
                buffers.give(buffer);
                outcome
            }
            Err(error) => Err(error),
        };
        if !matches!(outcome, Ok(1..)) {
            let now = tunnel.clock.now();
            tunnel.connection.borrow_mut().handle_eof(now);
        }
        tunnel.pump();
    }
}

/// Waits while the tunnel holds more than its share of an exceeded budget: what is not read stays
/// with the peer. Its silence ends the tunnel if that lasts.
async fn may_read(tunnel: &Tunnel) {
    while is_held_back(tunnel) && !tunnel.connection.borrow().is_closed() {
        let relieved = std::pin::pin!(tunnel.budget.relieved());
        let timer = std::pin::pin!(sleep(HELD_BACK_LOOK));
        select(relieved, timer).await;
    }
}

fn is_held_back(tunnel: &Tunnel) -> bool {
    tunnel.budget.holds_back(tunnel.buffered_bytes.get())
}

async fn write(tunnel: &Rc<Tunnel>) {
    let mut out = Vec::new();
    loop {
        out.clear();
        let now = tunnel.clock.now();
        let transmit = |out| {
            tunnel
                .connection
                .borrow_mut()
                .poll_transmit(now, out, TUNNEL_WRITE_BYTES)
        };
        if transmit(&mut out) > 0 {
            tunnel.pump();
            let (outcome, spent) = tunnel.socket.write_all(out).await;
            out = spent;
            if outcome.is_err() {
                let now = tunnel.clock.now();
                tunnel.connection.borrow_mut().handle_eof(now);
                tunnel.pump();
                break;
            }
            continue;
        }
        if tunnel.connection.borrow().is_finished() {
            break;
        }
        if !tunnel.send.is_set() && out.capacity() > BUFFER_SMALL_BYTES {
            // At rest it holds little; while data flows it keeps its memory.
            out = Vec::new();
        }
        tunnel.send.wait().await;
    }
    tunnel.over.set(true);
    tunnel.retime.set();
    // Ends a pending read of the reader.
    let _ = tunnel.socket.shutdown_both();
}

async fn keep_time(tunnel: &Rc<Tunnel>) {
    while !tunnel.over.get() {
        let closed = tunnel.connection.borrow().is_closed();
        if closed {
            flush(tunnel).await;
            return;
        }
        let now = tunnel.clock.now();
        if tunnel.idle_until().is_some_and(|until| until <= now) {
            // Gracefully: the peer may be asking for a stream right now. Looked at again after
            // another such time, should the drain not have ended by then.
            tunnel.idle_since.set(Some(now));
            tunnel.drain();
            continue;
        }
        let timeout = tunnel.connection.borrow().poll_timeout();
        if timeout.is_some_and(|at| at <= now) {
            tunnel.connection.borrow_mut().handle_timeout(now);
            tunnel.pump();
            continue;
        }
        let next = [timeout, tunnel.idle_until()].into_iter().flatten().min();
        tunnel.armed.set(next);
        let retime = std::pin::pin!(tunnel.retime.wait());
        match next {
            Some(at) => {
                let timer = std::pin::pin!(sleep_until(tunnel.clock.instant(at)));
                match select(retime, timer).await {
                    Either::Left(_) | Either::Right(_) => {}
                }
            }
            None => retime.await,
        }
    }
}

/// Lets the writer end by itself for a moment, then resets the socket under it.
async fn flush(tunnel: &Rc<Tunnel>) {
    let timer = std::pin::pin!(sleep(FLUSH_WAIT));
    let ended = std::pin::pin!(async {
        while !tunnel.over.get() {
            tunnel.retime.wait().await;
        }
    });
    if let Either::Left(_) = select(timer, ended).await {
        abort(&tunnel.socket);
    }
}
