//! The io_uring back end: what comes is received by the ring, what goes is sent directly and, where
//! that has to wait, by the ring.
//!
//! A stream whose messages are small has one multishot receive in the ring: data is there, in a
//! provided buffer, when its reader wakes. A stream that carries bulk, and one of which nothing is
//! known yet, is polled, and its reader receives straight into its own large buffer. A stream's
//! receive queue never has two readers: while a multishot receive is in the ring nobody reads
//! directly.
//!
//! What was received and not read lies with the stream, so a reader may come and go. One that stays
//! away ends the receive after [`HELD_MAX_BYTES`], and the peer's window closes. Nothing here
//! knows of epoll.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, types};

use crate::buffer::SendBuf;
use crate::driver::ring::buffers::{BUFFER_BYTES, GROUP};
use crate::driver::ring::operation::{Operation, Send};
use crate::driver::ring::{Completion, POLL_READABLE, POLL_WRITABLE, Ring};

/// Bytes that lie with a stream before its multishot receive is ended. The turn of the kernel's
/// that goes beyond may bring more at once: all provided buffers of the worker, 512 KiB, at the
/// worst.
const HELD_MAX_BYTES: usize = 2 * BUFFER_BYTES;

/// A direct read of at most this many bytes is a message, not bulk.
const MESSAGE_MAX_BYTES: usize = BUFFER_BYTES / 2;

/// Messages in a row after which a stream is not a bulk stream any more.
const CALM_READS: u8 = 8;

/// A socket and its operations.
pub(crate) struct RingSocket {
    ring: Rc<Ring>,
    fd: OwnedFd,
    read: RefCell<ReadSide>,
    write: RefCell<WriteSide>,
}

/// A wait for room in the send buffer.
#[derive(Default)]
enum WriteSide {
    #[default]
    Idle,
    Waiting(Waker),
    Fired,
}

/// What came and what is to come.
#[derive(Default)]
struct ReadSide {
    operation: InRing,
    /// The oldest unread bytes: part of a provided buffer.
    chunk: Option<Chunk>,
    /// What came behind the chunk, if something did: boxed, for most never have it.
    #[expect(
        clippy::box_collection,
        reason = "a pointer is a third of an empty vector"
    )]
    spill: Option<Box<Vec<u8>>>,
    end: Option<End>,
    /// The socket may have something that the ring does not bring: a direct read will tell.
    try_directly: bool,
    /// Reads that are still to be direct ones.
    bulk: u8,
    waiter: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum InRing {
    #[default]
    Nothing,
    Receive,
    /// A receive whose end was asked for.
    EndingReceive,
    Poll,
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    number: u16,
    start: u16,
    end: u16,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Fin,
    /// Given to the reader once; the kernel gives it once too.
    Error(i32),
}

impl std::fmt::Debug for RingSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingSocket")
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

impl AsFd for RingSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl RingSocket {
    pub(crate) fn new(ring: Rc<Ring>, fd: OwnedFd) -> Rc<Self> {
        Rc::new(Self {
            ring,
            fd,
            read: RefCell::new(ReadSide {
                // What comes first tells whether it is bulk: 128 small buffers are not for that.
                bulk: 1,
                ..ReadSide::default()
            }),
            write: RefCell::default(),
        })
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Moves what came already into the spare capacity of `buffer`, at most `room` bytes, which is
    /// no more than that; `None` when nothing came.
    pub(super) fn take_received(
        &self,
        buffer: &mut Vec<u8>,
        room: usize,
    ) -> Option<io::Result<usize>> {
        let mut read = self.read.borrow_mut();
        let before = buffer.len();
        let full = before + room;
        if let Some(chunk) = &mut read.chunk {
            let mut buffers = self.ring.buffers().borrow_mut();
            let (start, end) = (usize::from(chunk.start), usize::from(chunk.end));
            let count = (end - start).min(room);
            buffer.extend_from_slice(&buffers.bytes(chunk.number, end)[start..start + count]);
            chunk.start += u16::try_from(count).expect("a part of a provided buffer");
            if chunk.start == chunk.end {
                buffers.give(chunk.number);
                read.chunk = None;
            }
        }
        if read.chunk.is_none()
            && let Some(spill) = &mut read.spill
        {
            let count = spill.len().min(full - buffer.len());
            buffer.extend_from_slice(&spill[..count]);
            if count == spill.len() {
                // Freed: a stream at rest holds no buffer.
                read.spill = None;
            } else {
                spill.drain(..count);
            }
        }
        match buffer.len() - before {
            0 => read.end.map(|end| match end {
                End::Fin => Ok(0),
                End::Error(errno) => {
                    read.end = None;
                    read.try_directly = true;
                    Err(io::Error::from_raw_os_error(errno))
                }
            }),
            count => Some(Ok(count)),
        }
    }

    /// Whether a direct read is allowed and may find something.
    pub(super) fn may_read_directly(&self) -> bool {
        let read = self.read.borrow();
        read.try_directly && matches!(read.operation, InRing::Nothing | InRing::Poll)
    }

    /// What a direct read with that much room brought; `None` when nothing was there.
    pub(super) fn note_direct_read(&self, count: Option<usize>, room: usize) {
        let mut read = self.read.borrow_mut();
        // 0 is the end, which the next read sees at once too.
        read.try_directly = count.is_some_and(|count| count == room || count == 0);
        match count {
            Some(..=MESSAGE_MAX_BYTES) => read.bulk = read.bulk.saturating_sub(1),
            Some(_) => read.bulk = CALM_READS,
            None => {}
        }
    }

    /// Waits until a read brings something: data, the end, an error.
    pub(super) fn poll_readable(self: &Rc<Self>, cx: &Context<'_>) -> Poll<()> {
        let mut read = self.read.borrow_mut();
        if read.has_something() {
            return Poll::Ready(());
        }
        match &mut read.waiter {
            Some(waiter) => waiter.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if read.operation == InRing::Nothing {
            read.operation = if read.bulk > 0 {
                InRing::Poll
            } else {
                InRing::Receive
            };
            let start = read.operation;
            drop(read);
            self.start(start);
        }
        Poll::Pending
    }

    fn start(self: &Rc<Self>, operation: InRing) {
        let fd = types::Fd(self.fd.as_raw_fd());
        let (operation, entry) = if operation == InRing::Poll {
            let entry = opcode::PollAdd::new(fd, POLL_READABLE).build();
            (Operation::Readable(Rc::clone(self)), entry)
        } else {
            let entry = opcode::RecvMulti::new(fd, GROUP).build();
            (Operation::Receive(Rc::clone(self)), entry)
        };
        // SAFETY: the entry names the descriptor, which the operation owns, and no memory: the
        // provided buffers belong to the ring.
        unsafe { self.ring.start(operation, entry) };
    }

    /// A completion of the multishot receive `key`.
    pub(crate) fn received(&self, ring: &Ring, key: u64, completion: Completion) {
        let mut read = self.read.borrow_mut();
        if !completion.has_more() {
            read.operation = InRing::Nothing;
        }
        if let Some(number) = completion.buffer() {
            let mut buffers = ring.buffers().borrow_mut();
            buffers.taken();
            let length = usize::try_from(completion.result).unwrap_or(0);
            let keep = length > 0 && !buffers.are_scarce() && read.is_empty();
            if keep {
                let end = u16::try_from(length).expect("a provided buffer is smaller");
                read.chunk = Some(Chunk {
                    number,
                    start: 0,
                    end,
                });
            } else {
                if length > 0 {
                    let spill = read.spill.get_or_insert_default();
                    spill.extend_from_slice(buffers.bytes(number, length));
                }
                buffers.give(number);
            }
        }
        match completion.result {
            0 => read.end = Some(End::Fin),
            // More than the provided buffers are for, or more than is read.
            length @ 1.. => {
                let full = length.unsigned_abs() as usize == BUFFER_BYTES;
                let is_bulk = full && completion.socket_nonempty();
                if is_bulk {
                    read.bulk = CALM_READS;
                }
                let end_it = is_bulk || read.held_bytes() > HELD_MAX_BYTES;
                if end_it && read.operation == InRing::Receive {
                    read.operation = InRing::EndingReceive;
                    ring.cancel(key);
                }
                read.try_directly = read.operation != InRing::Receive;
            }
            // No provided buffer was left, or we have ended it: the data is where it was.
            errno if [libc::ENOBUFS, libc::ECANCELED].contains(&-errno) => {
                read.bulk = read.bulk.max(1);
                read.try_directly = true;
            }
            errno => read.end = Some(End::Error(-errno)),
        }
        read.wake();
    }

    /// The poll has ended; whatever it says, a direct read says it better.
    pub(crate) fn polled(&self) {
        let mut read = self.read.borrow_mut();
        read.operation = InRing::Nothing;
        read.try_directly = true;
        read.wake();
    }

    pub(crate) fn polled_writable(&self) {
        if let WriteSide::Waiting(waiter) = self.write.replace(WriteSide::Fired) {
            waiter.wake();
        }
    }

    /// Waits for room after a direct write found none.
    pub(super) fn poll_writable(self: &Rc<Self>, cx: &Context<'_>) -> Poll<()> {
        let mut write = self.write.borrow_mut();
        match &mut *write {
            WriteSide::Fired => {
                *write = WriteSide::Idle;
                return Poll::Ready(());
            }
            WriteSide::Waiting(waiter) => waiter.clone_from(cx.waker()),
            WriteSide::Idle => {
                *write = WriteSide::Waiting(cx.waker().clone());
                drop(write);
                let fd = types::Fd(self.fd.as_raw_fd());
                let entry = opcode::PollAdd::new(fd, POLL_WRITABLE).build();
                // SAFETY: the entry names the descriptor, which the operation owns, and no memory.
                unsafe { self.ring.start(Operation::Writable(Rc::clone(self)), entry) };
            }
        }
        Poll::Pending
    }

    pub(super) async fn write_all<B: SendBuf>(
        self: &Rc<Self>,
        buffer: B,
        mut sent: usize,
    ) -> (io::Result<()>, B) {
        let total = buffer.bytes().len();
        let mut buffer = buffer.hand_over();
        let mut outcome = Ok(());
        while sent < total && outcome.is_ok() {
            let mut send = Send::start(&self.ring, Rc::clone(self), buffer, sent);
            let result;
            (result, buffer) = poll_fn(|cx| send.poll(cx)).await;
            match usize::try_from(result) {
                Ok(count) => sent += count,
                Err(_) => outcome = Err(io::Error::from_raw_os_error(-result)),
            }
        }
        let buffer = B::take_back(buffer).expect("it went in as this type");
        (outcome, buffer)
    }
}

impl ReadSide {
    fn is_empty(&self) -> bool {
        self.chunk.is_none() && self.spill.is_none()
    }

    fn held_bytes(&self) -> usize {
        let chunk = self.chunk.map_or(0, |chunk| chunk.end - chunk.start);
        usize::from(chunk) + self.spill.as_ref().map_or(0, |spill| spill.len())
    }

    fn has_something(&self) -> bool {
        let directly =
            self.try_directly && matches!(self.operation, InRing::Nothing | InRing::Poll);
        !self.is_empty() || self.end.is_some() || directly
    }

    /// Wakes the reader when there is something for it.
    fn wake(&mut self) {
        if self.has_something()
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }
}

impl Drop for RingSocket {
    fn drop(&mut self) {
        if let Some(chunk) = self.read.get_mut().chunk.take() {
            self.ring.buffers().borrow_mut().give(chunk.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_at_rest_is_small() {
        // With the two counts of an `Rc` and the allocator's word: 128 bytes.
        let bytes = size_of::<RingSocket>();
        assert!(bytes <= 104, "{bytes} bytes");
    }
}
