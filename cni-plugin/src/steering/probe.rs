//! A connection that an application of the pod could make, made by the agent, to see where it goes.
//!
//! It is a whole connect(): hook, rule, route, sk_lookup and listener must work for it to succeed.
//! Yet nobody gets it. With TCP_QUICKACK off the client holds the last ACK of the handshake back
//! for up to 200 ms (TCP_DELACK_MAX; net/ipv4/tcp_input.c, tcp_rcv_synsent_state_process), and the
//! socket is closed at once with linger 0, so that the listener sees SYN and RST: no proxy accepts
//! anything (measured: 0 of 400). Where capture is broken its one SYN has a TTL of 1 and ends at
//! the node.
//!
//! Must run in a thread that is in the pod's namespace. Knows no pods.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::abi::{MARK_CAPTURE, MARK_MASK};

/// Documentation addresses (RFC 5737, RFC 3849): nobody answers there but the capture.
const NOWHERE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The same for IPv6.
const NOWHERE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// The port of outbound probes: ztunnel's own outbound port, which no application means.
const OUTBOUND_PORT: u16 = 15001;
/// The port that leads to the HBONE listener, whoever connects.
const HBONE_PORT: u16 = 15008;
/// How long an answer may take. It comes from the same kernel within microseconds; what takes
/// longer was lost. Shorter than the first retransmission of a SYN (1 s).
const ANSWER_WAIT: Duration = Duration::from_millis(900);
/// The first router ends what was not captured.
const TTL: u32 = 1;

/// Where a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To a foreign address, as the application's connections.
    Outbound,
    /// To the pod's own address, port 15008, as a peer's tunnel.
    Inbound,
}

impl Way {
    /// The destination, for a pod with this address.
    pub fn destination(self, own: IpAddr) -> SocketAddr {
        match (self, own) {
            (Self::Inbound, own) => SocketAddr::new(own, HBONE_PORT),
            (Self::Outbound, IpAddr::V4(_)) => SocketAddr::new(NOWHERE_V4, OUTBOUND_PORT),
            (Self::Outbound, IpAddr::V6(_)) => SocketAddr::new(NOWHERE_V6, OUTBOUND_PORT),
        }
    }

    /// The counter of the steering program that it moves.
    pub fn counter(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "hbone",
        }
    }
}

/// What became of a probe.
#[derive(Debug)]
pub struct Seen {
    /// Whether the socket carries the capture mark.
    pub marked: bool,
    /// Whether a listener answered.
    pub answered: io::Result<()>,
}

/// Connects and aborts. `mark` sets the mark by hand, for an agent whose own sockets the connect
/// hook does not see. Blocks for up to 900 ms.
///
/// # Errors
/// When there is no socket to be had; a connection that fails is in [`Seen`].
pub fn connect(to: SocketAddr, mark: bool) -> io::Result<Seen> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_quickack(false)?;
    match to {
        SocketAddr::V4(_) => socket.set_ttl_v4(TTL)?,
        SocketAddr::V6(_) => socket.set_unicast_hops_v6(TTL)?,
    }
    if mark {
        socket.set_mark(MARK_CAPTURE)?;
    }
    let answered = socket.connect_timeout(&to.into(), ANSWER_WAIT);
    let marked = netio::socket::mark(socket.as_fd())? & MARK_MASK == MARK_CAPTURE;
    Ok(Seen { marked, answered })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_probe_is_answered_and_nobody_accepts_it() {
        for own in ["127.0.0.1", "::1"] {
            let listener = TcpListener::bind((own, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            let to = listener.local_addr().unwrap();
            for _ in 0..20 {
                connect(to, false).unwrap().answered.unwrap();
            }
            let accepted = listener.accept().unwrap_err();
            assert_eq!(accepted.kind(), io::ErrorKind::WouldBlock, "{own}");
        }
    }

    #[test]
    fn a_closed_port_is_no_answer() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let to = listener.local_addr().unwrap();
        drop(listener);
        let seen = connect(to, false).unwrap();
        assert_eq!(
            seen.answered.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(!seen.marked);
    }
}
