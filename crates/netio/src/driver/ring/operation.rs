//! The operations in flight of a ring, with what each of them uses, and where their completions go.

use std::cell::RefCell;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, types};
use slab::Slab;

use super::watch::Watching;
use super::{Completion, Ring};
use crate::buffer::AnyBuf;
use crate::stream::ring::RingSocket;

/// An operation and what it uses.
pub(crate) enum Operation {
    /// Multishot receive into provided buffers.
    Receive(Rc<RingSocket>),
    /// Poll of a stream for reading.
    Readable(Rc<RingSocket>),
    /// Poll of a stream for writing.
    Writable(Rc<RingSocket>),
    /// Poll of a [`super::watch::Watch`].
    Watch(Rc<Watching>),
    /// Send; large and seldom, so it lies elsewhere.
    Send(usize),
}

/// What a send uses, and its end.
struct Sending {
    socket: Rc<RingSocket>,
    /// `None` once it was taken by its future.
    buffer: Option<AnyBuf>,
    state: SendState,
}

enum SendState {
    InFlight(Option<Waker>),
    /// Its future is gone.
    Orphaned,
    Done(i32),
}

/// All operations of a ring. Their number is bounded by that of its descriptors: two a stream and
/// one a watch.
#[derive(Default)]
pub(crate) struct Operations {
    flying: Slab<Operation>,
    sending: Slab<Sending>,
}

impl Operations {
    pub(super) fn insert(&mut self, operation: Operation) -> u64 {
        self.flying.insert(operation) as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flying.is_empty()
    }
}

/// Takes a completion to whom it concerns.
pub(super) fn complete(ring: &Ring, key: u64, completion: Completion) {
    let index = usize::try_from(key).expect("it was made from such a number");
    let mut operations = ring.operations.borrow_mut();
    let last = !completion.has_more();
    let operation = if last {
        operations.flying.remove(index)
    } else {
        match &operations.flying[index] {
            Operation::Receive(socket) => Operation::Receive(Rc::clone(socket)),
            _ => return,
        }
    };
    match operation {
        Operation::Send(number) => {
            let waker = operations.sent(number, completion.result);
            drop(operations);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        other => {
            drop(operations);
            match other {
                Operation::Receive(socket) => socket.received(ring, key, completion),
                Operation::Readable(socket) => socket.polled(),
                Operation::Writable(socket) => socket.polled_writable(),
                Operation::Watch(watching) => watching.fired(completion.result),
                Operation::Send(_) => {}
            }
        }
    }
}

impl Operations {
    fn sent(&mut self, number: usize, result: i32) -> Option<Waker> {
        let sending = &mut self.sending[number];
        match std::mem::replace(&mut sending.state, SendState::Done(result)) {
            SendState::InFlight(waker) => waker,
            SendState::Orphaned | SendState::Done(_) => {
                self.sending.remove(number);
                None
            }
        }
    }
}

/// A send in flight. Dropping it leaves the operation to itself; it keeps its buffer until it ends.
pub(crate) struct Send<'a> {
    operations: &'a RefCell<Operations>,
    number: usize,
    done: bool,
}

impl<'a> Send<'a> {
    /// Sends what is behind the first `from` bytes of `buffer`, all of it.
    pub(crate) fn start(
        ring: &'a Ring,
        socket: Rc<RingSocket>,
        buffer: AnyBuf,
        from: usize,
    ) -> Self {
        let rest = &buffer.bytes()[from..];
        // An entry's length is 32 bits; a longer rest is sent by the next entry.
        let length = u32::try_from(rest.len()).unwrap_or(1 << 30);
        // MSG_WAITALL: the kernel goes on by itself after a part (Linux 5.19).
        let entry = opcode::Send::new(types::Fd(socket.fd().as_raw_fd()), rest.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        let number = ring.operations.borrow_mut().sending.insert(Sending {
            socket,
            buffer: Some(buffer),
            state: SendState::InFlight(None),
        });
        // SAFETY: the entry names bytes of the buffer, which do not move when it does (SendBuf),
        // and the socket. Both stay in the table until the completion, also when this is dropped.
        unsafe { ring.start(Operation::Send(number), entry) };
        Self {
            operations: &ring.operations,
            number,
            done: false,
        }
    }

    /// Its result, and the buffer.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<(i32, AnyBuf)> {
        let mut operations = self.operations.borrow_mut();
        let sending = &mut operations.sending[self.number];
        if let SendState::Done(result) = sending.state {
            let buffer = sending.buffer.take().expect("it is taken once, here");
            let ended = operations.sending.remove(self.number);
            drop(operations);
            self.done = true;
            drop(ended.socket);
            return Poll::Ready((result, buffer));
        }
        sending.state = SendState::InFlight(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Send<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut operations = self.operations.borrow_mut();
        let sending = &mut operations.sending[self.number];
        if matches!(sending.state, SendState::Done(_)) {
            let ended = operations.sending.remove(self.number);
            drop(operations);
            drop(ended);
        } else {
            sending.state = SendState::Orphaned;
        }
    }
}
