//! Choice of endpoints: who may be drawn, and how often.

use std::collections::BTreeMap;

use mesh::Workload;
use mesh::decide::Route;
use mesh::endpoint::{self, Endpoint, EndpointQuery, NoEndpoint};
use mesh::service::{HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, LocalityScope};
use mesh::workload::{Health, Locality};
use proptest::prelude::*;

use crate::fixture::*;

fn choose(
    workloads: Vec<Workload>,
    balancing: LoadBalancing,
    entropy: u64,
) -> Result<Endpoint, NoEndpoint> {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.load_balancing = balancing;
    let snapshot = world(workloads, vec![web.clone()]);
    let query = EndpointQuery {
        source: &client_at("r1", "z1", "s1", "n1"),
        service: &web,
        port: 80,
        family_of: ip("10.96.0.1"),
        tried: &[],
        unmapped_port: false,
    };
    endpoint::choose(&snapshot, &query, &mut || entropy)
}

fn locality(region: &str, zone: &str, subzone: &str) -> Locality {
    Locality {
        region: region.into(),
        zone: zone.into(),
        subzone: subzone.into(),
    }
}

fn client_at(region: &str, zone: &str, subzone: &str, node: &str) -> Workload {
    {
        let mut made = client();
        made.locality = locality(region, zone, subzone);
        made.node = node.into();
        made
    }
}

fn balancing(mode: LoadBalancingMode, preference: &[LocalityScope]) -> LoadBalancing {
    LoadBalancing {
        mode,
        routing_preference: preference.to_vec(),
        ..LoadBalancing::default()
    }
}

#[test]
fn each_endpoint_is_drawn_as_often_as_its_capacity_says() {
    let capacities = [3u32, 0, 1, 4];
    let total = 8u64;
    let mut drawn = BTreeMap::new();
    for step in 0..total {
        let workloads = capacities.iter().enumerate().map(|(i, capacity)| {
            let mut made = endpoint(&format!("w{i}"), &[&format!("10.0.1.{i}")], "web");
            made.capacity = *capacity;
            made
        });
        let entropy = step * (u64::MAX / total + 1);
        let chosen = choose(workloads.collect(), LoadBalancing::default(), entropy).unwrap();
        *drawn.entry(chosen.workload.name.to_string()).or_insert(0) += 1;
    }
    let expected = [("w0", 3), ("w2", 1), ("w3", 4)].map(|(n, c)| (n.to_string(), c));
    assert_eq!(drawn, BTreeMap::from(expected));
}

#[test]
fn the_other_family_is_taken_only_when_none_of_the_wanted_one_is_left() {
    let six = endpoint("six", &["fd00::6"], "web");
    let four = endpoint("four", &["10.0.1.4"], "web");
    let only_six = choose(vec![six.clone()], LoadBalancing::default(), 0).unwrap();
    assert_eq!(only_six.address, at("[fd00::6]:8080"));
    for entropy in [0, u64::MAX / 2, u64::MAX] {
        let workloads = vec![six.clone(), four.clone()];
        let chosen = choose(workloads, LoadBalancing::default(), entropy).unwrap();
        assert_eq!(chosen.address, at("10.0.1.4:8080"));
    }
    let strict = balancing(LoadBalancingMode::Strict, &[LocalityScope::Node]);
    let far = {
        let mut made = four;
        made.node = "n2".into();
        made
    };
    let chosen = choose(vec![six, far], strict, 0).unwrap();
    assert_eq!(
        chosen.address,
        at("[fd00::6]:8080"),
        "strict goes before the family"
    );
}

#[test]
fn a_service_of_one_family_uses_no_address_of_the_other() {
    let both = endpoint("both", &["10.0.1.4", "fd00::4"], "web");
    for (families, v4, v6) in [
        (IpFamilies::Ipv4Only, "10.0.1.4:8080", "10.0.1.4:8080"),
        (IpFamilies::Ipv6Only, "[fd00::4]:8080", "[fd00::4]:8080"),
        (IpFamilies::Dual, "10.0.1.4:8080", "[fd00::4]:8080"),
    ] {
        let mut web = service("web", &["10.96.0.1/32", "fd00:96::1/128"]);
        web.ip_families = families;
        let s = world(vec![both.clone()], vec![web]);
        for (used, expected) in [("10.96.0.1:80", v4), ("[fd00:96::1]:80", v6)] {
            let Route::Hbone(route) = send(&s, used).route else {
                panic!("{families:?}")
            };
            assert_eq!(route.authority, expected, "{families:?}");
        }
    }
}

#[test]
fn an_unhealthy_endpoint_is_drawn_only_where_the_service_allows_it() {
    let sick = {
        let mut made = endpoint("a", &["10.0.1.1"], "web");
        made.health = Health::Unhealthy;
        made
    };
    let none = choose(vec![sick.clone()], LoadBalancing::default(), 0).unwrap_err();
    assert_eq!((none.known, none.unhealthy), (1, 1));
    let all = LoadBalancing {
        health: HealthPolicy::AllowAll,
        ..LoadBalancing::default()
    };
    assert!(choose(vec![sick], all, 0).is_ok());
}

#[test]
fn an_endpoint_without_a_target_for_a_named_port_is_not_drawn() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.ports = vec![port(80, 0)];
    let mut named = endpoint("a", &["10.0.1.1"], "web");
    assert_eq!(endpoint::target_port(&web, &named, 80), None);
    named.services.insert(key("web"), vec![port(80, 7070)]);
    assert_eq!(endpoint::target_port(&web, &named, 80), Some(7070));
    assert_eq!(endpoint::target_port(&web, &named, 81), None);
}

#[test]
fn failover_prefers_the_longest_matched_prefix() {
    use LocalityScope::{Network, Region, Zone};
    let at = |name: &str, n: u8, region: &str, zone: &str| {
        let mut made = endpoint(name, &[&format!("10.0.1.{n}")], "web");
        made.locality = locality(region, zone, "");
        made
    };
    let failover = || balancing(LoadBalancingMode::Failover, &[Network, Region, Zone]);
    // The zone has the right name, but of another region: the prefix ends before it.
    let far = at("far", 1, "r2", "z1");
    let near = at("near", 2, "r1", "z9");
    let same = at("same", 3, "r1", "z1");
    for entropy in [0, u64::MAX / 3, u64::MAX] {
        let all = vec![far.clone(), near.clone(), same.clone()];
        assert_eq!(
            &*choose(all, failover(), entropy).unwrap().workload.name,
            "same"
        );
        let two = vec![far.clone(), near.clone()];
        assert_eq!(
            &*choose(two, failover(), entropy).unwrap().workload.name,
            "near"
        );
        let one = vec![far.clone()];
        assert_eq!(
            &*choose(one, failover(), entropy).unwrap().workload.name,
            "far"
        );
    }
}

#[test]
fn a_preference_that_begins_with_network_puts_it_before_all_else() {
    use LocalityScope::{Network, Node, Region, Zone};
    let preference = balancing(LoadBalancingMode::Failover, &[Network, Region, Zone, Node]);
    let source = client_at("r1", "z1", "s1", "n1");
    let abroad = {
        let mut made = client_at("r1", "z1", "s1", "n1");
        made.network = "west".into();
        made
    };
    let at_home = client_at("r9", "z9", "s9", "n9");
    assert_eq!(endpoint::rank(&preference, &source, &abroad), 0);
    assert_eq!(endpoint::rank(&preference, &source, &at_home), 1);
}

#[test]
fn an_unknown_node_is_nobodys_and_unknown_zones_are_alike() {
    use LocalityScope::{Node, Region, Subzone, Zone};
    let preference = balancing(LoadBalancingMode::Failover, &[Region, Zone, Subzone, Node]);
    let labelless = client_at("", "", "", "n1");
    assert_eq!(endpoint::rank(&preference, &labelless, &labelless), 4);
    let nowhere = client_at("", "", "", "");
    assert_eq!(endpoint::rank(&preference, &nowhere, &nowhere), 3);
}

prop_compose! {
    fn any_endpoint()(
        n in 0u8..8,
        capacity in 0u32..3,
        healthy in any::<bool>(),
        place in (0..2, 0..2, 0..2, 0..2),
    ) -> (u8, Workload) {
        let (region, zone, subzone, node) = place;
        let texts = [("r", region), ("z", zone), ("s", subzone), ("n", node)]
            .map(|(letter, i)| format!("{letter}{i}"));
        let workload = {
            let mut made = endpoint(&format!("w{n}"), &[&format!("10.0.1.{n}")], "web");
            made.capacity = capacity;
            made.health = if healthy { Health::Healthy } else { Health::Unhealthy };
            made.locality = locality(&texts[0], &texts[1], &texts[2]);
            made.node = texts[3].as_str().into();
            made
        };
        (n, workload)
    }
}

fn any_preference() -> impl Strategy<Value = Vec<LocalityScope>> {
    use LocalityScope::{Cluster, Network, Node, Region, Subzone, Zone};
    let all = vec![Network, Cluster, Region, Zone, Subzone, Node];
    proptest::sample::subsequence(all, 0..=6).prop_shuffle()
}

proptest! {
    #[test]
    fn what_is_drawn_is_usable_and_of_the_best_rank(
        workloads in proptest::collection::btree_map(0u8..8, any_endpoint(), 0..8),
        preference in any_preference(),
        mode in proptest::sample::select(vec![
            LoadBalancingMode::Unspecified,
            LoadBalancingMode::Strict,
            LoadBalancingMode::Failover,
        ]),
        entropy in any::<u64>(),
    ) {
        let by_uid: BTreeMap<u8, Workload> = workloads.into_values().collect();
        let workloads: Vec<Workload> = by_uid.into_values().collect();
        let balancing = balancing(mode, &preference);
        let source = client_at("r1", "z1", "s1", "n1");
        let rank = |w: &Workload| endpoint::rank(&balancing, &source, w);
        let usable: Vec<&Workload> = workloads
            .iter()
            .filter(|w| w.capacity > 0 && w.health == Health::Healthy)
            .filter(|w| mode != LoadBalancingMode::Strict || rank(w) == preference.len())
            .collect();
        match choose(workloads.clone(), balancing.clone(), entropy) {
            Ok(chosen) => {
                let chosen = &*chosen.workload;
                prop_assert!(usable.contains(&chosen));
                if mode == LoadBalancingMode::Failover {
                    prop_assert_eq!(Some(rank(chosen)), usable.iter().map(|w| rank(w)).max());
                }
            }
            Err(none) => {
                prop_assert!(usable.is_empty(), "none of {:?}: {}", usable, none);
                prop_assert_eq!(none.known, workloads.len());
            }
        }
    }
}
