//! Addresses with the network they are valid in. Knows nothing of sockets.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// TCP port on which every pod and waypoint takes HBONE.
pub const HBONE_PORT: u16 = 15008;

/// Ports that belong to the proxy in every enrolled pod: never a destination of a tunnel
/// (a connection to one of them would come back to the proxy).
pub const OWN_PORTS: [u16; 4] = [15001, 15006, HBONE_PORT, 15080];

/// An IP address in a named network; the same IP may exist in two networks.
///
/// The network name is empty in a mesh of a single network (the default).
/// Shown as `network/ip`, which is also the alias that on-demand discovery subscribes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    /// Name of the network, empty by default.
    pub network: Arc<str>,
    /// The address; an IPv4-mapped IPv6 address never appears here (see [`canonical`]).
    pub ip: IpAddr,
}

impl NetworkAddress {
    /// An address in `network`; IPv4-mapped IPv6 becomes IPv4.
    pub fn new(network: impl Into<Arc<str>>, ip: IpAddr) -> Self {
        Self { network: network.into(), ip: canonical(ip) }
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}

/// A range of addresses in a named network; a single address is a /32 or /128.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkCidr {
    /// Name of the network, empty by default.
    pub network: Arc<str>,
    /// The range, with host bits cleared.
    pub cidr: IpNet,
}

impl fmt::Display for NetworkCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.cidr)
    }
}

/// `::ffff:a.b.c.d` as `a.b.c.d`; everything else as it is.
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
