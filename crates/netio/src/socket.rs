//! Making sockets with the options that transparent capture needs, inside a given network
//! namespace, and checking sockets that somebody else made.
//!
//! Marks, interfaces and addresses come from the caller or are constants named after what they do
//! to packets. It must not know whose traffic a socket carries.

mod connect;
pub(crate) mod option;
pub(crate) mod stock;
mod taken;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::netns::Netns;

pub use connect::{ConnectError, Source, Upstream, connect};
pub use option::{cookie, has_transparent, mark, netns_cookie, set_unpaced};

/// Mark of sockets that leave a captured namespace by its real interface: routing and capture leave
/// them alone.
pub const MARK_UPSTREAM: u32 = 0x539;
/// Mark that routes to the loopback interface of a captured namespace.
pub const MARK_TO_LOOPBACK: u32 = 0x53a;
/// The bits of a mark that the two values above occupy.
pub const MARK_MASK: u32 = 0xfff;
/// Every namespace has it under this name.
pub const LOOPBACK_INTERFACE: &str = "lo";

/// Connections that may wait for accept(2), in connections; the kernel caps it at
/// net.core.somaxconn (4096 by default since Linux 5.4). A full queue drops SYNs, which clients
/// send again after a second.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Idle time before the first keep-alive probe. Shorter than the 5 to 15 minutes after which common
/// firewalls forget.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(180);
/// Time between probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(180);
/// Unanswered probes after which the connection is dead: half an hour in all.
pub const KEEPALIVE_PROBES: u32 = 9;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    fn domain(self) -> Domain {
        match self {
            Self::V4 => Domain::IPV4,
            Self::V6 => Domain::IPV6,
        }
    }
}

/// A listener inside `netns` that redirected connections are assigned to, whatever port they meant.
///
/// Bound to port 0 of the family's loopback address; transparent, so that a foreign local address
/// may be accepted; SO_REUSEADDR, which accepted sockets inherit: without it they would occupy the
/// original port and the application could not bind it again; IPv6 only for IPv6. Non-blocking.
/// NODELAY and keep-alive are inherited by what it accepts.
///
/// # Errors
/// Needs CAP_SYS_ADMIN (to enter) and CAP_NET_ADMIN (transparent).
pub fn transparent_listener(netns: &Netns, family: Family) -> io::Result<TcpListener> {
    let socket = netns.enter(|| stream_socket(family))??;
    option::set_transparent(&socket, family)?;
    socket.set_reuse_address(true)?;
    let address: SocketAddr = match family {
        Family::V4 => (Ipv4Addr::LOCALHOST, 0).into(),
        Family::V6 => {
            socket.set_only_v6(true)?;
            (Ipv6Addr::LOCALHOST, 0).into()
        }
    };
    socket.bind(&address.into())?;
    set_stream_options(socket.as_fd())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// A listener in the calling thread's namespace that a successor process may share (SO_REUSEPORT,
/// SO_REUSEADDR): both bind, and the kernel spreads new connections over them. `[::]` takes IPv4
/// too. Non-blocking.
///
/// # Errors
/// EADDRINUSE when a holder of the port did not set SO_REUSEPORT or belongs to another user.
pub fn bind_reuseport(address: SocketAddr) -> io::Result<TcpListener> {
    let family = Family::of(address);
    let socket = stream_socket(family)?;
    if family == Family::V6 {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Why a descriptor from outside is not the listener that it should be.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// Not a socket at all.
    #[error("the descriptor is no socket")]
    NotSocket,
    /// A socket of another protocol or family.
    #[error("the socket is not TCP over IPv4 or IPv6")]
    NotTcp,
    /// Nothing can be accepted from it.
    #[error("the socket does not listen")]
    NotListening,
    /// It was made in another network namespace.
    #[error("the socket belongs to the network namespace with cookie {found}, not {expected}")]
    ForeignNetns {
        /// The namespace that it must be of.
        expected: u64,
        /// The one that it is of.
        found: u64,
    },
    /// The kernel refused to answer.
    #[error("cannot inspect the socket: {0}")]
    Inspect(#[source] io::Error),
}

/// Takes a descriptor from outside as a TCP listener of the namespace with this cookie, after
/// checking both.
///
/// # Errors
/// [`ListenerError`] names what it is instead.
pub fn check_listener(fd: BorrowedFd<'_>, netns_cookie: u64) -> Result<Family, ListenerError> {
    let socket = SockRef::from(&fd);
    let domain = socket
        .domain()
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTSOCK) => ListenerError::NotSocket,
            _ => ListenerError::Inspect(error),
        })?;
    let family = match domain {
        Domain::IPV4 => Family::V4,
        Domain::IPV6 => Family::V6,
        _ => return Err(ListenerError::NotTcp),
    };
    let protocol = socket.protocol().map_err(ListenerError::Inspect)?;
    if protocol != Some(Protocol::TCP) {
        return Err(ListenerError::NotTcp);
    }
    if !socket.is_listener().map_err(ListenerError::Inspect)? {
        return Err(ListenerError::NotListening);
    }
    let found = self::netns_cookie(fd).map_err(ListenerError::Inspect)?;
    if found != netns_cookie {
        return Err(ListenerError::ForeignNetns {
            expected: netns_cookie,
            found,
        });
    }
    Ok(family)
}

/// [`check_listener`] as a plain answer.
#[must_use]
pub fn is_listening_tcp_socket_of(fd: BorrowedFd<'_>, netns_cookie: u64) -> bool {
    check_listener(fd, netns_cookie).is_ok()
}

/// TCP_NODELAY (a relay must not add Nagle's wait to an application that did its own batching) and
/// keep-alive.
pub(crate) fn set_stream_options(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_nodelay(fd)?;
    set_keepalive(fd)
}

fn set_nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_tcp_nodelay(true)
}

fn set_keepalive(fd: BorrowedFd<'_>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(&fd).set_tcp_keepalive(&keepalive)
}

fn stream_socket(family: Family) -> io::Result<Socket> {
    Socket::new(
        family.domain(),
        Type::STREAM.cloexec().nonblocking(),
        Some(Protocol::TCP),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn cookie_of_here() -> u64 {
        Netns::current().unwrap().cookie().unwrap()
    }

    #[test]
    fn a_listener_is_recognised_by_state_protocol_and_namespace() {
        let here = cookie_of_here();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(check_listener(listener.as_fd(), here).unwrap(), Family::V4);
        let other = check_listener(listener.as_fd(), here + 1).unwrap_err();
        assert!(matches!(other, ListenerError::ForeignNetns { found, .. } if found == here));
        let six = TcpListener::bind("[::1]:0").unwrap();
        assert_eq!(check_listener(six.as_fd(), here).unwrap(), Family::V6);
    }

    #[test]
    fn what_is_no_tcp_listener_is_named() {
        let here = cookie_of_here();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let error = check_listener(stream.as_fd(), here).unwrap_err();
        assert!(matches!(error, ListenerError::NotListening));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(matches!(
            check_listener(udp.as_fd(), here).unwrap_err(),
            ListenerError::NotTcp
        ));
        let (unix, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(
            check_listener(unix.as_fd(), here).unwrap_err(),
            ListenerError::NotTcp
        ));
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let error = check_listener(file.as_fd(), here).unwrap_err();
        assert!(matches!(error, ListenerError::NotSocket));
        assert!(!is_listening_tcp_socket_of(file.as_fd(), here));
    }

    #[test]
    fn two_processes_worth_of_sockets_share_an_admin_port_for_both_families() {
        let first = bind_reuseport("[::]:0".parse().unwrap()).unwrap();
        let port = first.local_addr().unwrap().port();
        let second = bind_reuseport(format!("[::]:{port}").parse().unwrap()).unwrap();
        assert_eq!(second.local_addr().unwrap().port(), port);
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::net::TcpStream::connect(("::1", port)).unwrap();
    }
}
