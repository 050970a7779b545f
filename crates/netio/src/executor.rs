//! One thread that runs local tasks, sockets and timers, on either back end.
//!
//! Both back ends are a tokio current-thread runtime with its timers and its epoll set, so
//! `tokio::time`, `tokio::sync` and `AsyncFd` work alike; io_uring adds a ring whose descriptor
//! sits in that epoll set. It must not know what the tasks do.

mod scope;

use std::cell::Cell;
use std::future::Future;
use std::io;

use tokio::task::LocalSet;

use crate::Backend;

pub use scope::{Scope, ScopeFull, Spawner};

/// Submission entries of a worker's ring: how many operations may be started between two system
/// calls before one is forced. 64 bytes each, 16 KiB in all.
pub const RING_ENTRIES: u32 = 256;
/// Completion entries of a worker's ring, 16 bytes each, 16 KiB in all. The kernel keeps what does
/// not fit (IORING_FEAT_NODROP, Linux 5.5), so this bounds memory and not the number of operations
/// in flight.
pub const COMPLETION_ENTRIES: u32 = 1024;

thread_local! {
    static CURRENT: Cell<Option<Backend>> = const { Cell::new(None) };
}

/// Runs `future` and all tasks of its scopes on the calling thread until `future` is done.
///
/// Tasks that are left then are dropped, which closes their sockets.
///
/// # Errors
/// When the runtime or the ring cannot be made (descriptors, memory, or a forbidden io_uring:
/// [`crate::probe`] first).
///
/// # Panics
/// When called from inside an executor or a tokio runtime, and when `future` panics.
pub fn run<F: Future>(backend: Backend, future: F) -> io::Result<F::Output> {
    let _mark = Mark::set(backend);
    match backend {
        Backend::IoUring => {
            let mut builder = tokio_uring::builder();
            builder.entries(RING_ENTRIES).uring_builder(&ring_builder());
            let runtime = tokio_uring::Runtime::new(&builder)?;
            Ok(runtime.block_on(future))
        }
        Backend::Epoll => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let tasks = LocalSet::new();
            Ok(tasks.block_on(&runtime, future))
        }
    }
}

/// The back end of the executor that runs on this thread. Under a foreign tokio runtime it is
/// epoll.
#[must_use]
pub fn current() -> Backend {
    CURRENT.get().unwrap_or(Backend::Epoll)
}

/// Lets the other tasks of this thread run, and the ring be flushed.
///
/// tokio-uring hands its entries to the kernel only when the runtime parks, and tokio (1.54) does
/// not park while some task is ready: with a plain yield one busy connection keeps every other one
/// waiting for ever. An empty operation comes back only after a flush, so the runtime has to park
/// for it, and then everything before it was flushed too.
///
/// So a task that loops without waiting must use this, not `tokio::task::yield_now`.
pub async fn yield_now() {
    match current() {
        Backend::IoUring => {
            let _ = tokio_uring::no_op().await;
        }
        Backend::Epoll => tokio::task::yield_now().await,
    }
}

pub(crate) fn ring_builder() -> io_uring::Builder {
    let mut builder = io_uring::IoUring::builder();
    builder.setup_cqsize(COMPLETION_ENTRIES);
    builder
}

struct Mark {
    before: Option<Backend>,
}

impl Mark {
    fn set(backend: Backend) -> Self {
        Self {
            before: CURRENT.replace(Some(backend)),
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}
