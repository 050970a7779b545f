//! The calls that never wait, and the waits without a future: for callers that poll by hand, so
//! that a connection at rest is as small as it can be.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use super::{Io, Queue, TcpStream, direct, epoll};

impl TcpStream {
    /// Waits until [`TcpStream::try_read`] finds data, the end or an error; seldom it is wrong, and
    /// then this is to be called again. Holds no buffer. The last caller's waker is woken.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.io {
            Io::Ring(ring) => ring.poll_readable(cx),
            Io::Epoll(_) if self.queue.get() == Queue::Likely => Poll::Ready(()),
            Io::Epoll(registered) => {
                std::task::ready!(registered.poll_readable(cx));
                self.queue.set(Queue::Unknown);
                Poll::Ready(())
            }
        }
    }

    /// Reads into the spare capacity of `buffer`, behind what it holds, without waiting; 0 is the
    /// end of the stream.
    ///
    /// Who calls it in a loop has to let other tasks run by itself.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there: then [`TcpStream::poll_readable`] waits. `InvalidInput`
    /// without spare capacity. Else the kernel's answer.
    pub fn try_read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.try_read_at_most(buffer, usize::MAX)
    }

    /// [`TcpStream::try_read`] that leaves in the socket what is more than `most` bytes.
    ///
    /// # Errors
    /// As [`TcpStream::try_read`]; `InvalidInput` also when `most` is 0.
    pub fn try_read_at_most(&self, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let room = (buffer.capacity() - buffer.len()).min(most);
        if room == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match &self.io {
            Io::Ring(ring) => {
                if let Some(result) = ring.take_received(buffer, room) {
                    return result;
                }
                if !ring.may_read_directly() {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let result = direct::receive(ring.as_fd(), buffer, room);
                ring.note_direct_read(result.as_ref().ok().copied(), room);
                result
            }
            Io::Epoll(_) if self.queue.get() == Queue::Drained => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Io::Epoll(registered) => {
                let result = epoll::receive_now(registered, buffer, room);
                self.note_read(&result, room);
                result
            }
        }
    }

    /// Sends what fits into the socket's send buffer, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room: then [`TcpStream::poll_writable`] waits. Else the
    /// kernel's answer, for instance EPIPE.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let result = direct::send(self.as_fd(), bytes);
        if let Io::Epoll(registered) = &self.io
            && matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        {
            registered.clear_writable();
        }
        result
    }

    /// Waits for room after [`TcpStream::try_write`] found none. The last caller's waker is woken.
    pub fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.io {
            Io::Ring(ring) => ring.poll_writable(cx),
            Io::Epoll(registered) => registered.poll_writable(cx),
        }
    }
}
