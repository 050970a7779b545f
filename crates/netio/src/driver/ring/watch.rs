//! Readiness of a descriptor by a poll in the ring. Reads and writes nothing.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use io_uring::{opcode, types};

use super::Ring;
use super::operation::Operation;

/// What a poll in flight uses.
pub(crate) struct Watching {
    fd: OwnedFd,
    state: Cell<State>,
    waiter: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// A poll is in the ring, under this number.
    Armed(u64),
    /// It has ended with events, or below zero with an errno.
    Fired(i32),
}

impl Watching {
    pub(super) fn fired(&self, result: i32) {
        self.state.set(State::Fired(result));
        let waiter = self.waiter.take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// A descriptor that is waited for. Dropping it cancels the poll and closes the descriptor.
pub(crate) struct Watch {
    ring: Rc<Ring>,
    watching: Rc<Watching>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("fd", &self.watching.fd)
            .finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn new(ring: Rc<Ring>, fd: OwnedFd) -> Self {
        let watching = Rc::new(Watching {
            fd,
            state: Cell::new(State::Idle),
            waiter: RefCell::default(),
        });
        Self { ring, watching }
    }

    /// Waits until one of the events was there since the last [`Watch::clear`]. The events must be
    /// the same every time.
    pub(crate) async fn ready(&self, events: u32) -> io::Result<()> {
        poll_fn(|cx| {
            match self.watching.state.get() {
                State::Fired(errno @ ..0) => {
                    self.watching.state.set(State::Idle);
                    return Poll::Ready(Err(io::Error::from_raw_os_error(-errno)));
                }
                State::Fired(_) => return Poll::Ready(Ok(())),
                State::Armed(_) => {}
                State::Idle => self.arm(events),
            }
            *self.watching.waiter.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The next wait asks the kernel again.
    pub(crate) fn clear(&self) {
        if let State::Fired(_) = self.watching.state.get() {
            self.watching.state.set(State::Idle);
        }
    }

    /// The descriptor, when no poll is in flight.
    pub(crate) fn into_fd(self) -> Option<OwnedFd> {
        let watching = Rc::clone(&self.watching);
        drop(self);
        Rc::into_inner(watching).map(|watching| watching.fd)
    }

    fn arm(&self, events: u32) {
        let fd = types::Fd(self.watching.fd.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, events).build();
        // SAFETY: the entry names no memory, and the operation owns the descriptor.
        let key = unsafe {
            self.ring
                .start(Operation::Watch(Rc::clone(&self.watching)), entry)
        };
        self.watching.state.set(State::Armed(key));
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watching.fd.as_fd()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let State::Armed(key) = self.watching.state.get() {
            self.ring.cancel(key);
        }
    }
}
