//! The snapshot's indexes, and what it keeps.

use mesh::policy::{Action, Scope};
use mesh::snapshot::MAX_ABSENT;
use mesh::workload::{Health, NetworkMode};
use mesh::{NetworkAddress, Service, ServiceKey, Snapshot, Workload};

use crate::fixture::*;

fn names<'a>(of: impl Iterator<Item = &'a std::sync::Arc<Workload>>) -> Vec<String> {
    of.map(|w| w.name.to_string()).collect()
}

#[test]
fn two_workloads_with_one_address_do_not_lose_each_other() {
    let (a, b) = (pod("a", &["10.0.1.1"]), pod("b", &["10.0.1.1", "10.0.1.2"]));
    let mut s = world(vec![b.clone(), a.clone()], vec![]);
    let at = address("10.0.1.1");
    assert_eq!(
        s.workload_by_address(&at).unwrap().uid,
        a.uid,
        "the smaller uid"
    );
    assert!(s.remove_workload(&a.uid));
    assert_eq!(s.workload_by_address(&at).unwrap().uid, b.uid);
    s.insert_workload(a.clone());
    assert!(s.remove_workload(&b.uid));
    assert_eq!(s.workload_by_address(&at).unwrap().uid, a.uid);
    assert!(s.workload_by_address(&address("10.0.1.2")).is_none());
    assert!(s.remove_workload(&a.uid));
    assert!(s.workload_by_address(&at).is_none());
    assert!(!s.remove_workload(&a.uid));
}

#[test]
fn a_pod_that_is_going_away_gives_its_address_to_the_next() {
    let old = {
        let mut made = pod("a-old", &["10.0.1.1"]);
        made.health = Health::Unhealthy;
        made
    };
    let s = world(vec![old, pod("z-new", &["10.0.1.1"])], vec![]);
    assert_eq!(
        s.workload_by_address(&address("10.0.1.1")).unwrap().uid,
        uid("z-new")
    );
}

#[test]
fn workloads_on_their_nodes_network_are_found_only_alone() {
    let host = |name: &str| {
        let mut made = pod(name, &["172.30.1.1"]);
        made.network_mode = NetworkMode::HostNetwork;
        made
    };
    let at = address("172.30.1.1");
    let mut s = world(vec![host("a")], vec![]);
    assert_eq!(s.workload_by_address(&at).unwrap().uid, uid("a"));
    s.insert_workload(host("b"));
    assert!(
        s.workload_by_address(&at).is_none(),
        "either would name a wrong identity"
    );
    s.insert_workload(pod("z", &["172.30.1.1"]));
    assert_eq!(s.workload_by_address(&at).unwrap().uid, uid("z"));
}

#[test]
fn replacing_a_workload_moves_its_addresses_and_services() {
    let mut s = world(vec![endpoint("a", &["10.0.1.1"], "web")], vec![]);
    s.insert_workload(endpoint("a", &["10.0.1.9"], "api"));
    assert!(s.workload_by_address(&address("10.0.1.1")).is_none());
    assert!(s.workload_by_address(&address("10.0.1.9")).is_some());
    assert_eq!(names(s.endpoints(&key("web"))), Vec::<String>::new());
    assert_eq!(names(s.endpoints(&key("api"))), ["a"]);
    assert_eq!(s.workloads().count(), 1);
}

#[test]
fn the_same_address_in_two_networks_is_two_addresses() {
    let west = {
        let mut made = pod("w", &["10.0.1.1"]);
        made.network = "west".into();
        made
    };
    let s = world(vec![pod("e", &["10.0.1.1"]), west], vec![]);
    assert_eq!(
        s.workload_by_address(&address("10.0.1.1")).unwrap().uid,
        uid("e")
    );
    let there = NetworkAddress::new("west", ip("10.0.1.1"));
    assert_eq!(s.workload_by_address(&there).unwrap().uid, uid("w"));
}

#[test]
fn services_are_found_by_the_longest_range() {
    let mut s = world(
        vec![],
        vec![
            service("all", &["0.0.0.0/0"]),
            service("wide", &["10.0.0.0/8"]),
            service("narrow", &["10.1.0.0/16", "fd00::/16"]),
            service("host", &["10.1.2.3/32"]),
        ],
    );
    let find = |s: &Snapshot, text: &str| {
        s.service_by_address(&address(text))
            .map(|found| found.name.to_string())
    };
    assert_eq!(find(&s, "10.1.2.3").unwrap(), "host");
    assert_eq!(find(&s, "10.1.2.4").unwrap(), "narrow");
    assert_eq!(find(&s, "10.2.0.1").unwrap(), "wide");
    assert_eq!(find(&s, "11.0.0.1").unwrap(), "all");
    assert_eq!(find(&s, "fd00::1").unwrap(), "narrow");
    assert_eq!(find(&s, "fe00::1"), None);
    let all: Vec<_> = s
        .services_by_address(&address("10.1.2.3"))
        .map(|f| f.name.to_string())
        .collect();
    assert_eq!(all, ["host", "narrow", "wide", "all"]);
    s.remove_service(&key("narrow"));
    assert_eq!(find(&s, "10.1.2.4").unwrap(), "wide");
    assert_eq!(find(&s, "fd00::1"), None);
}

#[test]
fn the_canonical_service_answers_for_its_host_name() {
    let of = |namespace: &str, canonical| Service {
        key: ServiceKey {
            namespace: namespace.into(),
            hostname: "db.example.com".into(),
        },
        canonical,
        ..service("db", &["10.96.0.1/32"])
    };
    let s = world(vec![], vec![of("a", false), of("b", true), of("c", false)]);
    let found: Vec<_> = s
        .services_by_hostname("db.example.com")
        .map(|f| f.key.namespace.to_string())
        .collect();
    assert_eq!(found, ["b", "a", "c"]);
    assert_eq!(
        &*s.service_by_address(&address("10.96.0.1"))
            .unwrap()
            .key
            .namespace,
        "b"
    );
}

#[test]
fn a_removed_policy_is_kept_while_a_workload_names_it() {
    let user = {
        let mut made = pod("a", &["10.0.1.1"]);
        made.policies = vec![policy_key("p")];
        made
    };
    let p = policy("p", Scope::Namespace, Action::Deny, vec![always()]);
    let mut s = world(vec![user.clone(), pod("b", &["10.0.1.2"])], vec![]);
    s.insert_policy(p.clone());
    assert!(s.remove_policy(&p.key));
    assert!(s.policy_is_kept(&p.key));
    assert_eq!(**s.policy(&p.key).unwrap(), p);
    let of = |s: &Snapshot, name: &str| {
        s.policies_of(s.workload(&uid(name)).unwrap())
            .filter(Result::is_ok)
            .count()
    };
    assert_eq!(
        (of(&s, "a"), of(&s, "b")),
        (1, 0),
        "no longer that of its namespace"
    );
    assert!(!s.remove_policy(&p.key), "it was removed already");
    // Replacing the workload by one that still names it keeps it.
    s.insert_workload(user.clone());
    assert!(s.policy(&p.key).is_some());
    // Inserted again, it is what it was.
    s.insert_policy(p.clone());
    assert!(!s.policy_is_kept(&p.key));
    assert_eq!(of(&s, "b"), 1);
    s.remove_policy(&p.key);
    s.insert_workload({
        let mut made = user;
        made.policies = vec![];
        made
    });
    assert!(s.policy(&p.key).is_none(), "nobody names it");
}

#[test]
fn a_removed_policy_that_nobody_names_is_gone() {
    let mut s = Snapshot::new();
    s.insert_policy(policy("p", Scope::Global, Action::Allow, vec![]));
    assert!(s.remove_policy(&policy_key("p")));
    assert!(s.policy(&policy_key("p")).is_none());
    assert_eq!(s.policies().count(), 0);
}

#[test]
fn absence_ends_when_the_address_comes_and_is_bounded() {
    let mut s = Snapshot::new();
    s.mark_absent(address("10.0.1.1"));
    s.mark_absent(address("10.96.0.1"));
    s.insert_workload(pod("a", &["10.0.1.1"]));
    s.insert_service(service("web", &["10.96.0.1/32"]));
    assert!(!s.is_absent(&address("10.0.1.1")));
    assert!(!s.is_absent(&address("10.96.0.1")));

    let nth = |n: usize| NetworkAddress::new("", std::net::Ipv4Addr::from(n as u32 + 1).into());
    let evicted: Vec<_> = (0..MAX_ABSENT + 2)
        .filter_map(|n| s.mark_absent(nth(n)))
        .collect();
    assert_eq!(evicted, [nth(0), nth(1)], "the oldest go");
    assert!(!s.is_absent(&nth(0)));
    assert!(s.is_absent(&nth(2)));
}

#[test]
fn a_clone_does_not_see_later_changes() {
    let before = world(vec![pod("a", &["10.0.1.1"])], vec![]);
    let mut after = before.clone();
    after.remove_workload(&uid("a"));
    assert!(before.workload(&uid("a")).is_some());
    assert!(after.workload(&uid("a")).is_none());
}

#[test]
fn what_is_made_of_a_workload_follows_its_changes() {
    let mut workload = pod("a", &["10.0.0.1"]);
    let replica = workload.clone();
    let before = workload.identity().unwrap();
    assert_eq!(&**workload.described(|_| "old".to_owned()), "old");
    assert_eq!(&**replica.described(|_| "not asked".to_owned()), "old");
    workload.service_account = "another".into();
    let after = workload.identity().unwrap();
    assert_eq!(after.service_account(), "another");
    assert_eq!(&**workload.described(|_| "new".to_owned()), "new");
    // Also when nobody shares it.
    workload.service_account = before.service_account().into();
    assert_eq!(workload.identity().unwrap(), before);
    assert_eq!(replica.identity().unwrap(), before);
}

#[test]
fn a_packed_snapshot_knows_the_same() {
    let mut snapshot = Snapshot::new();
    for number in 0..200 {
        let address = format!("10.0.0.{number}");
        let name = format!("w{number:03}");
        snapshot.insert_workload(pod(&name, &[&address]));
    }
    let before = snapshot.clone();
    snapshot.pack();
    assert_eq!(snapshot, before);
    let gone = before.workloads().next().unwrap().uid.clone();
    assert!(snapshot.remove_workload(&gone) && snapshot != before);
}
