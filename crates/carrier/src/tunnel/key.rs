//! What tells tunnels apart. Knows nothing of how they are made.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh::Identity;
use netio::netns::NetnsId;

/// Kubernetes UID of a pod, as the agent names it. Not the name in discovery.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(pub Arc<str>);

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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
    /// The pod that it is made from.
    pub pod: PodUid,
    /// The pod's network namespace: a successor with the same name, identity and even address has
    /// another one, and the sockets of this one are dead.
    pub netns: NetnsId,
}
