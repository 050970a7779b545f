//! Workloads by address, apart for each network: an entry has no need to name it. Knows nothing of
//! services.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::claims::{self, Claimant, Claims};
use super::packed::{packed, without_gaps};
use crate::address::{NetworkAddress, canonical};
use crate::workload::Workload;

/// Who has an address.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Addressed(OrdMap<Arc<str>, OfNetwork>);

type OfNetwork = OrdMap<IpAddr, Claims<Workload>>;

/// That a workload has an address.
struct Claim<'a> {
    network: &'a Arc<str>,
    ip: IpAddr,
    workload: &'a Arc<Workload>,
}

impl Addressed {
    /// Of all of these; without gaps.
    pub(super) fn of(workloads: &[Arc<Workload>]) -> Self {
        let claims = workloads.iter().flat_map(|workload| {
            let addresses = workload.addresses.iter();
            addresses.map(|ip| Claim {
                network: &workload.network,
                ip: canonical(*ip),
                workload,
            })
        });
        let mut claims: Vec<_> = claims.collect();
        claims.sort_by(|a, b| {
            let (key, other) = ((a.network, a.ip), (b.network, b.ip));
            key.cmp(&other)
                .then_with(|| a.workload.precedence(b.workload))
        });
        // A workload that lists an address twice.
        claims.dedup_by(|a, b| a.ip == b.ip && Arc::ptr_eq(a.workload, b.workload));
        let networks = claims.chunk_by(|a, b| a.network == b.network);
        let networks = networks.map(|of_one| (of_one[0].network.clone(), of_network(of_one)));
        Self(networks.collect())
    }

    pub(super) fn get(&self, address: &NetworkAddress) -> Option<&Claims<Workload>> {
        self.0.get(&*address.network)?.get(&address.ip)
    }

    pub(super) fn claim(&mut self, address: NetworkAddress, workload: &Arc<Workload>) {
        let of_network = self.0.entry(address.network).or_default();
        claims::claim(of_network, address.ip, workload);
    }

    pub(super) fn release(&mut self, address: &NetworkAddress, workload: &Arc<Workload>) {
        let Some(of_network) = self.0.get_mut(&*address.network) else {
            return;
        };
        claims::release(of_network, &address.ip, workload);
        if of_network.is_empty() {
            self.0.remove(&*address.network);
        }
    }

    /// See [`super::packed`].
    pub(super) fn packed(&self) -> Self {
        let networks = self.0.iter();
        Self(
            networks
                .map(|(name, of)| (name.clone(), packed(of)))
                .collect(),
        )
    }
}

/// Of claims in the order of their addresses, and for each in that of the claimants.
fn of_network(claims: &[Claim<'_>]) -> OfNetwork {
    let addresses = claims.chunk_by(|a, b| a.ip == b.ip).filter_map(|of_one| {
        let claimants = of_one.iter().map(|claim| Arc::clone(claim.workload));
        Some((of_one[0].ip, Claims::of(claimants.collect())?))
    });
    let addresses: Vec<_> = addresses.collect();
    without_gaps(addresses.iter()).cloned().collect()
}
