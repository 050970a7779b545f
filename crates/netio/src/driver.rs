//! What an executor waits in: a ring or an epoll set, behind the same few verbs.
//!
//! It must not know of tasks, only of wakers.

pub(crate) mod epoll;
pub(crate) mod ring;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::Backend;
use crate::executor::core::here;
use crate::executor::task::Shared;

use epoll::{Epoll, Registered};
use ring::Ring;
use ring::watch::Watch;

/// How long a look at the driver may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Only what has come.
    No,
    /// Until something comes, or the bell rings.
    Forever,
    /// As long as this at most.
    AtMost(Duration),
}

/// The driver of one thread.
pub(crate) enum Driver {
    Ring(Rc<Ring>),
    Epoll(Rc<Epoll>),
}

impl Driver {
    pub(crate) fn new(backend: Backend, shared: &Arc<Shared>) -> io::Result<Self> {
        Ok(match backend {
            Backend::IoUring => Self::Ring(Ring::new(shared)?),
            Backend::Epoll => Self::Epoll(Epoll::new(shared)?),
        })
    }

    /// Hands over what was asked for, waits as long as it may, wakes whom it concerns.
    pub(crate) fn turn(&self, wait: Wait) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.turn(wait),
            Self::Epoll(epoll) => epoll.turn(wait),
        }
    }

    /// Whether a turn without waiting would find something, as far as it can be told without a
    /// system call; an epoll set has to be asked.
    pub(crate) fn has_come(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.has_come(),
            Self::Epoll(_) => true,
        }
    }

    /// Gives memory back that only a busy driver needs; whether there was some.
    pub(crate) fn release_buffers(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.release_buffers(),
            Self::Epoll(_) => false,
        }
    }

    /// Ends what is in flight, before its memory and descriptors go.
    pub(crate) fn shut_down(&self) {
        if let Self::Ring(ring) = self {
            ring.shut_down();
        }
    }
}

/// A descriptor whose readiness is waited for: a listener, or a socket that connects.
#[derive(Debug)]
pub(crate) enum Watched {
    Ring(Watch),
    Epoll(Registered),
}

impl Watched {
    /// Watches it with the driver of this thread. The descriptor must not be in non-blocking mode
    /// for reasons of the driver's: it never reads or writes it.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(match here().driver() {
            Driver::Ring(ring) => Self::Ring(Watch::new(Rc::clone(ring), fd)),
            Driver::Epoll(epoll) => Self::Epoll(Registered::new(Rc::clone(epoll), fd)?),
        })
    }

    /// Waits until it was readable since the last [`Watched::not_readable`]. May be dropped.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Ring(watch) => watch.ready(ring::POLL_READABLE).await,
            Self::Epoll(registered) => {
                registered.readable().await;
                Ok(())
            }
        }
    }

    /// Waits until it is writable. May be dropped.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Ring(watch) => watch.ready(ring::POLL_WRITABLE).await,
            Self::Epoll(registered) => {
                registered.writable().await;
                Ok(())
            }
        }
    }

    /// Whether an error may wait in it, once it was writable.
    pub(crate) fn may_be_broken(&self) -> bool {
        match self {
            Self::Ring(_) => true,
            Self::Epoll(registered) => registered.is_broken(),
        }
    }

    /// It was seen that there is nothing to read.
    pub(crate) fn not_readable(&self) {
        match self {
            Self::Ring(watch) => watch.clear(),
            Self::Epoll(registered) => registered.clear_readable(),
        }
    }

    /// Something was read, and there may be more. A ring asks the kernel again, which goes with its
    /// next wait, where a read in vain would be a system call.
    pub(crate) fn maybe_readable(&self) {
        if let Self::Ring(watch) = self {
            watch.clear();
        }
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Ring(watch) => watch.as_fd(),
            Self::Epoll(registered) => registered.as_fd(),
        }
    }
}
