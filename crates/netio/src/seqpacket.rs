//! Messages with descriptors over a unix SOCK_SEQPACKET socket: a listener, a connection for tokio,
//! and a blocking one for short-lived programs.
//!
//! Every message and every number of descriptors has a bound that the receiver names. It must not
//! know what a message says.

mod blocking;
mod wire;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use nix::sys::socket as sys;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::readiness::register;

pub use blocking::BlockingConn;
pub use wire::{Message, RecvError};

/// Connections that may wait for [`Listener::accept`]: a handful of local programs connects.
const BACKLOG: i32 = 128;
/// Only the owner of the directory reaches the socket, and only the owner of the socket may
/// connect.
const DIRECTORY_MODE: u32 = 0o700;
const SOCKET_MODE: u32 = 0o600;

/// Who is at the other end, as the kernel saw it when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCred {
    /// Process; 0 when it is not visible from here.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    fd: AsyncFd<OwnedFd>,
}

impl Listener {
    /// Listens at `path`. A missing directory is made with mode 0700; the socket gets 0600 from the
    /// start. A socket that a dead process left there is replaced, a living one is not. The file
    /// stays when the listener is dropped, because by then a successor may have put its own there.
    ///
    /// # Errors
    /// `AddrInUse` when a process listens there; `PermissionDenied` when others may write the
    /// directory; `InvalidInput` for a path of more than 107 bytes.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(path: &Path) -> io::Result<Self> {
        prepare_directory(path)?;
        let address = sys::UnixAddr::new(path)?;
        let socket = seqpacket_socket()?;
        // The mode of the unbound socket becomes the mode of the file, so there is no moment with
        // another one.
        nix::sys::stat::fchmod(
            &socket,
            nix::sys::stat::Mode::from_bits_truncate(SOCKET_MODE),
        )?;
        match sys::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address) {
            Err(nix::errno::Errno::EADDRINUSE) => {
                remove_dead_socket(path, &address)?;
                sys::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address)?;
            }
            result => result?,
        }
        sys::listen(&socket, sys::Backlog::new(BACKLOG)?)?;
        Ok(Self {
            fd: register(socket, Interest::READABLE)?,
        })
    }

    /// Waits for the next connection. Dropping the future loses none.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM: pause before the next call.
    pub async fn accept(&self) -> io::Result<Conn> {
        loop {
            let mut guard = self.fd.readable().await?;
            let accepted = guard.try_io(|fd| {
                let socket = socket2::SockRef::from(fd.get_ref());
                socket.accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
            });
            match accepted {
                Ok(Ok((socket, _))) => return Conn::new(socket.into()),
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

/// A connection on a tokio runtime. `Send + Sync`; sends and receives may run side by side, and
/// dropping their futures loses no message.
#[derive(Debug)]
pub struct Conn {
    fd: AsyncFd<OwnedFd>,
}

impl Conn {
    /// Connects to a listener at `path`.
    ///
    /// # Errors
    /// `NotFound` and `ConnectionRefused` when nobody listens; `WouldBlock` when its queue is full:
    /// try again later.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let address = sys::UnixAddr::new(path)?;
        let socket = seqpacket_socket()?;
        sys::connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address)?;
        Self::new(socket)
    }

    /// Two connected ends.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = sys::SockFlag::SOCK_CLOEXEC | sys::SockFlag::SOCK_NONBLOCK;
        let (a, b) = sys::socketpair(
            sys::AddressFamily::Unix,
            sys::SockType::SeqPacket,
            None,
            flags,
        )?;
        Ok((Self::new(a)?, Self::new(b)?))
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            fd: register(fd, Interest::READABLE | Interest::WRITABLE)?,
        })
    }

    /// Sends one message, whole, with copies of up to [`MAX_FDS`] descriptors.
    ///
    /// # Errors
    /// `InvalidInput` for an empty message (it would read as the end) and for too many descriptors;
    /// EMSGSIZE when it does not fit the send buffer (net.core.wmem_default, 208 KiB); EPIPE when
    /// the peer is gone.
    pub async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut guard = self.fd.writable().await?;
            match guard.try_io(|fd| wire::send(fd.as_fd(), bytes, fds)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Receives the next message of at most `max_bytes` with at most `max_fds` descriptors; `None`
    /// when the peer has closed. The descriptors are close-on-exec.
    ///
    /// # Errors
    /// [`RecvError`]; the descriptors of a refused message are closed. The next message can still
    /// be received.
    pub async fn recv(
        &self,
        max_bytes: usize,
        max_fds: usize,
    ) -> Result<Option<Message>, RecvError> {
        loop {
            let mut guard = self.fd.readable().await?;
            match wire::receive(guard.get_inner().as_fd(), max_bytes, max_fds) {
                Err(RecvError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                }
                result => return result,
            }
        }
    }

    /// Who connected.
    ///
    /// # Errors
    /// None in practice.
    pub fn peer_cred(&self) -> io::Result<PeerCred> {
        peer_cred(self.fd.get_ref().as_fd())
    }
}

/// SCM_MAX_FD: the kernel refuses more descriptors in one message.
pub const MAX_FDS: usize = 253;

fn peer_cred(fd: BorrowedFd<'_>) -> io::Result<PeerCred> {
    let cred = sys::getsockopt(&fd, sys::sockopt::PeerCredentials)?;
    Ok(PeerCred {
        pid: cred.pid(),
        uid: cred.uid(),
        gid: cred.gid(),
    })
}

fn seqpacket_socket() -> io::Result<OwnedFd> {
    let flags = sys::SockFlag::SOCK_CLOEXEC | sys::SockFlag::SOCK_NONBLOCK;
    Ok(sys::socket(
        sys::AddressFamily::Unix,
        sys::SockType::SeqPacket,
        flags,
        None,
    )?)
}

fn prepare_directory(path: &Path) -> io::Result<()> {
    let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)?;
    let metadata = std::fs::metadata(directory)?;
    // Who may write the directory may put another socket in place of ours (a sticky directory
    // forbids that).
    let others_write = metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0;
    let foreign = ![0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid());
    if others_write || foreign {
        let text = format!(
            "{} may be written by others than this user",
            directory.display()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

fn remove_dead_socket(path: &Path, address: &sys::UnixAddr) -> io::Result<()> {
    let probe = seqpacket_socket()?;
    match sys::connect(std::os::fd::AsRawFd::as_raw_fd(&probe), address) {
        Err(nix::errno::Errno::ECONNREFUSED) => std::fs::remove_file(path),
        _ => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("{} is in use", path.display()),
        )),
    }
}
