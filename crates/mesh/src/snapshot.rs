//! All that is known of the mesh at one moment: an immutable value that is cheap to clone and
//! cheap to change, since its maps share structure (one change among n costs O(log n)).
//!
//! It knows no wire and no time. What is in it does not depend on the order in which it came, with
//! one exception: a removed policy that a workload still names keeps its last content.

mod absent;
mod claims;
mod listed;
mod packed;
mod policies;
mod services;

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use imbl::OrdMap;

use crate::address::{NetworkAddress, NetworkCidr};
use crate::policy::{Policy, PolicyKey};
use crate::service::{Service, ServiceKey};
use crate::workload::{Health, NetworkMode, TunnelProtocol, Workload, WorkloadUid};

use absent::Absent;
pub use absent::MAX_ABSENT;
use claims::{Claimant, Claims};
use listed::Listed;
pub use packed::packed;
use packed::without_gaps;
use policies::Policies;
use services::Services;

/// Workloads, services and policies with the indexes that decisions need.
///
/// `clone` is O(1). All iteration is in the order of the keys, so that the same content always
/// gives the same decisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    workloads: Listed,
    by_address: OrdMap<NetworkAddress, Claims<Workload>>,
    endpoints: OrdMap<ServiceKey, Listed>,
    services: Services,
    policies: Policies,
    absent: Absent,
    addresses_synced: bool,
    policies_synced: bool,
}

impl Snapshot {
    /// A snapshot that knows nothing and is not synced.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a workload, or replaces the one with its uid.
    pub fn insert_workload(&mut self, workload: Workload) {
        let workload = Arc::new(workload);
        // New references first: a kept policy that the old and the new one name must survive.
        self.policies.reference(&workload.policies);
        self.remove_workload(&workload.uid);
        for address in workload.network_addresses() {
            self.absent.remove(&address);
            claims::claim(&mut self.by_address, address, &workload);
        }
        for key in workload.services.keys() {
            let of_service = self.endpoints.entry(key.clone()).or_default();
            of_service.insert(workload.clone());
        }
        self.workloads.insert(workload);
    }

    /// Removes a workload; false when there was none of that name.
    pub fn remove_workload(&mut self, uid: &WorkloadUid) -> bool {
        let Some(old) = self.workloads.remove(uid) else {
            return false;
        };
        for address in old.network_addresses() {
            claims::release(&mut self.by_address, &address, &old);
        }
        for key in old.services.keys() {
            let Some(of_service) = self.endpoints.get_mut(key) else {
                continue;
            };
            of_service.remove(uid);
            if of_service.is_empty() {
                self.endpoints.remove(key);
            }
        }
        self.policies.dereference(&old.policies);
        true
    }

    /// Adds a service, or replaces the one with its key.
    pub fn insert_service(&mut self, service: Service) {
        for range in &service.addresses {
            if let Some(address) = range.single() {
                self.absent.remove(&address);
            }
        }
        self.services.insert(service);
    }

    /// Removes a service; false when there was none of that name.
    pub fn remove_service(&mut self, key: &ServiceKey) -> bool {
        self.services.remove(key)
    }

    /// Adds a policy, or replaces the one with its key.
    pub fn insert_policy(&mut self, policy: Policy) {
        self.policies.insert(policy);
    }

    /// Removes a policy; false when there was none of that name (or it was removed already).
    ///
    /// While a workload names it in [`Workload::policies`], its last content stays in force for
    /// the workloads that name it: removal of a policy and of the references to it are two
    /// messages, and between them nothing may be open that was closed.
    pub fn remove_policy(&mut self, key: &PolicyKey) -> bool {
        self.policies.remove(key)
    }

    /// Gives back the memory that its tables have taken in vain: up to half of it when everything
    /// came in order. It stays equal to what it was, and shares nothing with its clones.
    pub fn pack(&mut self) {
        self.workloads = self.workloads.packed();
        self.by_address = packed(&self.by_address);
        let endpoints = without_gaps(self.endpoints.iter());
        self.endpoints = endpoints
            .map(|(key, of_service)| (key.clone(), of_service.packed()))
            .collect();
        self.services.pack();
    }

    /// The first complete answer on workloads and services is in.
    pub fn set_addresses_synced(&mut self) {
        self.addresses_synced = true;
    }

    /// The first complete answer on policies is in.
    pub fn set_policies_synced(&mut self) {
        self.policies_synced = true;
    }

    /// Whether an address that is not here does not exist in the mesh.
    pub fn addresses_synced(&self) -> bool {
        self.addresses_synced
    }

    /// Whether a policy that is not here does not exist.
    pub fn policies_synced(&self) -> bool {
        self.policies_synced
    }

    /// Notes that discovery said "does not exist" of an address (on-demand discovery).
    ///
    /// Forgotten when a workload or a service with that address comes. At most [`MAX_ABSENT`]
    /// are kept; past that the oldest is forgotten and returned, so that the caller can end its
    /// subscription and ask again when it is needed.
    pub fn mark_absent(&mut self, address: NetworkAddress) -> Option<NetworkAddress> {
        self.absent.insert(address)
    }

    /// Whether it is certain that nothing in the mesh has this address.
    pub fn is_absent(&self, address: &NetworkAddress) -> bool {
        self.addresses_synced || self.absent.contains(address)
    }

    /// The workload of that name.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload that has an address.
    ///
    /// When several claim it: one with a network of its own before one on its node's, a pod
    /// before other things, a healthy one before one that is going away, one in the mesh before
    /// one outside, then the smallest uid. Workloads on their node's network share its address;
    /// such a one is found only when it is the single claimant, since any choice among them
    /// would name the wrong identity.
    pub fn workload_by_address(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        let claims = self.by_address.get(address)?;
        let best = claims.best();
        let ambiguous = best.network_mode == NetworkMode::HostNetwork && claims.len() > 1;
        (!ambiguous).then_some(best)
    }

    /// The service of that name.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The service that has an address: exactly, else in its longest matching range.
    ///
    /// When several claim the same: the canonical one, then the one with the smallest key.
    pub fn service_by_address(&self, address: &NetworkAddress) -> Option<&Arc<Service>> {
        self.services_by_address(address).next()
    }

    /// All services that have an address, the most specific first.
    pub fn services_by_address<'a>(
        &'a self,
        address: &NetworkAddress,
    ) -> impl Iterator<Item = &'a Arc<Service>> + use<'a> {
        self.services.at(address)
    }

    /// Services that list exactly this range, the canonical one first, then by key.
    pub fn services_by_range(&self, range: &NetworkCidr) -> impl Iterator<Item = &Arc<Service>> {
        self.services.listing(range)
    }

    /// Services with a host name, the canonical one first, then by namespace.
    pub fn services_by_hostname(&self, hostname: &str) -> impl Iterator<Item = &Arc<Service>> {
        self.services.named(hostname)
    }

    /// Workloads that are endpoints of a service, in the order of their uids; also of a service
    /// that is not here (yet).
    pub fn endpoints(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Workload>> {
        self.endpoints.get(key).into_iter().flat_map(Listed::all)
    }

    /// All workloads.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.all()
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.all()
    }

    /// All policies, also those removed ones that are kept because a workload names them.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.all()
    }

    /// The policy of that name, also a removed one that is kept because a workload names it.
    pub fn policy(&self, key: &PolicyKey) -> Option<&Arc<Policy>> {
        self.policies.get(key)
    }

    /// Whether a policy was removed and is kept only because a workload names it.
    pub fn policy_is_kept(&self, key: &PolicyKey) -> bool {
        self.policies.is_kept(key)
    }

    /// Policies that apply to a workload: the global ones, those of its namespace, and those it
    /// names (one that it names may come twice). Names of which nothing is known are `Err`.
    pub fn policies_of<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = Result<&'a Arc<Policy>, &'a PolicyKey>> + 'a {
        self.policies.of(workload)
    }
}

impl Claimant for Workload {
    fn precedence(&self, other: &Self) -> Ordering {
        let rank = |w: &Workload| {
            (
                w.network_mode == NetworkMode::Standard,
                w.is_pod(),
                w.health == Health::Healthy,
                w.tunnel == TunnelProtocol::Hbone,
            )
        };
        // Better is smaller: the best claimant stands first.
        Reverse(rank(self))
            .cmp(&Reverse(rank(other)))
            .then_with(|| self.uid.cmp(&other.uid))
    }
}
