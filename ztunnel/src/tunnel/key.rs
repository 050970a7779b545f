//! What tells tunnels apart. Knows nothing of how they are made.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use mesh::Identity;

use crate::pod::PodUid;

/// Connections with the same key may share a tunnel (protocol.md 1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// Whose certificate it is made with.
    pub source: Identity,
    /// One of these the peer must be.
    pub destinations: BTreeSet<Identity>,
    /// Where it is made to.
    pub peer: SocketAddr,
    /// Address of the pod that it is made from.
    pub source_ip: IpAddr,
    /// The pod: its successor with the same name, identity and even address has another network
    /// namespace, and the sockets of this one are dead.
    pub pod: PodUid,
}
