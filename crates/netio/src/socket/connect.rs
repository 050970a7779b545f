//! Connecting out of a network namespace: plainly, or with a client's address as source.
//!
//! Cancelling a connect closes its socket. It must not choose destinations nor retry another one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::time::Duration;

use rand::Rng;
use socket2::{SockRef, Socket};

use crate::driver::Watched;
use crate::executor::yield_now;
use crate::netns::Netns;
use crate::stream::TcpStream;
use crate::time::{Instant, timeout_at};

use super::taken::{self, Taken, Towards};
use super::{Family, LOOPBACK_INTERFACE, option, set_keepalive, set_nodelay, stock};

/// Source ports for connections that carry a client's address. Above the kernel's default ephemeral
/// range (32768 to 60999), so a client's own connections to the same address, which end on sockets
/// in the same namespace, cannot meet them: with ports that the kernel chose, 7.7 % of 1500
/// connections from one client hung; with these, none.
pub const SPOOFED_PORTS: RangeInclusive<u16> = 61000..=65535;
/// Where to look when all of [`SPOOFED_PORTS`] are in use towards one address.
pub const SPOOFED_PORTS_BEYOND: RangeInclusive<u16> = 1024..=60999;
/// Ports that one connect tries in each of the two ranges, chosen at random. Each costs about 5 µs
/// of this thread, and whoever takes all ports (one client with 4,536 streams, a pod that listens
/// on the client's address) must not make it search long at the cost of others. With nine of ten
/// ports taken, one search in 850 finds none; what it found holds for the next ones for a moment
/// ([`taken`]).
const TRIES: usize = 64;
/// Ports tried between two turns of the other tasks.
const TRIES_PER_TURN: usize = 16;
/// A connect over loopback takes under a millisecond; one that takes this long met a socket with
/// the same four numbers, and another port helps.
const COLLISION_TIMEOUT: Duration = Duration::from_millis(200);
/// Each further attempt waits so many times longer: two collisions in a row are next to impossible,
/// and a server that is too busy to answer must not get a SYN from another port five times a
/// second.
const PATIENCE_GROWTH: u32 = 4;

/// How the kernel chooses the source of a connection.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// The kernel's choice: the namespace's own address and an ephemeral port.
    Own,
    /// This address, though the namespace does not own it: the socket is transparent, bound to
    /// `interface` and to an explicit port. When it equals the destination's address it is the
    /// namespace's own, and `Own` is done instead.
    Spoofed {
        /// The source address.
        ip: IpAddr,
        /// Interface that the connection must leave by, for instance [`super::LOOPBACK_INTERFACE`].
        interface: &'a str,
        /// Whether a port of `ip` is known to be in use towards the destination. Asked only beyond
        /// [`SPOOFED_PORTS`].
        live: &'a dyn Fn(u16) -> bool,
    },
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own => f.write_str("Own"),
            Self::Spoofed { ip, interface, .. } => write!(f, "Spoofed({ip} by {interface})"),
        }
    }
}

/// What to connect, from where.
#[derive(Debug, Clone, Copy)]
pub struct Upstream<'a> {
    /// The namespace that the socket belongs to.
    pub netns: &'a Netns,
    /// The address to connect to.
    pub destination: SocketAddr,
    /// SO_MARK of the socket; 0 leaves it unmarked.
    pub mark: u32,
    /// Its source address.
    pub source: Source<'a>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The destination answered with RST: nobody listens there.
    #[error("connection refused")]
    Refused,
    /// No answer within the timeout (ours or the kernel's).
    #[error("no answer in time")]
    TimedOut,
    /// No route, or a router or neighbour said so.
    #[error("unreachable: {0}")]
    Unreachable(#[source] io::Error),
    /// Every source port towards this destination is in use.
    #[error("source_ports_exhausted")]
    SourcePortsExhausted,
    /// Anything else; here it is our side (descriptors, privileges, memory).
    #[error("cannot connect: {0}")]
    Other(#[from] io::Error),
}

/// Connects within `timeout`, all attempts together. Must run on an executor's thread. NODELAY is
/// set, and keep-alive unless the connection goes over the loopback interface.
///
/// # Errors
/// [`ConnectError`]; the sockets of failed attempts are closed.
pub async fn connect(
    upstream: &Upstream<'_>,
    timeout: Duration,
) -> Result<TcpStream, ConnectError> {
    let deadline = Instant::now() + timeout;
    match upstream.source {
        Source::Spoofed { ip, .. } if ip != upstream.destination.ip() => {
            spoofed(upstream, deadline).await
        }
        _ => {
            let socket = upstream.socket()?;
            start(&socket, upstream.destination).map_err(classify)?;
            finish(socket, upstream.destination, deadline).await
        }
    }
}

impl Upstream<'_> {
    fn socket(&self) -> io::Result<Socket> {
        let socket = stock::take(self.netns, Family::of(self.destination))?;
        if self.mark != 0 {
            socket.set_mark(self.mark)?;
        }
        set_nodelay(socket.as_fd())?;
        if self.is_local() {
            // It works without, only slower.
            let _ = option::set_unpaced(socket.as_fd());
        } else {
            set_keepalive(socket.as_fd())?;
        }
        Ok(socket)
    }

    /// Both ends are of this kernel: it tells one when the other is gone, and four system calls
    /// for probes of its own word are saved.
    fn is_local(&self) -> bool {
        matches!(self.source, Source::Spoofed { interface, .. } if interface == LOOPBACK_INTERFACE)
    }
}

async fn spoofed(upstream: &Upstream<'_>, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let mut patience = COLLISION_TIMEOUT;
    loop {
        let socket = start_on_a_free_port(upstream).await?;
        let attempt = deadline.min(Instant::now() + patience);
        patience = patience.saturating_mul(PATIENCE_GROWTH);
        match finish(socket, upstream.destination, attempt).await {
            Err(ConnectError::TimedOut) if Instant::now() < deadline => {}
            result => return result,
        }
    }
}

/// A socket whose connect is on its way from some port of the client's address.
async fn start_on_a_free_port(upstream: &Upstream<'_>) -> Result<Socket, ConnectError> {
    let Source::Spoofed {
        ip,
        interface,
        live,
    } = upstream.source
    else {
        return Err(io::Error::other("no source address was given").into());
    };
    let towards = Towards {
        netns: upstream.netns.id(),
        client: ip,
        destination: upstream.destination,
    };
    let ranges = [
        (SPOOFED_PORTS, Taken::Preferred),
        (SPOOFED_PORTS_BEYOND, Taken::Everything),
    ];
    for (range, taken) in ranges {
        if taken::recall(&towards) >= Some(taken) {
            continue;
        }
        let is_beyond = taken == Taken::Everything;
        let ports = some_of(range).filter(|port| !is_beyond || !live(*port));
        for (tries, port) in ports.enumerate() {
            if tries % TRIES_PER_TURN == TRIES_PER_TURN - 1 {
                yield_now().await;
            }
            if let Some(socket) = start_on(upstream, (ip, port), interface)? {
                return Ok(socket);
            }
        }
        taken::note(towards, taken);
    }
    Err(ConnectError::SourcePortsExhausted)
}

/// A socket whose connect is on its way from this port; None when the port is taken.
fn start_on(
    upstream: &Upstream<'_>,
    (ip, port): (IpAddr, u16),
    interface: &str,
) -> Result<Option<Socket>, ConnectError> {
    let socket = upstream.socket()?;
    option::set_transparent(&socket, Family::of(upstream.destination))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    // Without it the port would be one client's alone, not one client's towards one destination.
    socket.set_reuse_address(true)?;
    let started = socket
        .bind(&SocketAddr::new(ip, port).into())
        .and_then(|()| start(&socket, upstream.destination));
    match started {
        Ok(()) => Ok(Some(socket)),
        Err(error) if is_port_taken(&error) => Ok(None),
        Err(error) => Err(classify(error)),
    }
}

/// [`TRIES`] ports of the range, any of them.
fn some_of(range: RangeInclusive<u16>) -> impl Iterator<Item = u16> {
    (0..TRIES).map(move |_| rand::rng().random_range(range.clone()))
}

fn is_port_taken(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL)
    )
}

fn start(socket: &Socket, destination: SocketAddr) -> io::Result<()> {
    match socket.connect(&destination.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        result => result,
    }
}

async fn finish(
    socket: Socket,
    peer: SocketAddr,
    deadline: Instant,
) -> Result<TcpStream, ConnectError> {
    let waiting = Watched::new(socket.into())?;
    match timeout_at(deadline, waiting.writable()).await {
        Err(_elapsed) => return Err(ConnectError::TimedOut),
        Ok(ready) => ready?,
    }
    if waiting.may_be_broken()
        && let Some(error) = SockRef::from(&waiting).take_error()?
    {
        return Err(classify(error));
    }
    Ok(TcpStream::connected(waiting, peer)?)
}

fn classify(error: io::Error) -> ConnectError {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => ConnectError::Refused,
        Some(libc::ETIMEDOUT) => ConnectError::TimedOut,
        Some(
            libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENETDOWN
            | libc::EACCES,
        ) => ConnectError::Unreachable(error),
        Some(libc::EADDRNOTAVAIL) => ConnectError::SourcePortsExhausted,
        _ => ConnectError::Other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_bounded_and_stays_in_its_range() {
        let ports: Vec<u16> = some_of(SPOOFED_PORTS).collect();
        assert_eq!(ports.len(), TRIES);
        assert!(ports.iter().all(|port| SPOOFED_PORTS.contains(port)));
        assert!(ports.iter().any(|port| *port != ports[0]));
    }

    #[test]
    fn the_kernels_answers_have_the_names_that_a_caller_acts_on() {
        let of = |errno| classify(io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::ECONNREFUSED), ConnectError::Refused));
        assert!(matches!(of(libc::ETIMEDOUT), ConnectError::TimedOut));
        assert!(matches!(
            of(libc::EHOSTUNREACH),
            ConnectError::Unreachable(_)
        ));
        assert!(matches!(
            of(libc::EADDRNOTAVAIL),
            ConnectError::SourcePortsExhausted
        ));
        assert!(matches!(of(libc::EMFILE), ConnectError::Other(_)));
    }
}
