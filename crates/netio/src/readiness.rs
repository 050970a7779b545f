//! A descriptor in the epoll set of this thread's runtime. It must not read or write it.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the tokio runtime of this thread. Executors of this crate have none.
///
/// # Errors
/// EPERM for a regular file or directory, which epoll does not watch; ENOSPC at the limit of
/// watches.
///
/// # Panics
/// Outside of a runtime.
pub fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the registration takes the descriptor by value and OwnedFd gives out its number only
    // as long as it lives, so the number keeps meaning this file until AsyncFd has removed it from
    // the epoll set.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
