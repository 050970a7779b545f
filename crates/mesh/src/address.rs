//! Addresses with the network they are valid in. Knows nothing of sockets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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
        Self {
            network: network.into(),
            ip: canonical(ip),
        }
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

impl NetworkCidr {
    /// The range of `length` bits around `ip`; host bits are cleared, and an IPv4-mapped range
    /// of 96 bits or more becomes IPv4. None when the length is more than the address has.
    pub fn new(network: impl Into<Arc<str>>, ip: IpAddr, length: u8) -> Option<Self> {
        let (ip, length) = match (ip, canonical(ip)) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if length >= 96 => (v4, length - 96),
            _ => (ip, length),
        };
        let cidr = IpNet::new(ip, length).ok()?.trunc();
        Some(Self {
            network: network.into(),
            cidr,
        })
    }

    /// The range of this one address.
    pub fn host(address: &NetworkAddress) -> Self {
        Self {
            network: address.network.clone(),
            cidr: IpNet::from(address.ip),
        }
    }

    /// The address, when the range is a single one.
    pub fn single(&self) -> Option<NetworkAddress> {
        let whole = self.cidr.prefix_len() == self.cidr.max_prefix_len();
        whole.then(|| NetworkAddress::new(self.network.clone(), self.cidr.addr()))
    }

    /// Whether the address is in the range and of its network.
    pub fn contains(&self, address: &NetworkAddress) -> bool {
        self.network == address.network && self.cidr.contains(&address.ip)
    }
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

/// What may be done with an address, whoever claims it in discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressClass {
    /// May be a workload, a service or the outside world.
    Ordinary,
    /// Means something only to the one who uses it: loopback, unspecified, "this network"
    /// (RFC 1122, 3.2.1.3), multicast, broadcast. A proxy never connects to it for somebody else.
    Local,
    /// On the own link only, or the address of a cloud's metadata service, which answers by
    /// *where* one asks from. Nothing in the mesh may claim it.
    OwnLink,
}

/// Metadata services outside of the link-local ranges: AWS and Google over IPv6, Alibaba, Azure.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// The class of an address, in whatever form it is written.
pub fn classify(ip: IpAddr) -> AddressClass {
    let ip = canonical(ip);
    let local = ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
    let own_link = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    match (local, own_link || METADATA.contains(&ip)) {
        (true, _) => AddressClass::Local,
        (false, true) => AddressClass::OwnLink,
        (false, false) => AddressClass::Ordinary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(ip: &str, length: u8) -> Option<String> {
        NetworkCidr::new("", ip.parse().unwrap(), length).map(|range| range.to_string())
    }

    #[test]
    fn a_range_has_no_host_bits_and_no_mapped_form() {
        assert_eq!(range("10.1.2.3", 16).unwrap(), "/10.1.0.0/16");
        assert_eq!(range("fd00::1:2", 112).unwrap(), "/fd00::1:0/112");
        assert_eq!(range("::ffff:10.1.2.3", 112).unwrap(), "/10.1.0.0/16");
        assert_eq!(range("::ffff:10.1.2.3", 128).unwrap(), "/10.1.2.3/32");
        assert_eq!(range("::ffff:10.1.2.3", 95).unwrap(), "/::fffe:0:0/95");
    }

    #[test]
    fn a_prefix_longer_than_the_address_is_none() {
        assert_eq!(range("10.1.2.3", 33), None);
        assert_eq!(range("fd00::", 129), None);
        assert_eq!(range("::ffff:10.1.2.3", 129), None);
    }

    #[test]
    fn only_a_whole_prefix_is_a_single_address() {
        let single = |length| {
            let range = NetworkCidr::new("n", IpAddr::from([10, 1, 2, 3]), length).unwrap();
            range.single().map(|address| address.to_string())
        };
        assert_eq!(single(32).unwrap(), "n/10.1.2.3");
        assert_eq!(single(31), None);
    }
}
