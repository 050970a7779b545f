//! Readiness by epoll, edge-triggered: one registration a descriptor for its whole life.
//!
//! It must not read or write what it watches, except for the bell.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nix::errno::Errno;
use nix::sys::epoll::{EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;

use super::Wait;
use crate::executor::task::Shared;

/// Events taken by one epoll_wait, 12 bytes each: 3 KiB.
const EVENTS: usize = 256;

/// Number of the bell.
const BELL: u64 = u64::MAX;

/// Ready to be read, or the end or an error waits there.
const READ: u8 = 1;
/// Ready to be written, or an error waits there.
const WRITE: u8 = 2;
/// No more data will come: the end or an error. Never forgotten, for its edge does not come twice.
const READ_END: u8 = 4;
/// Writing is over.
const WRITE_END: u8 = 8;

/// An epoll set and who waits for what in it.
pub(crate) struct Epoll {
    set: nix::sys::epoll::Epoll,
    slots: RefCell<Slab<Rc<Slot>>>,
    events: RefCell<Vec<EpollEvent>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Slot {
    ready: Cell<u8>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

impl Epoll {
    pub(super) fn new(shared: &Arc<Shared>) -> io::Result<Rc<Self>> {
        let set = nix::sys::epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        set.add(shared.bell(), EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        Ok(Rc::new(Self {
            set,
            slots: RefCell::default(),
            events: RefCell::new(vec![EpollEvent::empty(); EVENTS]),
            shared: Arc::clone(shared),
        }))
    }

    pub(super) fn turn(&self, wait: Wait) -> io::Result<()> {
        let mut events = self.events.borrow_mut();
        let count = match self.set.wait(&mut events, timeout(wait)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            if event.data() == BELL {
                let mut counter = [0; 8];
                nix::unistd::read(self.shared.bell(), &mut counter)?;
                continue;
            }
            // A number that is free again: the event was on its way when its descriptor went.
            let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
            let slot = self.slots.borrow().get(index).cloned();
            if let Some(slot) = slot {
                slot.set_ready(event.events());
            }
        }
        Ok(())
    }
}

/// epoll_wait counts milliseconds; a part of one is waited for whole, so that no timer is early.
fn timeout(wait: Wait) -> EpollTimeout {
    match wait {
        Wait::No => EpollTimeout::ZERO,
        Wait::Forever => EpollTimeout::NONE,
        Wait::AtMost(time) => {
            let millis = time.as_nanos().div_ceil(1_000_000);
            EpollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX))
                .unwrap_or(EpollTimeout::MAX)
        }
    }
}

impl Slot {
    fn set_ready(&self, flags: EpollFlags) {
        let broken = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        let ended = flags.contains(EpollFlags::EPOLLRDHUP) || broken;
        let mut ready = self.ready.get();
        if flags.contains(EpollFlags::EPOLLIN) || ended {
            ready |= READ;
        }
        if flags.contains(EpollFlags::EPOLLOUT) || broken {
            ready |= WRITE;
        }
        if ended {
            ready |= READ_END;
        }
        if broken {
            ready |= WRITE_END;
        }
        self.ready.set(ready);
        if ready & (READ | READ_END) != 0
            && let Some(waker) = self.reader.take()
        {
            waker.wake();
        }
        if ready & (WRITE | WRITE_END) != 0
            && let Some(waker) = self.writer.take()
        {
            waker.wake();
        }
    }

    fn poll(&self, mask: u8, waker: &Cell<Option<Waker>>, cx: &Context<'_>) -> Poll<()> {
        if self.ready.get() & mask != 0 {
            return Poll::Ready(());
        }
        let same = waker.take().filter(|old| old.will_wake(cx.waker()));
        waker.set(Some(same.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }
}

/// A descriptor in the epoll set of its thread.
pub(crate) struct Registered {
    epoll: Rc<Epoll>,
    slot: Rc<Slot>,
    key: usize,
    fd: ManuallyDrop<OwnedFd>,
    /// No other descriptor of the same socket is open.
    is_sole: bool,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered")
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

impl Registered {
    pub(crate) fn new(epoll: Rc<Epoll>, fd: OwnedFd) -> io::Result<Self> {
        let slot = Rc::new(Slot::default());
        let key = epoll.slots.borrow_mut().insert(Rc::clone(&slot));
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        if let Err(error) = epoll.set.add(&fd, EpollEvent::new(flags, key as u64)) {
            epoll.slots.borrow_mut().remove(key);
            return Err(error.into());
        }
        Ok(Self {
            epoll,
            slot,
            key,
            fd: ManuallyDrop::new(fd),
            is_sole: false,
        })
    }

    /// From now on known to be the only descriptor of its socket: closing it takes it out of the
    /// set too, and the system call for that is saved.
    pub(crate) fn sole(mut self) -> Self {
        self.is_sole = true;
        self
    }

    /// Whether an error waits in the socket; known once it was ready.
    pub(crate) fn is_broken(&self) -> bool {
        self.slot.ready.get() & WRITE_END != 0
    }

    /// Waits until it was readable since the last clearing. May be dropped.
    pub(crate) async fn readable(&self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    pub(crate) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.slot.poll(READ | READ_END, &self.slot.reader, cx)
    }

    /// Waits until it was writable since the last clearing. May be dropped.
    pub(crate) async fn writable(&self) {
        poll_fn(|cx| self.poll_writable(cx)).await;
    }

    pub(crate) fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        self.slot.poll(WRITE | WRITE_END, &self.slot.writer, cx)
    }

    /// A read found nothing, or did not fill its buffer: then the queue was empty after it, and the
    /// next edge will come (epoll(7)). An edge that came in between is seen at the next turn of the
    /// driver, so it cannot be forgotten here.
    pub(crate) fn clear_readable(&self) {
        self.slot.ready.set(self.slot.ready.get() & !READ);
    }

    /// A write found no room.
    pub(crate) fn clear_writable(&self) {
        self.slot.ready.set(self.slot.ready.get() & !WRITE);
    }
}

impl AsFd for Registered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.epoll.slots.borrow_mut().remove(self.key);
        if !self.is_sole {
            // A listener's socket is open elsewhere too, and closing one descriptor of it would
            // leave it in the set.
            let _ = self.epoll.set.delete(self.fd.as_fd());
        }
        // SAFETY: this is the only place that takes it, and nothing uses it afterwards.
        drop(unsafe { ManuallyDrop::take(&mut self.fd) });
    }
}
