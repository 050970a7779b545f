//! A limit that was reached: what is told of it, and how it is counted.

use std::fmt;

/// The limits past which something is refused, or made to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the fields of `Limits`")]
pub enum Limit {
    ConnectionsPerWorker,
    ConnectionsPerPod,
    ConnectionsPerPeer,
    HandshakesPerWorker,
    HandshakesPerAddress,
    InboundTunnelsPerWorker,
    InboundTunnelsPerPod,
    InboundTunnelsPerPeer,
    OutboundTunnelsPerWorker,
    OutboundTunnelsPerPeer,
    WaitingPerTunnel,
    BufferedPerWorker,
    HttpEndpointConnectionsPerWorker,
    TasksPerWorker,
}

impl Limit {
    /// Its key in a limits file (tasks have none: the others bound them); the label of its counter.
    pub fn key(self) -> &'static str {
        match self {
            Self::ConnectionsPerWorker => "connections_per_worker",
            Self::ConnectionsPerPod => "connections_per_pod",
            Self::ConnectionsPerPeer => "connections_per_peer",
            Self::HandshakesPerWorker => "handshakes_per_worker",
            Self::HandshakesPerAddress => "handshakes_per_address",
            Self::InboundTunnelsPerWorker => "inbound_tunnels_per_worker",
            Self::InboundTunnelsPerPod => "inbound_tunnels_per_pod",
            Self::InboundTunnelsPerPeer => "inbound_tunnels_per_peer",
            Self::OutboundTunnelsPerWorker => "outbound_tunnels_per_worker",
            Self::OutboundTunnelsPerPeer => "outbound_tunnels_per_peer",
            Self::WaitingPerTunnel => "waiting_per_tunnel",
            Self::BufferedPerWorker => "buffered_per_worker",
            Self::HttpEndpointConnectionsPerWorker => "http_endpoint_connections_per_worker",
            Self::TasksPerWorker => "tasks_per_worker",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectionsPerWorker => "connections of this worker",
            Self::ConnectionsPerPod => "connections of this pod on this worker",
            Self::ConnectionsPerPeer => "connections of this client on this worker",
            Self::HandshakesPerWorker => "TLS handshakes in flight of this worker",
            Self::HandshakesPerAddress => "TLS handshakes in flight of this peer address",
            Self::InboundTunnelsPerWorker => "inbound tunnels of this worker",
            Self::InboundTunnelsPerPod => "inbound tunnels of this pod",
            Self::InboundTunnelsPerPeer => "inbound tunnels of this peer",
            Self::OutboundTunnelsPerWorker => "tunnels of this worker",
            Self::OutboundTunnelsPerPeer => "tunnels between two pods",
            Self::WaitingPerTunnel => "connections waiting for one tunnel",
            Self::BufferedPerWorker => "bytes buffered by this worker",
            Self::HttpEndpointConnectionsPerWorker => "connections to endpoints of this worker",
            Self::TasksPerWorker => "tasks of this worker",
        })
    }
}

/// What became of something for a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It was not let in.
    Refused,
    /// It was in, and had to make room for another.
    Evicted,
}

impl Fate {
    /// The label of its counter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Evicted => "evicted",
        }
    }
}

/// A limit was reached, and this is what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reached {
    /// Which.
    pub limit: Limit,
    /// What happened.
    pub fate: Fate,
}

impl Reached {
    /// Something new was not let in.
    pub fn refused(limit: Limit) -> Self {
        let fate = Fate::Refused;
        Self { limit, fate }
    }

    /// Something had to go.
    pub fn evicted(limit: Limit) -> Self {
        let fate = Fate::Evicted;
        Self { limit, fate }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit reached: {}", self.limit)?;
        match self.fate {
            Fate::Refused => Ok(()),
            Fate::Evicted => f.write_str(", this one made room for another"),
        }
    }
}

impl std::error::Error for Reached {}
