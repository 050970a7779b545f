//! A listening TCP socket that several workers, and several processes, accept from.
//!
//! Readiness and accept4(2) on both back ends. A multishot accept in a ring could swallow
//! connections when the worker stops, which the other holders of the socket would never see, and it
//! cannot tell the peer's address, which costs the system call that it saves. It must not know
//! whose listener it is.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{SockRef, Socket};

use crate::TcpStream;
use crate::driver::Watched;
use crate::socket;

/// One worker's handle to a listening socket.
#[derive(Debug)]
pub struct TcpListener {
    fd: Watched,
    local: SocketAddr,
    resets_on_close: bool,
}

impl TcpListener {
    /// Takes a listening socket; for a second worker give it a `try_clone()` of the same.
    ///
    /// Sets TCP_NODELAY and keep-alive on it, which accepted sockets inherit, and O_NONBLOCK, which
    /// all holders of the socket share.
    ///
    /// # Errors
    /// When it is no TCP socket, or outside of an executor's descriptors and memory.
    ///
    /// # Panics
    /// Outside of [`crate::executor::run`].
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        socket::set_stream_options(listener.as_fd())?;
        let local = listener.local_addr()?;
        let fd = Watched::new(listener.into())?;
        Ok(Self {
            fd,
            local,
            resets_on_close: false,
        })
    }

    /// What is accepted from now on is as after [`TcpStream::set_reset_on_close`], without a system
    /// call for each: accepted sockets inherit SO_LINGER. All holders of the listening socket
    /// share it.
    ///
    /// # Errors
    /// None in practice (SO_LINGER on an open socket).
    pub fn set_reset_on_close(&mut self) -> io::Result<()> {
        SockRef::from(&self.fd).set_linger(Some(Duration::ZERO))?;
        self.resets_on_close = true;
        Ok(())
    }

    /// The address that the listener itself is bound to. An accepted connection whose local address
    /// is this one was not redirected here but meant the listener.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits for the next connection. Dropping the future loses none.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOBUFS, ENOMEM: there is no room now; pause before the next call, or it
    /// spins. Errors of the connection itself (accept(2): ECONNABORTED and the network ones) are
    /// passed over.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        self.next().await?.into_stream()
    }

    /// As [`TcpListener::accept`], for whichever thread shall serve it.
    ///
    /// # Errors
    /// As there.
    pub async fn next(&self) -> io::Result<Arrival> {
        loop {
            self.fd.readable().await?;
            match SockRef::from(&self.fd).accept4(libc::SOCK_CLOEXEC) {
                Ok((socket, peer)) => {
                    self.fd.maybe_readable();
                    return Ok(Arrival {
                        socket,
                        peer: peer.as_socket(),
                        resets_on_close: self.resets_on_close,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.fd.not_readable(),
                Err(error) if belongs_to_the_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A connection that was accepted and belongs to no executor yet. Dropping it closes it.
#[derive(Debug)]
pub struct Arrival {
    socket: Socket,
    peer: Option<SocketAddr>,
    resets_on_close: bool,
}

impl Arrival {
    /// The connection, for the executor of this thread.
    ///
    /// # Errors
    /// It cannot be registered: there is no memory.
    ///
    /// # Panics
    /// Outside of [`crate::executor::run`].
    pub fn into_stream(self) -> io::Result<TcpStream> {
        TcpStream::accepted(self.socket, self.peer, self.resets_on_close)
    }
}

impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn belongs_to_the_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::ENETDOWN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
        )
    )
}
