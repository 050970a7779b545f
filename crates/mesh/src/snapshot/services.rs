//! Services by name, by host name and by address. Knows nothing of endpoints.

use std::cmp::{Ordering, Reverse};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::claims::{self, Claimant, Claims};
use super::packed;
use crate::address::{NetworkAddress, NetworkCidr};
use crate::service::{Service, ServiceKey};

/// A length of prefix in use: network, whether IPv6, and the length, longest first.
type PrefixLength = (Arc<str>, bool, Reverse<u8>);

/// Services and their indexes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Services {
    by_key: OrdMap<ServiceKey, Arc<Service>>,
    by_hostname: OrdMap<Arc<str>, Claims<Service>>,
    by_range: OrdMap<NetworkCidr, Claims<Service>>,
    /// How many services use each length of prefix: a lookup tries these only, which in nearly
    /// every mesh are one for IPv4 and one for IPv6.
    lengths: OrdMap<PrefixLength, u32>,
}

impl Services {
    pub(super) fn insert(&mut self, service: Service) {
        self.remove(&service.key);
        let service = Arc::new(service);
        claims::claim(
            &mut self.by_hostname,
            service.key.hostname.clone(),
            &service,
        );
        for range in &service.addresses {
            *self.lengths.entry(length_of(range)).or_insert(0) += 1;
            claims::claim(&mut self.by_range, range.clone(), &service);
        }
        self.by_key.insert(service.key.clone(), service);
    }

    pub(super) fn remove(&mut self, key: &ServiceKey) -> bool {
        let Some(old) = self.by_key.remove(key) else {
            return false;
        };
        claims::release(&mut self.by_hostname, &old.key.hostname, &old);
        for range in &old.addresses {
            claims::release(&mut self.by_range, range, &old);
            let length = length_of(range);
            match self.lengths.get(&length) {
                Some(users) if *users > 1 => {
                    let rest = users - 1;
                    self.lengths.insert(length, rest);
                }
                _ => {
                    self.lengths.remove(&length);
                }
            }
        }
        true
    }

    /// See [`super::packed`].
    pub(super) fn pack(&mut self) {
        self.by_key = packed(&self.by_key);
        self.by_hostname = packed(&self.by_hostname);
        self.by_range = packed(&self.by_range);
    }

    pub(super) fn get(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.by_key.get(key)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_key.values()
    }

    pub(super) fn named(&self, hostname: &str) -> impl Iterator<Item = &Arc<Service>> {
        self.by_hostname
            .get(hostname)
            .into_iter()
            .flat_map(|claims| claims.iter())
    }

    pub(super) fn listing(&self, range: &NetworkCidr) -> impl Iterator<Item = &Arc<Service>> {
        self.by_range
            .get(range)
            .into_iter()
            .flat_map(|claims| claims.iter())
    }

    /// Services that have the address, longest prefix first, in it the best claimant first.
    pub(super) fn at<'a>(
        &'a self,
        address: &NetworkAddress,
    ) -> impl Iterator<Item = &'a Arc<Service>> + use<'a> {
        let NetworkAddress { network, ip } = address.clone();
        let v6 = ip.is_ipv6();
        let first = (network.clone(), v6, Reverse(u8::MAX));
        let last = (network.clone(), v6, Reverse(0));
        self.lengths
            .range(first..=last)
            .filter_map(move |((_, _, length), _)| NetworkCidr::new(network.clone(), ip, length.0))
            .filter_map(|range| self.by_range.get(&range))
            .flat_map(|claims| claims.iter())
    }
}

fn length_of(range: &NetworkCidr) -> PrefixLength {
    let v6 = matches!(range.cidr.addr(), IpAddr::V6(_));
    (range.network.clone(), v6, Reverse(range.cidr.prefix_len()))
}

impl Claimant for Service {
    fn precedence(&self, other: &Self) -> Ordering {
        other
            .canonical
            .cmp(&self.canonical)
            .then_with(|| self.key.cmp(&other.key))
    }
}
