//! A connected TCP socket with owned buffers, alike on both back ends.
//!
//! A direct non-blocking call comes first where data or room is likely; what has to wait waits in
//! the ring (io_uring) or for readiness (epoll). It must not know what the bytes mean nor relay
//! them.
//!
//! Sockets stay in blocking mode: the calls carry MSG_DONTWAIT themselves, and a ring answers
//! EAGAIN for an O_NONBLOCK socket instead of waiting.

mod direct;
mod epoll;
mod poll;
pub(crate) mod ring;
mod splice;

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use socket2::{SockRef, Socket};

use crate::Backend;
use crate::buffer::{Pool, SendBuf};
use crate::driver::epoll::Registered;
use crate::driver::{Driver, Watched};
use crate::executor::core::here;
use crate::executor::yield_now;
use crate::socket::{option, set_stream_options};

use ring::RingSocket;

pub use splice::Pipe;

/// Calls that succeeded at once before the stream lets other tasks run: a peer that always has data
/// must not keep the worker to itself. With 256 KiB buffers this is 8 MiB, about 4 ms of a core.
const DIRECT_CALLS_MAX: u32 = 32;

/// A connected TCP socket. All methods take `&self`: one task reads, another writes, a third may
/// end both. At most one task reads and one writes at a time; `Rc` shares it between them.
///
/// **Ending a pending read or write**: [`TcpStream::shutdown_both`] or [`TcpStream::reset`] from
/// any task of the thread. A read that is dropped (a timeout, `select!`) loses nothing on either
/// back end: its operation stays with the stream, and the next read takes its result. A write that
/// is dropped leaves unknown how much was sent: end the stream then.
///
/// Dropping the stream closes it in the kernel, also with operations in flight.
#[derive(Debug)]
pub struct TcpStream {
    io: Io,
    peer: Peer,
    /// What the last read said about the receive queue; of epoll only.
    queue: Cell<Queue>,
    direct_calls: Cell<u32>,
    reset_on_close: Cell<bool>,
    /// In non-blocking mode, as splice(2) needs it.
    nonblocking: Cell<bool>,
}

/// The other end. In half of the room that an address takes: it is looked at once.
#[derive(Debug)]
enum Peer {
    Unknown,
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl From<Option<SocketAddr>> for Peer {
    fn from(address: Option<SocketAddr>) -> Self {
        match address {
            None => Self::Unknown,
            Some(SocketAddr::V4(address)) => Self::V4(address),
            Some(SocketAddr::V6(address)) => Self::V6(Box::new(address)),
        }
    }
}

#[derive(Debug)]
enum Io {
    Ring(Rc<RingSocket>),
    Epoll(Registered),
}

impl Io {
    /// With the driver of this thread.
    fn of(fd: OwnedFd) -> io::Result<Self> {
        Ok(match here().driver() {
            Driver::Ring(ring) => Self::Ring(RingSocket::new(Rc::clone(ring), fd)),
            Driver::Epoll(epoll) => Self::Epoll(Registered::new(Rc::clone(epoll), fd)?),
        })
    }
}

/// The receive queue as the last read left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// Nobody has read yet.
    Unknown,
    /// The buffer was filled, so more is likely.
    Likely,
    /// The buffer was not filled: the queue was empty after it.
    Drained,
}

/// A few numbers of the kernel about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Its mean deviation.
    pub rtt_variance: Duration,
    /// Segments sent again, over the whole life.
    pub retransmits: u32,
    /// Segments on their way.
    pub unacknowledged: u32,
}

impl TcpStream {
    /// Takes a connected socket for the executor of this thread. Sets NODELAY and keep-alive.
    ///
    /// # Errors
    /// When it is no TCP socket or cannot be registered.
    ///
    /// # Panics
    /// Outside of [`crate::executor::run`].
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        set_stream_options(stream.as_fd())?;
        let peer = stream.peer_addr().ok();
        if here().backend() == Backend::IoUring {
            set_blocking(stream.as_fd())?;
        }
        Ok(Self::with(Io::of(stream.into())?, peer))
    }

    /// A socket from accept4(2), which has inherited its options from the listener and is in
    /// blocking mode.
    pub(crate) fn accepted(
        socket: Socket,
        peer: Option<SocketAddr>,
        is_reset_on_close: bool,
    ) -> io::Result<Self> {
        let io = match Io::of(socket.into())? {
            Io::Epoll(registered) => Io::Epoll(registered.sole()),
            ring => ring,
        };
        let stream = Self::with(io, peer);
        stream.reset_on_close.set(is_reset_on_close);
        Ok(stream)
    }

    /// A socket whose connect is done. The registration that waited for it is kept where it is of
    /// use.
    pub(crate) fn connected(socket: Watched, peer: SocketAddr) -> io::Result<Self> {
        match socket {
            Watched::Ring(watch) => {
                let fd = watch
                    .into_fd()
                    .ok_or_else(|| io::Error::other("a poll of the socket has not ended"))?;
                set_blocking(fd.as_fd())?;
                Ok(Self::with(Io::of(fd)?, Some(peer)))
            }
            Watched::Epoll(registered) => Ok(Self::with(Io::Epoll(registered.sole()), Some(peer))),
        }
    }

    fn with(io: Io, peer: Option<SocketAddr>) -> Self {
        Self {
            io,
            peer: peer.into(),
            queue: Cell::new(Queue::Unknown),
            direct_calls: Cell::new(0),
            reset_on_close: Cell::new(false),
            nonblocking: Cell::new(false),
        }
    }

    /// Reads into the spare capacity of `buffer`, behind what it holds already, and gives it back
    /// with the number of new bytes; 0 is the end of the stream. Waits for the first bytes, not for
    /// a full buffer.
    ///
    /// After a read that was dropped, the new bytes are appended to this buffer, which may grow for
    /// it.
    ///
    /// # Errors
    /// `InvalidInput` without spare capacity; else the kernel's answer, for instance ECONNRESET.
    /// The buffer is as it was.
    pub async fn read(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        if buffer.len() == buffer.capacity() {
            return (Err(io::Error::from(io::ErrorKind::InvalidInput)), buffer);
        }
        loop {
            if let Some(result) = self.read_now(&mut buffer).await {
                return (result, buffer);
            }
            self.wait_readable().await;
        }
    }

    /// [`TcpStream::read`] that holds no buffer while it waits: one is taken from `pool` when data
    /// is there, with `headroom` zero bytes in front of the data, and goes back there when nothing
    /// came.
    ///
    /// Of the two it is the one for connections that are mostly idle; `read` costs one system call
    /// less on a busy one.
    ///
    /// # Errors
    /// As [`TcpStream::read`].
    ///
    /// # Panics
    /// When `headroom` is not below the size of the pool's buffers.
    pub async fn read_pooled(&self, pool: &Pool, headroom: usize) -> io::Result<(usize, Vec<u8>)> {
        assert!(
            headroom < pool.buffer_bytes(),
            "no room for data behind the headroom"
        );
        loop {
            self.readable().await?;
            let mut buffer = pool.take();
            buffer.resize(headroom, 0);
            match self.read_now(&mut buffer).await {
                Some(Ok(count)) => return Ok((count, buffer)),
                Some(Err(error)) => {
                    pool.put(buffer);
                    return Err(error);
                }
                None => pool.put(buffer),
            }
        }
    }

    /// Waits until a read would not wait: data, the end of the stream or an error. Holds no buffer.
    /// May be dropped. Seldom it is wrong, and the next read waits after all.
    ///
    /// # Errors
    /// When the executor is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.wait_readable().await;
        Ok(())
    }

    /// Sends all of `buffer` and gives it back.
    ///
    /// # Errors
    /// The kernel's answer, for instance EPIPE or ECONNRESET; then an unknown part was sent.
    pub async fn write_all<B: SendBuf>(&self, buffer: B) -> (io::Result<()>, B) {
        self.take_turns().await;
        let mut sent = 0;
        while sent < buffer.bytes().len() {
            match direct::send(self.as_fd(), &buffer.bytes()[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return (Err(error), buffer),
            }
        }
        if sent == buffer.bytes().len() {
            return (Ok(()), buffer);
        }
        self.direct_calls.set(0);
        match &self.io {
            Io::Ring(ring) => ring.write_all(buffer, sent).await,
            Io::Epoll(registered) => epoll::write_all(registered, buffer, sent).await,
        }
    }

    /// Sends FIN after what was written; reading goes on. Nothing happens when the connection is
    /// gone already.
    ///
    /// # Errors
    /// None that a caller could act on; kept for unforeseen answers of the kernel.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    /// Ends both directions with FIN; a pending read returns 0, a pending write fails with EPIPE.
    ///
    /// # Errors
    /// As [`TcpStream::shutdown_write`].
    pub fn shutdown_both(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Both)
    }

    /// Sends RST at once, drops what was not sent, and makes pending and later calls fail.
    ///
    /// # Errors
    /// As [`TcpStream::shutdown_write`].
    pub fn reset(&self) -> io::Result<()> {
        direct::disconnect(self.as_fd())
    }

    /// From now on dropping the stream, or the end of the process, sends RST instead of FIN and
    /// drops what was not sent.
    ///
    /// # Errors
    /// None in practice (SO_LINGER on an open socket).
    pub fn set_reset_on_close(&self) -> io::Result<()> {
        if self.reset_on_close.replace(true) {
            return Ok(());
        }
        SockRef::from(self).set_linger(Some(Duration::ZERO))
    }

    /// From now on dropping the stream sends what was not sent, and FIN.
    ///
    /// # Errors
    /// As [`TcpStream::set_reset_on_close`].
    pub fn clear_reset_on_close(&self) -> io::Result<()> {
        if !self.reset_on_close.replace(false) {
            return Ok(());
        }
        SockRef::from(self).set_linger(None)
    }

    /// The local address; of a redirected connection that was accepted, the destination that its
    /// client meant.
    ///
    /// # Errors
    /// When the kernel cannot say (after [`TcpStream::reset`] it may be unspecified).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = SockRef::from(self).local_addr()?;
        address
            .as_socket()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The other end, as it was when the connection was made: still known when it is gone.
    ///
    /// # Errors
    /// `NotConnected` when it was gone before it could be asked.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.peer {
            Peer::Unknown => Err(io::ErrorKind::NotConnected.into()),
            Peer::V4(address) => Ok((*address).into()),
            Peer::V6(address) => Ok((**address).into()),
        }
    }

    /// What the kernel knows of the path: one system call, about 1 µs.
    ///
    /// # Errors
    /// None in practice.
    pub fn info(&self) -> io::Result<TcpInfo> {
        let info = option::tcp_info(self.as_fd())?;
        Ok(TcpInfo {
            rtt: Duration::from_micros(info.tcpi_rtt.into()),
            rtt_variance: Duration::from_micros(info.tcpi_rttvar.into()),
            retransmits: info.tcpi_total_retrans,
            unacknowledged: info.tcpi_unacked,
        })
    }

    /// Which back end serves it.
    #[must_use]
    pub fn backend(&self) -> Backend {
        match self.io {
            Io::Ring(_) => Backend::IoUring,
            Io::Epoll(_) => Backend::Epoll,
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match SockRef::from(self).shutdown(how) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// What can be read without waiting; `None` when that is nothing.
    async fn read_now(&self, buffer: &mut Vec<u8>) -> Option<io::Result<usize>> {
        self.take_turns().await;
        match self.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            result => Some(result),
        }
    }

    async fn wait_readable(&self) {
        self.direct_calls.set(0);
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    fn note_read(&self, result: &io::Result<usize>, room: usize) {
        // 0 is the end, which the next read sees at once too.
        let more = |count: usize| count == room || count == 0;
        match result {
            Ok(count) if more(*count) => self.queue.set(Queue::Likely),
            Ok(_) => self.queue.set(Queue::Drained),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.queue.set(Queue::Drained);
            }
            Err(_) => {}
        }
    }

    async fn take_turns(&self) {
        let calls = self.direct_calls.get() + 1;
        if calls < DIRECT_CALLS_MAX {
            self.direct_calls.set(calls);
        } else {
            self.direct_calls.set(0);
            yield_now().await;
        }
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.io {
            Io::Ring(ring) => ring.as_fd(),
            Io::Epoll(registered) => registered.as_fd(),
        }
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        // The kernel keeps a socket open while a ring operation uses it: end the operation first.
        if let Io::Ring(ring) = &self.io
            && Rc::strong_count(ring) > 1
        {
            let _ = if self.reset_on_close.get() {
                self.reset()
            } else {
                self.shutdown_both()
            };
        }
    }
}

fn set_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_at_rest_is_small() {
        // With the two counts of an `Rc` and the allocator's word: 80 bytes.
        assert!(size_of::<TcpStream>() <= 56, "{}", size_of::<TcpStream>());
    }
}
