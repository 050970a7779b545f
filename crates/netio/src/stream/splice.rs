//! Bytes from one socket to another through a pipe, which holds pages of the kernel and copies
//! none (splice(2)). Of epoll only: a ring would hand each such call to a thread of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use socket2::SockRef;

use super::{Io, Queue, TcpStream, direct};

/// What a pipe is asked to hold, in bytes: 64 pieces of up to some pages. Refused where the user
/// has no more room for pipes (pipe(7), pipe-user-pages-soft); it holds 64 KiB then.
const PIPE_BYTES: i32 = 256 << 10;

/// A pipe between two sockets. Two descriptors; empty it holds no page.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held_bytes: u32,
}

impl Pipe {
    /// An empty pipe.
    ///
    /// # Errors
    /// The kernel's answer, for instance EMFILE.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A smaller one does the same in more calls.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        Ok(Self {
            read,
            write,
            held_bytes: 0,
        })
    }

    /// Bytes that came in and did not go out yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes as usize
    }
}

impl TcpStream {
    /// Whether [`TcpStream::try_splice_in`] and [`TcpStream::try_splice_out`] are offered.
    #[must_use]
    pub fn can_splice(&self) -> bool {
        matches!(self.io, Io::Epoll(_))
    }

    /// Moves at most `most` received bytes into an empty pipe, without waiting. 0 says that no byte
    /// can be moved so: mostly it is the end, but urgent data stops it too, so a read has the last
    /// word.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there: then [`TcpStream::poll_readable`] waits. `InvalidInput`
    /// when the pipe is not empty; `Unsupported` where [`TcpStream::can_splice`] says no. Else the
    /// kernel's answer.
    pub fn try_splice_in(&self, pipe: &mut Pipe, most: usize) -> io::Result<usize> {
        let Io::Epoll(registered) = &self.io else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        if pipe.held_bytes != 0 || most == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.queue.get() == Queue::Drained {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.end_blocking()?;
        let result = direct::splice(registered.as_fd(), pipe.write.as_fd(), most);
        match &result {
            // The pipe may have been full before the queue was empty.
            Ok(_) => self.queue.set(Queue::Likely),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.queue.set(Queue::Drained);
                registered.clear_readable();
            }
            Err(_) => {}
        }
        pipe.held_bytes = u32::try_from(*result.as_ref().unwrap_or(&0)).unwrap_or(u32::MAX);
        result
    }

    /// Moves what the pipe holds and what fits into the socket's send buffer, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room: then [`TcpStream::poll_writable`] waits. `Unsupported`
    /// where [`TcpStream::can_splice`] says no. Else the kernel's answer, for instance EPIPE (and
    /// SIGPIPE, which programs in Rust ignore).
    pub fn try_splice_out(&self, pipe: &mut Pipe) -> io::Result<usize> {
        let Io::Epoll(registered) = &self.io else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        self.end_blocking()?;
        let result = direct::splice(pipe.read.as_fd(), registered.as_fd(), pipe.held_bytes());
        match &result {
            Ok(count) => {
                let count = u32::try_from(*count).unwrap_or(u32::MAX);
                pipe.held_bytes = pipe.held_bytes.saturating_sub(count);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                registered.clear_writable();
            }
            Err(_) => {}
        }
        result
    }

    /// splice(2) takes whether it may wait for a socket from its descriptor alone.
    fn end_blocking(&self) -> io::Result<()> {
        if self.nonblocking.get() {
            return Ok(());
        }
        SockRef::from(self).set_nonblocking(true)?;
        self.nonblocking.set(true);
        Ok(())
    }
}
