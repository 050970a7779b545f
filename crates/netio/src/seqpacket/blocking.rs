//! The connection for a program that makes one request and ends: no runtime, every call with a
//! timeout.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Message, PeerCred, RecvError, peer_cred, wire};

/// A blocking connection.
#[derive(Debug)]
pub struct BlockingConn {
    fd: OwnedFd,
}

impl BlockingConn {
    /// Connects to a listener at `path`. `timeout` bounds the connect and then each single send and
    /// receive.
    ///
    /// # Errors
    /// `NotFound` and `ConnectionRefused` when nobody listens; `TimedOut` when its queue stays
    /// full; `InvalidInput` for a timeout of zero.
    pub fn connect(path: &Path, timeout: Duration) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.cloexec(), None)?;
        let conn = Self { fd: socket.into() };
        conn.set_timeout(timeout)?;
        let socket = socket2::SockRef::from(&conn.fd);
        socket.connect(&SockAddr::unix(path)?).map_err(as_timeout)?;
        Ok(conn)
    }

    /// A new bound for each single send and receive from now on.
    ///
    /// # Errors
    /// `InvalidInput` for zero, which the kernel would read as "for ever".
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        if timeout.is_zero() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let socket = socket2::SockRef::from(&self.fd);
        socket.set_write_timeout(Some(timeout))?;
        socket.set_read_timeout(Some(timeout))
    }

    /// As [`super::Conn::send`].
    ///
    /// # Errors
    /// As there, and `TimedOut`.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        wire::send(self.fd.as_fd(), bytes, fds).map_err(as_timeout)
    }

    /// As [`super::Conn::recv`].
    ///
    /// # Errors
    /// As there, and `TimedOut`.
    pub fn recv(&self, max_bytes: usize, max_fds: usize) -> Result<Option<Message>, RecvError> {
        wire::receive(self.fd.as_fd(), max_bytes, max_fds).map_err(|error| match error {
            RecvError::Io(error) => RecvError::Io(as_timeout(error)),
            other => other,
        })
    }

    /// Who listens.
    ///
    /// # Errors
    /// None in practice.
    pub fn peer_cred(&self) -> io::Result<PeerCred> {
        peer_cred(self.fd.as_fd())
    }
}

/// SO_RCVTIMEO and SO_SNDTIMEO report EAGAIN, which reads like a non-blocking socket.
fn as_timeout(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    }
    error
}
