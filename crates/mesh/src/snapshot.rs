//! All that is known of the mesh at one moment: an immutable value that is cheap to clone and
//! cheap to change, since its maps share structure (one change among n costs O(log n)).
//!
//! It knows no wire and no time. What is in it does not depend on the order in which it came, with
//! one exception: a removed policy that a workload still names keeps its last content.

mod absent;
mod addressed;
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
use addressed::Addressed;
use claims::Claimant;
use listed::Listed;
pub use packed::{extend, packed};
use packed::{is_much, without_gaps};
use policies::Policies;
use services::Services;

/// Workloads, services and policies with the indexes that decisions need.
///
/// `clone` is O(1). All iteration is in the order of the keys, so that the same content always
/// gives the same decisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    workloads: Listed,
    by_address: Addressed,
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
        self.insert_shared(Arc::new(workload));
    }

    fn insert_shared(&mut self, workload: Arc<Workload>) {
        // New references first: a kept policy that the old and the new one name must survive.
        self.policies.reference(&workload.policies);
        self.remove_workload(&workload.uid);
        for address in workload.network_addresses() {
            self.absent.remove(&address);
            self.by_address.claim(address, &workload);
        }
        for key in workload.services.keys() {
            let of_service = self.endpoints.entry(key.clone()).or_default();
            of_service.insert(workload.clone());
        }
        self.workloads.insert(workload);
    }

    /// Adds workloads, or replaces those with their uids; of two with the same uid the later one
    /// counts. Says whether there was one that it did not have word for word.
    ///
    /// If they are many for what is there, all tables of workloads are made anew, without gaps, and
    /// share nothing with those of its clones: memory that a table has grown out of stands between
    /// what is in use and is not given back.
    pub fn insert_workloads(&mut self, mut new: Vec<Arc<Workload>>) -> bool {
        // Stable: of the same uids the last one stays behind the others.
        new.sort_by(|a, b| a.uid.cmp(&b.uid));
        drop(keep_last(&mut new));
        new.retain(|new| self.workload(&new.uid) != Some(new));
        if !is_much(new.len(), self.workloads.len()) {
            let any = !new.is_empty();
            new.into_iter().for_each(|it| self.insert_shared(it));
            return any;
        }
        for workload in &new {
            // New references first, as above.
            self.policies.reference(&workload.policies);
            for address in workload.network_addresses() {
                self.absent.remove(&address);
            }
        }
        let mut all = Vec::with_capacity(self.workloads.len() + new.len());
        all.extend(self.workloads.all().cloned());
        all.extend(new);
        all.sort_by(|a, b| a.uid.cmp(&b.uid));
        for old in keep_last(&mut all) {
            self.policies.dereference(&old.policies);
        }
        self.index(&all);
        true
    }

    /// Makes the tables of workloads, of all of them in the order of their uids.
    fn index(&mut self, all: &[Arc<Workload>]) {
        self.workloads = Listed::of(all.iter());
        self.by_address = Addressed::of(all);
        let serving = all
            .iter()
            .flat_map(|workload| workload.services.keys().map(move |key| (key, workload)));
        let mut serving: Vec<_> = serving.collect();
        // Stable: the order of the uids stays.
        serving.sort_by(|a, b| a.0.cmp(b.0));
        let services = serving.chunk_by(|a, b| a.0 == b.0).map(|of_one| {
            let endpoints = of_one.iter().map(|(_, workload)| *workload);
            (of_one[0].0.clone(), Listed::of(endpoints))
        });
        let services: Vec<_> = services.collect();
        self.endpoints = without_gaps(services.iter()).cloned().collect();
    }

    /// Removes a workload; false when there was none of that name.
    pub fn remove_workload(&mut self, uid: &WorkloadUid) -> bool {
        let Some(old) = self.workloads.remove(uid) else {
            return false;
        };
        for address in old.network_addresses() {
            self.by_address.release(&address, &old);
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
        self.by_address = self.by_address.packed();
        let endpoints = without_gaps(self.endpoints.iter());
        self.endpoints = endpoints
            .map(|(key, of_service)| (key.clone(), of_service.packed()))
            .collect();
        self.pack_services();
    }

    /// As [`Snapshot::pack`], of the services alone.
    pub fn pack_services(&mut self) {
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

/// Keeps of workloads with the same uid, which stand side by side, the last one; gives the others.
fn keep_last(sorted: &mut Vec<Arc<Workload>>) -> Vec<Arc<Workload>> {
    let mut others = Vec::new();
    sorted.dedup_by(|later, earlier| {
        let is_same = later.uid == earlier.uid;
        if is_same {
            others.push(std::mem::replace(earlier, Arc::clone(later)));
        }
        is_same
    });
    others
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
