//! A ring of one thread: entries go in, completions come out and wake whom they concern.
//!
//! DEFER_TASKRUN: the kernel works on this ring only inside of our own io_uring_enter, so between
//! two turns nothing changes under us. An operation's memory and descriptor belong to the table of
//! operations until its last completion. It must not know what the bytes mean.

pub(crate) mod buffers;
pub(crate) mod operation;
pub(crate) mod watch;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue, types};

use super::Wait;
use crate::executor::task::Shared;

use buffers::Buffers;
use operation::{Operation, Operations};

/// Submission entries of a worker's ring: how many operations may be started between two system
/// calls before one is forced. 64 bytes each, 16 KiB in all.
pub(crate) const RING_ENTRIES: u32 = 256;
/// Completion entries of a worker's ring, 16 bytes each, 16 KiB in all. The kernel keeps what does
/// not fit (IORING_FEAT_NODROP, Linux 5.5), so this bounds memory and not the number of operations
/// in flight.
const COMPLETION_ENTRIES: u32 = 1024;

/// Readable, the peer's FIN, errors: what ends a wait for data.
pub(crate) const POLL_READABLE: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
/// Writable, or an error.
pub(crate) const POLL_WRITABLE: u32 = libc::POLLOUT as u32;

/// Of entries whose completion nobody waits for.
const IGNORED: u64 = u64::MAX;
/// Of the read of the bell.
const BELL: u64 = u64::MAX - 1;

/// How long the end of an executor waits for its cancelled operations. They are cancelled inside of
/// one system call; this is for a kernel that does otherwise.
const SHUT_DOWN_WAIT: Duration = Duration::from_secs(2);

/// What every kernel since 6.1 offers and this driver uses.
pub(crate) fn builder() -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_cqsize(COMPLETION_ENTRIES)
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    builder
}

/// Whether the kernel knows the operations of this driver.
pub(crate) fn knows_operations(ring: &IoUring) -> io::Result<bool> {
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    let needed = [
        opcode::RecvMulti::CODE,
        opcode::Send::CODE,
        opcode::PollAdd::CODE,
        opcode::AsyncCancel::CODE,
        opcode::Read::CODE,
    ];
    Ok(needed.iter().all(|code| known.is_supported(*code)))
}

pub(crate) struct Ring {
    // First: the kernel lets go of the memory below when it is closed.
    uring: RefCell<IoUring>,
    operations: RefCell<Operations>,
    buffers: RefCell<Buffers>,
    /// Entries that found the submission queue full and the kernel unwilling.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    /// Completions of one turn; kept for its memory.
    reaped: RefCell<Vec<Completion>>,
    /// Where the read of the bell puts the eventfd's counter.
    counter: Box<Cell<u64>>,
    bell_is_read: Cell<bool>,
    shared: Arc<Shared>,
}

/// A completion, copied out of the queue.
#[derive(Clone, Copy)]
pub(crate) struct Completion {
    user_data: u64,
    /// Bytes or events; below zero an errno.
    pub(crate) result: i32,
    flags: u32,
}

impl Completion {
    /// Further completions of the same operation follow.
    pub(crate) fn has_more(self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that it used.
    pub(crate) fn buffer(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// More data waited in the socket.
    pub(crate) fn socket_nonempty(self) -> bool {
        cqueue::sock_nonempty(self.flags)
    }
}

impl Ring {
    pub(super) fn new(shared: &Arc<Shared>) -> io::Result<Rc<Self>> {
        let uring = builder().build(RING_ENTRIES)?;
        let buffers = Buffers::register(&uring)?;
        Ok(Rc::new(Self {
            uring: RefCell::new(uring),
            operations: RefCell::default(),
            buffers: RefCell::new(buffers),
            backlog: RefCell::default(),
            reaped: RefCell::default(),
            counter: Box::default(),
            bell_is_read: Cell::new(false),
            shared: Arc::clone(shared),
        }))
    }

    pub(crate) fn buffers(&self) -> &RefCell<Buffers> {
        &self.buffers
    }

    /// Starts an operation that will use what `operation` holds, and gives its number, which is the
    /// entry's user data.
    ///
    /// # Safety
    /// The entry may name only memory and descriptors that `operation` owns.
    pub(crate) unsafe fn start(&self, operation: Operation, entry: squeue::Entry) -> u64 {
        let key = self.operations.borrow_mut().insert(operation);
        // SAFETY: the table keeps the operation, and so what the entry names, until its last
        // completion.
        unsafe { self.push(entry.user_data(key)) };
        key
    }

    /// Ends an operation early. Its last completion comes in any case.
    pub(crate) fn cancel(&self, key: u64) {
        let entry = opcode::AsyncCancel::new(key).build().user_data(IGNORED);
        // SAFETY: the entry names no memory.
        unsafe { self.push(entry) };
    }

    /// # Safety
    /// What the entry names lives until its last completion.
    unsafe fn push(&self, entry: squeue::Entry) {
        let mut uring = self.uring.borrow_mut();
        let mut backlog = self.backlog.borrow_mut();
        if uring.submission().is_full() {
            // An error shows in the next line: the queue is as full as it was.
            let _ = uring.submit();
        }
        // In order: a cancellation must not come after an operation that has its number anew.
        // SAFETY: promised by the caller.
        if !backlog.is_empty() || unsafe { uring.submission().push(&entry) }.is_err() {
            backlog.push_back(entry);
        }
    }

    /// Whether the kernel has work or completions for us.
    pub(super) fn has_come(&self) -> bool {
        let mut uring = self.uring.borrow_mut();
        let submission = uring.submission();
        if submission.taskrun() || submission.cq_overflow() {
            return true;
        }
        drop(submission);
        !uring.completion().is_empty()
    }

    pub(super) fn turn(&self, wait: Wait) -> io::Result<()> {
        self.read_bell();
        self.flush_backlog();
        self.enter(wait)?;
        self.reap();
        Ok(())
    }

    fn enter(&self, wait: Wait) -> io::Result<()> {
        let mut uring = self.uring.borrow_mut();
        // What the queue holds already must not wait for what is yet to come.
        let wait = if uring.completion().is_empty() {
            wait
        } else {
            Wait::No
        };
        let (length, has_work) = {
            let submission = uring.submission();
            let has_work = submission.taskrun() || submission.cq_overflow();
            (submission.len(), has_work)
        };
        let submitter = uring.submitter();
        let result = match wait {
            Wait::No if length == 0 && !has_work => return Ok(()),
            Wait::No => {
                let length = u32::try_from(length).unwrap_or(RING_ENTRIES);
                let flags = EnterFlags::GETEVENTS.bits();
                // SAFETY: no argument is passed; the entries were pushed with their own promises.
                unsafe { submitter.enter::<libc::sigset_t>(length, 0, flags, None) }
            }
            Wait::Forever => submitter.submit_and_wait(1),
            Wait::AtMost(time) => {
                let time = types::Timespec::from(time);
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&time))
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Time ran out, a signal came, or the kernel wants completions taken first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn reap(&self) {
        let mut reaped = self.reaped.take();
        {
            let mut uring = self.uring.borrow_mut();
            reaped.extend(uring.completion().map(|entry| Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            }));
        }
        for completion in reaped.drain(..) {
            match completion.user_data {
                IGNORED => {}
                BELL => self.bell_is_read.set(false),
                key => operation::complete(self, key, completion),
            }
        }
        self.reaped.replace(reaped);
    }

    /// Keeps a read of the bell in the ring.
    fn read_bell(&self) {
        if self.bell_is_read.replace(true) {
            return;
        }
        let fd = types::Fd(self.shared.bell().as_raw_fd());
        let entry = opcode::Read::new(fd, self.counter.as_ptr().cast(), 8)
            .build()
            .user_data(BELL);
        // SAFETY: the counter and the bell belong to the ring, which ends the read before it goes.
        unsafe { self.push(entry) };
    }

    fn flush_backlog(&self) {
        let mut backlog = self.backlog.borrow_mut();
        while let Some(entry) = backlog.front() {
            // SAFETY: promised when the entry came here.
            if unsafe { self.uring.borrow_mut().submission().push(entry) }.is_err() {
                return;
            }
            backlog.pop_front();
        }
    }

    /// Gives the memory of the provided buffers back while nothing lies in them; whether it did.
    pub(super) fn release_buffers(&self) -> bool {
        let mut uring = self.uring.borrow_mut();
        // A completion that was not looked at may name a buffer with data. No other comes about
        // here: the kernel works on this ring only inside of our own io_uring_enter.
        let unseen = uring.submission().cq_overflow() || !uring.completion().is_empty();
        drop(uring);
        !unseen && self.buffers.borrow_mut().release()
    }

    /// Ends all operations and waits until the kernel uses none of their memory any more.
    pub(super) fn shut_down(&self) {
        let everything = types::CancelBuilder::any();
        let entry = opcode::AsyncCancel2::new(everything)
            .build()
            .user_data(IGNORED);
        // SAFETY: the entry names no memory.
        unsafe { self.push(entry) };
        let until = Instant::now() + SHUT_DOWN_WAIT;
        loop {
            self.flush_backlog();
            let left = until.saturating_duration_since(Instant::now());
            let idle = self.operations.borrow().is_empty() && !self.bell_is_read.get();
            if idle {
                return;
            }
            if left.is_zero() || self.enter(Wait::AtMost(left)).is_err() {
                break;
            }
            self.reap();
        }
        // The kernel may write there still: never to be used for anything else.
        tracing::error!("operations of a ring did not end; their memory is given up");
        std::mem::forget(self.operations.take());
        self.buffers.borrow_mut().give_up();
    }
}
