//! One direction of a relay, from its first byte to its end. Knows no other direction.
//!
//! ```text
//!   Waiting --readable--> Ready --room, read--> Holding --written--> Waiting
//!      \                    \--the end--> Over
//! ```
//! Only `Holding` has memory. Bytes of a socket that nobody has room for stay in the socket.

use std::cell::Cell;
use std::io;
use std::task::{Context, Poll, ready};

use super::buffer::{Appetite, Buffers};
use super::end::{Chunk, End};
use super::{EndError, Pulse};

/// Bytes that a way moves before it lets others run: a worker with an elephant and a small flow
/// comes back to the small one within the tenth of a millisecond that this takes.
const QUOTA_BYTES: usize = 256 * 1_024;

/// Moves that a way makes before it lets others run, however small they are.
const QUOTA_MOVES: u8 = 16;

/// Which side of one direction broke.
pub(super) enum Broken {
    From(EndError),
    To(EndError),
}

/// One direction.
#[derive(Default)]
pub(super) struct Way {
    stage: Stage,
    /// What was read and not written.
    chunk: Chunk,
    appetite: Appetite,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Waiting,
    /// Its source has something, which is on its way from here on.
    Ready,
    Holding,
    Over,
}

/// What became of one step.
enum Step {
    Moved(usize),
    Nothing,
    End,
}

impl Way {
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Moves what can be moved now. Ready once, at the end; `Some` when that was no orderly
    /// half-close.
    pub(super) fn poll(
        &mut self,
        cx: &Context<'_>,
        (from, to): (&End, &End),
        (count, pulse): (&Cell<u64>, &Pulse),
        buffers: &Buffers,
    ) -> Poll<Option<Broken>> {
        if self.is_over() {
            return Poll::Pending;
        }
        let mut quota = QUOTA_BYTES;
        for _ in 0..QUOTA_MOVES {
            match ready!(self.step(cx, (from, to), pulse, buffers)) {
                Ok(Step::Moved(bytes)) => {
                    count.set(count.get() + bytes as u64);
                    quota = quota.saturating_sub(bytes);
                    if quota == 0 {
                        break;
                    }
                }
                Ok(Step::Nothing) => {}
                Ok(Step::End) => {
                    self.stage = Stage::Over;
                    pulse.is_open.set(false);
                    return Poll::Ready(to.finish().err().map(|error| Broken::To(error.into())));
                }
                Err(broken) => {
                    self.stage = Stage::Over;
                    return Poll::Ready(Some(broken));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn step(
        &mut self,
        cx: &Context<'_>,
        (from, to): (&End, &End),
        pulse: &Pulse,
        buffers: &Buffers,
    ) -> Poll<Result<Step, Broken>> {
        if self.stage == Stage::Waiting {
            ready!(from.poll_ready(cx));
            // What waits in a socket may wait for room; it counts as on its way.
            self.stage = Stage::Ready;
            pulse.begins();
        }
        if self.stage == Stage::Ready {
            // Before the read: what cannot be taken is left with the sender.
            let room = match ready!(to.poll_room(cx)) {
                Ok(room) => room,
                Err(error) => return Poll::Ready(Err(Broken::To(error))),
            };
            let size = self.appetite.size();
            let room = room.min(size.bytes());
            match from.take(to, (size.within(room), room), buffers) {
                Ok(Some(chunk)) => {
                    self.appetite.note(chunk.bytes(), room);
                    self.chunk = chunk;
                    self.stage = Stage::Holding;
                }
                Ok(None) => return Poll::Ready(Ok(Step::End)),
                Err(EndError::Tcp(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stage = Stage::Waiting;
                    pulse.arrived();
                    return Poll::Ready(Ok(Step::Nothing));
                }
                Err(error) => return Poll::Ready(Err(Broken::From(error))),
            }
        }
        match ready!(to.poll_write(cx, &mut self.chunk)) {
            Ok(bytes) => {
                // The memory, unless it went along with the bytes.
                from.recycle(std::mem::take(&mut self.chunk), buffers);
                self.stage = Stage::Waiting;
                pulse.arrived();
                from.taken(bytes);
                Poll::Ready(Ok(Step::Moved(bytes)))
            }
            Err(error) => Poll::Ready(Err(Broken::To(error))),
        }
    }
}
