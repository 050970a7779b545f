//! A snapshot is what is in it: however it came to be, it equals one that is built afresh, and
//! its lookups give what a search through everything gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::policy::{Action, Scope};
use mesh::workload::{Health, NetworkMode, TunnelProtocol};
use mesh::{
    NetworkAddress, Policy, PolicyKey, Service, ServiceKey, Snapshot, Workload, WorkloadUid,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::fixture::*;

#[derive(Clone, Debug)]
enum Change {
    InsertWorkload(Workload),
    RemoveWorkload(WorkloadUid),
    InsertService(Service),
    RemoveService(ServiceKey),
    InsertPolicy(Policy),
    RemovePolicy(PolicyKey),
}

const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.1.0.1", "fd00::1"];
const RANGES: [&str; 6] = [
    "10.0.0.1/32",
    "10.0.0.0/24",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "fd00::/16",
    "fd00::1/128",
];
const WORKLOADS: [&str; 4] = ["w0", "w1", "w2", "w3"];
const SERVICES: [&str; 3] = ["s0", "s1", "s2"];
const POLICIES: [&str; 3] = ["p0", "p1", "p2"];

prop_compose! {
    fn workload()(
        name in select(WORKLOADS.to_vec()),
        addresses in subsequence(ADDRESSES.to_vec(), 0..=3),
        services in subsequence(SERVICES.to_vec(), 0..=2),
        policies in vec(select(POLICIES.to_vec()), 0..3),
        flags in any::<[bool; 3]>(),
    ) -> Workload {
        let mut made = pod(name, &addresses);
        made.services = services.into_iter().map(|s| (key(s), vec![])).collect();
        made.policies = policies.into_iter().map(policy_key).collect();
        made.health = if flags[0] { Health::Healthy } else { Health::Unhealthy };
        made.network_mode = if flags[1] { NetworkMode::HostNetwork } else { NetworkMode::Standard };
        made.tunnel = if flags[2] { TunnelProtocol::Hbone } else { TunnelProtocol::None };
        made
    }
}

prop_compose! {
    fn a_service()(
        name in select(SERVICES.to_vec()),
        ranges in subsequence(RANGES.to_vec(), 0..=3),
        canonical in any::<bool>(),
    ) -> Service {
        Service { canonical, ..service(name, &ranges) }
    }
}

prop_compose! {
    fn a_policy()(
        name in select(POLICIES.to_vec()),
        scope in select(vec![Scope::Global, Scope::Namespace, Scope::WorkloadSelector]),
        deny in any::<bool>(),
    ) -> Policy {
        policy(name, scope, if deny { Action::Deny } else { Action::Allow }, vec![])
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => workload().prop_map(Change::InsertWorkload),
        2 => select(WORKLOADS.to_vec()).prop_map(|n| Change::RemoveWorkload(uid(n))),
        2 => a_service().prop_map(Change::InsertService),
        1 => select(SERVICES.to_vec()).prop_map(|n| Change::RemoveService(key(n))),
        2 => a_policy().prop_map(Change::InsertPolicy),
        2 => select(POLICIES.to_vec()).prop_map(|n| Change::RemovePolicy(policy_key(n))),
    ]
}

/// The same, kept in the plainest way.
#[derive(Default)]
struct Model {
    workloads: BTreeMap<WorkloadUid, Workload>,
    services: BTreeMap<ServiceKey, Service>,
    policies: BTreeMap<PolicyKey, Policy>,
    kept: BTreeMap<PolicyKey, Policy>,
}

impl Model {
    fn apply(&mut self, change: Change) {
        match change {
            Change::InsertWorkload(w) => drop(self.workloads.insert(w.uid.clone(), w)),
            Change::RemoveWorkload(uid) => drop(self.workloads.remove(&uid)),
            Change::InsertService(s) => drop(self.services.insert(s.key.clone(), s)),
            Change::RemoveService(key) => drop(self.services.remove(&key)),
            Change::InsertPolicy(p) => {
                self.kept.remove(&p.key);
                self.policies.insert(p.key.clone(), p);
            }
            Change::RemovePolicy(key) => {
                if let Some(p) = self.policies.remove(&key) {
                    self.kept.insert(key, p);
                }
            }
        }
        let workloads = &self.workloads;
        self.kept
            .retain(|key, _| workloads.values().any(|w| w.policies.contains(key)));
    }

    fn build(&self, backwards: bool) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for p in self.kept.values().chain(self.policies.values()) {
            snapshot.insert_policy(p.clone());
        }
        let mut workloads: Vec<_> = self.workloads.values().cloned().collect();
        let mut services: Vec<_> = self.services.values().cloned().collect();
        if backwards {
            workloads.reverse();
            services.reverse();
        }
        workloads
            .into_iter()
            .for_each(|w| snapshot.insert_workload(w));
        services
            .into_iter()
            .for_each(|s| snapshot.insert_service(s));
        for key in self.kept.keys() {
            assert!(snapshot.remove_policy(key));
        }
        snapshot
    }

    fn services_at(&self, address: &NetworkAddress) -> Vec<&ServiceKey> {
        let mut found: Vec<_> = self
            .services
            .values()
            .flat_map(|s| s.addresses.iter().map(move |range| (s, range)))
            .filter(|(_, range)| range.contains(address))
            .map(|(s, range)| (u8::MAX - range.cidr.prefix_len(), !s.canonical, &s.key))
            .collect();
        found.sort();
        found.into_iter().map(|(_, _, key)| key).collect()
    }
}

proptest! {
    #[test]
    fn a_snapshot_equals_one_built_afresh(changes in vec(change(), 0..40)) {
        let (mut model, mut snapshot) = (Model::default(), Snapshot::new());
        for change in changes {
            match change.clone() {
                Change::InsertWorkload(w) => snapshot.insert_workload(w),
                Change::RemoveWorkload(uid) => {
                    let there = model.workloads.contains_key(&uid);
                    prop_assert_eq!(snapshot.remove_workload(&uid), there);
                }
                Change::InsertService(s) => snapshot.insert_service(s),
                Change::RemoveService(key) => {
                    let there = model.services.contains_key(&key);
                    prop_assert_eq!(snapshot.remove_service(&key), there);
                }
                Change::InsertPolicy(p) => snapshot.insert_policy(p),
                Change::RemovePolicy(key) => {
                    let there = model.policies.contains_key(&key);
                    prop_assert_eq!(snapshot.remove_policy(&key), there);
                }
            }
            model.apply(change);
        }
        prop_assert_eq!(&snapshot, &model.build(false));
        prop_assert_eq!(&snapshot, &model.build(true));
    }

    #[test]
    fn workloads_that_come_together_are_those_that_come_one_by_one(
        changes in vec(change(), 0..20),
        batches in vec(vec(workload(), 0..12), 0..4),
    ) {
        let (mut together, mut one_by_one) = (Snapshot::new(), Snapshot::new());
        for change in changes {
            for snapshot in [&mut together, &mut one_by_one] {
                match change.clone() {
                    Change::InsertWorkload(w) => snapshot.insert_workload(w),
                    Change::RemoveWorkload(uid) => drop(snapshot.remove_workload(&uid)),
                    Change::InsertService(s) => snapshot.insert_service(s),
                    Change::RemoveService(key) => drop(snapshot.remove_service(&key)),
                    Change::InsertPolicy(p) => snapshot.insert_policy(p),
                    // Which one is kept may follow from the order in which its users come.
                    Change::RemovePolicy(_) => {}
                }
            }
        }
        for batch in batches {
            let before = together.clone();
            let shared = batch.iter().cloned().map(Arc::new).collect();
            let has_changed = together.insert_workloads(shared);
            batch.into_iter().for_each(|w| one_by_one.insert_workload(w));
            prop_assert_eq!(&together, &one_by_one);
            prop_assert_eq!(has_changed, together != before);
        }
        // The counts of references are right too: what is kept goes with the last of them.
        for name in POLICIES {
            let key = policy_key(name);
            prop_assert_eq!(together.remove_policy(&key), one_by_one.remove_policy(&key));
        }
        let uids: Vec<_> = together.workloads().map(|w| w.uid.clone()).collect();
        for uid in uids {
            prop_assert!(together.remove_workload(&uid) && one_by_one.remove_workload(&uid));
            prop_assert_eq!(&together, &one_by_one);
        }
        prop_assert_eq!(together.policies().count(), 0);
    }

    #[test]
    fn lookups_find_what_a_search_finds(changes in vec(change(), 0..40)) {
        let mut model = Model::default();
        changes.into_iter().for_each(|change| model.apply(change));
        let snapshot = model.build(false);
        for text in ADDRESSES.iter().chain(&["10.0.0.9", "11.1.1.1", "fd01::"]) {
            let at = address(text);
            let having = || model.workloads.values().filter(|w| w.has_address(at.ip));
            let own = || having().filter(|w| w.network_mode == NetworkMode::Standard);
            let found = snapshot.workload_by_address(&at);
            match found {
                None => prop_assert!(own().count() == 0 && having().count() != 1),
                Some(w) => {
                    prop_assert!(having().any(|h| h.uid == w.uid));
                    prop_assert!(own().count() == 0 || own().any(|o| o.uid == w.uid));
                }
            }
            let services: Vec<_> = snapshot.services_by_address(&at).map(|s| &s.key).collect();
            prop_assert_eq!(services, model.services_at(&at));
        }
        for name in SERVICES {
            let serves = |w: &&Workload| w.services.contains_key(&key(name));
            let of_service = model.workloads.values().filter(serves);
            let expected: Vec<_> = of_service.map(|w| &w.uid).collect();
            let found: Vec<_> = snapshot.endpoints(&key(name)).map(|w| &w.uid).collect();
            prop_assert_eq!(found, expected);
        }
        for w in model.workloads.values() {
            let all = model.policies.values();
            let unnamed = all.filter(|p| p.scope != Scope::WorkloadSelector).count();
            let known = |key: &&PolicyKey| {
                model.policies.contains_key(key) || model.kept.contains_key(key)
            };
            let named = w.policies.iter().filter(known).count();
            let (known, unknown): (Vec<_>, Vec<_>) =
                snapshot.policies_of(w).partition(Result::is_ok);
            prop_assert_eq!(known.len(), unnamed + named);
            prop_assert_eq!(unknown.len(), w.policies.len() - named);
        }
    }
}
