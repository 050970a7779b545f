//! One thread that runs local tasks, timers and sockets, on either back end.
//!
//! The executor is the crate's own: a queue of ready tasks, a map of timers, and a driver (a ring
//! or an epoll set) whose wait is the only system call between two busy spells. tokio's runtime
//! would add its own epoll_wait to every wake-up of a ring. What is independent of a runtime
//! (`tokio::sync`, `tokio::select!`, `futures`) works here; timers are those of [`crate::time`].
//! It must not know what the tasks do.

pub(crate) mod core;
mod scope;
mod spin;
pub(crate) mod task;
pub(crate) mod timer;

use std::future::{Future, poll_fn};
use std::io;
use std::task::Poll;

use crate::Backend;

pub use scope::{Scope, ScopeFull, Spawner};
pub use spin::{SPIN_MAX, Spin, UnknownSpin, set_spin, spin, spin_by_default};

/// Runs `future` and all tasks of its scopes on the calling thread until `future` is done.
///
/// Tasks that are left then are dropped, which closes their sockets.
///
/// # Errors
/// When the driver cannot be made (descriptors, memory, or a forbidden io_uring: [`crate::probe`]
/// first).
///
/// # Panics
/// When called from inside an executor, and when `future` panics.
pub fn run<F: Future>(backend: Backend, future: F) -> io::Result<F::Output> {
    let entered = core::Core::enter(backend)?;
    entered.block_on(future)
}

/// The back end of the executor that runs on this thread.
///
/// # Panics
/// Outside of [`run`].
#[must_use]
pub fn current() -> Backend {
    core::here().backend()
}

/// Lets the other tasks of this thread run, and the driver look for what has come meanwhile.
///
/// A task that loops without waiting must use this, or it has the worker to itself.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
