//! The io_uring back end: receive, send and poll as ring entries through tokio-uring.
//!
//! tokio-uring cannot cancel. So a receive that its caller dropped stays with the socket and its
//! bytes go to the next read; each entry holds the descriptor until it completes, so that its
//! number cannot come to mean another file; and the owner ends what is in flight before it lets go.
//! Nothing here knows of epoll.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use io_uring::{cqueue, opcode, squeue, types};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use crate::buffer::SendBuf;

/// Readable, the peer's FIN, errors: what ends a wait for data.
const POLL_READABLE: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;

pub(super) struct RingSocket {
    fd: Rc<OwnedFd>,
    reading: RefCell<Option<Receive>>,
    polling: RefCell<Option<InFlight<()>>>,
}

/// A receive that somebody started and nobody has taken yet.
enum Receive {
    InFlight(InFlight<Vec<u8>>),
    Done((io::Result<usize>, Vec<u8>)),
}

type InFlight<T> = InFlightOneshot<Held<T>, Finish<T>>;

/// What an entry uses until it completes.
struct Held<T> {
    socket: Rc<OwnedFd>,
    data: T,
}

/// Turns a completion into its result, and gives back what was held.
struct Finish<T>(std::marker::PhantomData<fn(T) -> T>);

impl<T: 'static> OneshotOutputTransform for Finish<T> {
    type Output = (io::Result<usize>, T);
    type StoredData = Held<T>;

    fn transform_oneshot_output(self, held: Held<T>, entry: cqueue::Entry) -> Self::Output {
        let result = usize::try_from(entry.result())
            .map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        drop(held.socket);
        (result, held.data)
    }
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
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd: Rc::new(fd),
            reading: RefCell::new(None),
            polling: RefCell::new(None),
        }
    }

    /// A receive that was dropped by its caller is still on its way.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.borrow().is_some()
    }

    /// Some entry still uses the descriptor.
    pub(super) fn is_busy(&self) -> bool {
        Rc::strong_count(&self.fd) > 1
    }

    pub(super) async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let mut waiting = Some(buffer);
        if !self.is_reading() {
            let buffer = waiting.take().expect("it was put there above");
            *self.reading.borrow_mut() = Some(Receive::InFlight(self.receive(buffer)));
        }
        self.received().await;
        let Some(Receive::Done((result, mut buffer))) = self.reading.take() else {
            unreachable!("two tasks read from one stream");
        };
        let before = buffer.len();
        if let Ok(count) = result {
            // SAFETY: the entry named the spare capacity of this buffer, nobody has touched it
            // since, and the kernel has written `count` bytes, at most the spare length, behind the
            // old end.
            unsafe { buffer.set_len(before + count) };
        }
        match waiting {
            None => (result, buffer),
            // The bytes came into the buffer of an earlier read that nobody waited for.
            Some(mut own) => {
                own.extend_from_slice(&buffer[before..]);
                (result, own)
            }
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        if self.is_reading() {
            // It takes the data before a poll could see it.
            self.received().await;
            return Ok(());
        }
        if self.polling.borrow().is_none() {
            let entry = opcode::PollAdd::new(self.target(), POLL_READABLE).build();
            *self.polling.borrow_mut() = Some(self.submit((), entry));
        }
        poll_fn(|cx| {
            let mut slot = self.polling.borrow_mut();
            let Some(operation) = slot.as_mut() else {
                // Another waiter has seen it.
                return Poll::Ready(Ok(()));
            };
            let (result, ()) = std::task::ready!(Pin::new(operation).poll(cx));
            *slot = None;
            Poll::Ready(result.map(|_events| ()))
        })
        .await
    }

    /// Waits until the receive that is on its way is done, and leaves its result where it is.
    async fn received(&self) {
        poll_fn(|cx| {
            let mut slot = self.reading.borrow_mut();
            if let Some(Receive::InFlight(operation)) = slot.as_mut() {
                let output = std::task::ready!(Pin::new(operation).poll(cx));
                *slot = Some(Receive::Done(output));
            }
            Poll::Ready(())
        })
        .await;
    }

    pub(super) async fn write_all<B: SendBuf>(
        &self,
        mut buffer: B,
        mut sent: usize,
    ) -> (io::Result<()>, B) {
        while sent < buffer.bytes().len() {
            let rest = &buffer.bytes()[sent..];
            // MSG_WAITALL: the kernel goes on by itself after a part (Linux 5.19).
            let entry = opcode::Send::new(self.target(), rest.as_ptr(), entry_length(rest.len()))
                .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
                .build();
            let result;
            (result, buffer) = self.submit(buffer, entry).await;
            match result {
                Ok(count) => sent += count,
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    fn receive(&self, mut buffer: Vec<u8>) -> InFlight<Vec<u8>> {
        let spare = buffer.spare_capacity_mut();
        let entry = opcode::Recv::new(
            self.target(),
            spare.as_mut_ptr().cast(),
            entry_length(spare.len()),
        )
        .build();
        self.submit(buffer, entry)
    }

    /// `entry` must name memory of `data` only. The operation owns `data` until it completes, also
    /// when its future is dropped: tokio-uring keeps it then.
    fn submit<T: 'static>(&self, data: T, entry: squeue::Entry) -> InFlight<T> {
        let held = Held {
            socket: Rc::clone(&self.fd),
            data,
        };
        UnsubmittedOneshot::new(held, Finish(std::marker::PhantomData), entry).submit()
    }

    fn target(&self) -> types::Fd {
        types::Fd(self.fd.as_raw_fd())
    }
}

/// An entry's length is 32 bits; a longer rest is sent or received by the next entry.
fn entry_length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(1 << 30)
}
