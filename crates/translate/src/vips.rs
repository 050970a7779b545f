//! Addresses for services whose manifest gives none. In a cluster the API server allocates them; a
//! directory of manifests has nobody to, so it is done here, without state of its own.
//!
//! An address is found by a hash of `namespace/name`; when it is taken, the next free one is. Who
//! had an address keeps it: the caller hands the last allocations back in (and keeps them over a
//! restart), so a service that comes later never moves an older one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Allocated addresses by `namespace/name` of the service.
pub type Allocations = BTreeMap<String, Vec<IpAddr>>;

/// Where addresses are allocated from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipRanges {
    /// For IPv4, 10.96.0.0/16 by default (kubeadm's service range).
    pub v4: Ipv4Net,
    /// For IPv6, fd00:10:96::/112 by default.
    pub v6: Ipv6Net,
}

impl Default for VipRanges {
    fn default() -> Self {
        Self {
            v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0), 112),
        }
    }
}

/// Most addresses of a range that are used; a search never takes more steps than this.
const MAX_RANGE_ADDRESSES: u64 = 1 << 16;

/// A range as a first address and a number of them, without its lowest and highest, which are
/// nobody's in IPv4.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    first: u128,
    count: u64,
    v4: bool,
}

impl VipRanges {
    pub(crate) fn range(&self, v4: bool) -> Range {
        let (network, host_bits) = match v4 {
            true => (
                u128::from(self.v4.network().to_bits()),
                32 - self.v4.prefix_len(),
            ),
            false => (self.v6.network().to_bits(), 128 - self.v6.prefix_len()),
        };
        let size = 1u64.checked_shl(u32::from(host_bits)).unwrap_or(u64::MAX);
        let count = size.min(MAX_RANGE_ADDRESSES).saturating_sub(2);
        Range {
            first: network + 1,
            count,
            v4,
        }
    }
}

impl Range {
    fn at(self, index: u64) -> IpAddr {
        let bits = self.first + u128::from(index % self.count);
        match self.v4 {
            // A range of IPv4 starts within 32 bits and ends within them.
            true => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
            false => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        }
    }

    fn contains(self, ip: IpAddr) -> bool {
        let bits = match ip {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        ip.is_ipv4() == self.v4 && bits >= self.first && bits - self.first < u128::from(self.count)
    }

    /// The address `held` before when it is still of the range and free, else the first free one
    /// from the place of `name`; None when the range is full.
    pub(crate) fn take(
        self,
        name: &str,
        held: Option<IpAddr>,
        taken: &mut BTreeSet<IpAddr>,
    ) -> Option<IpAddr> {
        if let Some(ip) = held.filter(|ip| self.contains(*ip) && !taken.contains(ip)) {
            taken.insert(ip);
            return Some(ip);
        }
        if self.count == 0 {
            return None;
        }
        let start = fnv1a(name) % self.count;
        (0..self.count)
            .map(|step| self.at(start + step))
            .find(|ip| taken.insert(*ip))
    }
}

/// FNV-1a of 64 bits (draft-eastlake-fnv): the same in every version of the standard library.
fn fnv1a(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_an_address_keeps_it_and_a_full_range_gives_none() {
        let ranges = VipRanges {
            v4: "10.0.0.0/29".parse().unwrap(),
            ..VipRanges::default()
        };
        let range = ranges.range(true);
        let mut taken = BTreeSet::new();
        let held = "10.0.0.3".parse().ok();
        assert_eq!(range.take("a/a", held, &mut taken), held);
        // Another who claims the same is given another.
        let other = range.take("a/b", held, &mut taken).unwrap();
        assert_ne!(Some(other), held);
        let rest: Vec<_> = (0..10)
            .map(|i| range.take(&format!("a/{i}"), None, &mut taken))
            .collect();
        assert_eq!(rest.iter().flatten().count(), 4);
        assert_eq!(taken.len(), 6);
        assert!(!taken.contains(&"10.0.0.0".parse::<IpAddr>().unwrap()));
        assert!(!taken.contains(&"10.0.0.7".parse::<IpAddr>().unwrap()));
    }
}
