//! The protocol without a socket: what is sent for what is received.

use std::net::IpAddr;

use mesh::{PolicyKey, ServiceKey, WorkloadUid};
use prost::Message;
use proto::wire::{security, workload};

use super::complaint::{INVALID_ARGUMENT, MAX_NACK_BYTES};
use super::*;

mod unreadable;

fn any(kind: Kind, message: &impl Message) -> Option<prost_types::Any> {
    Some(prost_types::Any {
        type_url: kind.url().to_owned(),
        value: message.encode_to_vec(),
    })
}

fn named(kind: Kind, name: &str, version: &str, message: &impl Message) -> wire::Resource {
    wire::Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: any(kind, message),
        ..Default::default()
    }
}

fn pod(name: &str, ip: &str, version: &str) -> wire::Resource {
    let uid = uid(name).to_string();
    let bytes = match ip.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let workload = workload::Workload {
        uid: uid.clone(),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        addresses: vec![bytes],
        ..Default::default()
    };
    let r#type = Some(workload::address::Type::Workload(workload));
    named(
        Kind::Addresses,
        &uid,
        version,
        &workload::Address { r#type },
    )
}

fn service(host: &str, version: &str) -> wire::Resource {
    let service = workload::Service {
        name: host.to_owned(),
        namespace: "shop".to_owned(),
        hostname: host.to_owned(),
        ..Default::default()
    };
    let r#type = Some(workload::address::Type::Service(service));
    named(
        Kind::Addresses,
        &format!("shop/{host}"),
        version,
        &workload::Address { r#type },
    )
}

fn policy(name: &str, version: &str) -> wire::Resource {
    let policy = security::Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: 1,
        ..Default::default()
    };
    named(Kind::Policies, &format!("shop/{name}"), version, &policy)
}

fn broken(name: &str) -> wire::Resource {
    let mut broken = pod(name, "10.0.0.1", "broken");
    broken.resource.as_mut().unwrap().value = vec![0xff; 8];
    broken
}

fn uid(name: &str) -> WorkloadUid {
    WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into())
}

fn response(
    kind: Kind,
    resources: impl Into<Vec<wire::Resource>>,
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.url().to_owned(),
        nonce: "n1".to_owned(),
        resources: resources.into(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn discovery(scope: Scope) -> Discovery {
    Discovery::new(
        Node {
            id: "me".to_owned(),
            ..Default::default()
        },
        scope,
    )
}

/// A discovery that holds pods `a` and `b` in version `1`, before its second stream.
fn with_two_pods() -> Discovery {
    let mut discovery = discovery(Scope::Wildcard);
    discovery.open();
    let pods = [pod("a", "10.0.0.1", "1"), pod("b", "10.0.0.2", "1")];
    discovery.apply(response(Kind::Addresses, pods, &[]));
    discovery
}

fn has(discovery: &Discovery, name: &str) -> bool {
    discovery.snapshot().workload(&uid(name)).is_some()
}

#[test]
fn the_first_requests_are_empty_subscriptions_of_both_types_with_the_node() {
    let requests = discovery(Scope::Wildcard).open();
    let urls: Vec<_> = requests
        .iter()
        .map(|request| request.type_url.as_str())
        .collect();
    assert_eq!(
        urls,
        [proto::ADDRESS_TYPE_URL, proto::AUTHORIZATION_TYPE_URL]
    );
    for request in requests {
        assert_eq!(request.node.unwrap().id, "me");
        assert_eq!(request.resource_names_subscribe, Vec::<String>::new());
        assert!(request.initial_resource_versions.is_empty());
    }
}

#[test]
fn a_good_response_is_acknowledged_and_makes_its_type_synced() {
    let mut discovery = discovery(Scope::Wildcard);
    discovery.open();
    let resources = [pod("a", "10.0.0.1", "1"), service("web", "1")];
    let applied = discovery.apply(response(Kind::Addresses, resources, &[]));
    assert!(applied.changed);
    let [ack] = &applied.requests[..] else {
        panic!("{applied:?}")
    };
    assert_eq!(
        (ack.response_nonce.as_str(), &ack.error_detail),
        ("n1", &None)
    );
    assert_eq!(ack.type_url, proto::ADDRESS_TYPE_URL);
    assert!(has(&discovery, "a"));
    let key = ServiceKey {
        namespace: "shop".into(),
        hostname: "web".into(),
    };
    assert!(discovery.snapshot().service(&key).is_some());
    assert!(discovery.snapshot().addresses_synced());
    assert!(!discovery.snapshot().policies_synced());
    assert!(!discovery.answered(Kind::Policies));
}

#[test]
fn an_empty_answer_is_an_answer() {
    let mut discovery = discovery(Scope::Wildcard);
    discovery.open();
    assert!(discovery.apply(response(Kind::Policies, [], &[])).changed);
    assert!(discovery.snapshot().policies_synced());
    assert!(!discovery.apply(response(Kind::Policies, [], &[])).changed);
}

#[test]
fn good_resources_of_a_bad_response_are_in_use_and_the_bad_ones_are_listed() {
    let mut discovery = with_two_pods();
    let wrong_type = pod("e", "10.0.0.5", "2");
    let mut wrong_type = wire::Resource {
        name: "e".to_owned(),
        ..wrong_type
    };
    wrong_type.resource.as_mut().unwrap().type_url = proto::AUTHORIZATION_TYPE_URL.to_owned();
    let empty = wire::Resource {
        name: "f".to_owned(),
        ..Default::default()
    };
    let resources = [broken("b"), pod("c", "10.0.0.3", "2"), wrong_type, empty];
    let applied = discovery.apply(response(
        Kind::Addresses,
        resources,
        &["Kubernetes//Pod/shop/a"],
    ));
    let names: Vec<_> = applied
        .rejected
        .iter()
        .map(|bad| bad.name.as_str())
        .collect();
    assert_eq!(names, ["Kubernetes//Pod/shop/b", "e", "f"]);
    let nack = applied.requests[0].error_detail.as_ref().unwrap();
    assert_eq!(nack.code, INVALID_ARGUMENT);
    assert!(nack.message.starts_with("3 refused"), "{}", nack.message);
    assert!(
        nack.message.contains("Kubernetes//Pod/shop/b"),
        "{}",
        nack.message
    );
    assert!(has(&discovery, "c") && !has(&discovery, "a"));
    assert!(has(&discovery, "b"), "the last good content stays");
}

#[test]
fn a_refused_version_is_not_announced_so_that_it_is_sent_again() {
    let mut discovery = with_two_pods();
    discovery.apply(response(Kind::Addresses, [broken("b"), broken("z")], &[]));
    let versions = discovery.open().swap_remove(0).initial_resource_versions;
    assert_eq!(versions.len(), 2);
    assert_eq!(versions["Kubernetes//Pod/shop/b"], "1");
}

#[test]
fn a_complaint_about_very_many_resources_is_short() {
    let mut discovery = discovery(Scope::Wildcard);
    discovery.open();
    let resources: Vec<_> = (0..1000)
        .map(|n| broken(&format!("{n}-{}", "é".repeat(400))))
        .collect();
    let applied = discovery.apply(response(Kind::Addresses, resources, &[]));
    let nack = applied.requests[0].error_detail.as_ref().unwrap();
    assert!(nack.message.starts_with("1000 refused"));
    assert!(nack.message.len() <= MAX_NACK_BYTES);
}

#[test]
fn a_type_that_was_not_asked_for_is_refused_whole() {
    let mut discovery = discovery(Scope::Wildcard);
    discovery.open();
    let mut strange = response(Kind::Addresses, [pod("a", "10.0.0.1", "1")], &[]);
    strange.type_url = "type.googleapis.com/envoy.config.listener.v3.Listener".to_owned();
    let applied = discovery.apply(strange);
    assert!(!applied.changed && applied.kind.is_none());
    assert!(applied.requests[0].error_detail.is_some());
    assert!(!has(&discovery, "a"));
}

#[test]
fn a_resource_that_says_nothing_new_changes_nothing() {
    let mut discovery = with_two_pods();
    let applied = discovery.apply(response(Kind::Addresses, [pod("a", "10.0.0.1", "2")], &[]));
    assert!(!applied.changed);
    assert_eq!(applied.requests.len(), 1);
    let versions = discovery.open().swap_remove(0).initial_resource_versions;
    assert_eq!(versions["Kubernetes//Pod/shop/a"], "2");
}

#[test]
fn a_second_stream_announces_the_versions_and_removals_are_taken() {
    let mut discovery = with_two_pods();
    let request = discovery.open().swap_remove(0);
    assert_eq!(request.initial_resource_versions.len(), 2);
    let applied = discovery.apply(response(
        Kind::Addresses,
        [],
        &["Kubernetes//Pod/shop/a", "unknown"],
    ));
    assert!(applied.changed);
    assert!(
        !discovery.unsettled(),
        "a server that compares versions says what is gone"
    );
    assert!(!discovery.settle());
    assert!(!has(&discovery, "a") && has(&discovery, "b"));
    assert!(discovery.snapshot().addresses_synced());
}

#[test]
fn what_a_server_that_sends_all_again_leaves_out_is_gone_once_it_is_quiet() {
    let mut discovery = with_two_pods();
    discovery.apply(response(Kind::Addresses, [service("web", "1")], &[]));
    discovery.open();
    discovery.apply(response(Kind::Addresses, [pod("b", "10.0.0.2", "1")], &[]));
    assert!(discovery.unsettled());
    assert!(has(&discovery, "a"), "the rest may still come");
    discovery.apply(response(Kind::Addresses, [service("web", "1")], &[]));
    assert!(discovery.settle());
    assert!(!has(&discovery, "a") && has(&discovery, "b"));
    let key = ServiceKey {
        namespace: "shop".into(),
        hostname: "web".into(),
    };
    assert!(discovery.snapshot().service(&key).is_some());
    assert!(!discovery.unsettled() && !discovery.settle());
}

#[test]
fn a_server_that_sends_only_changes_makes_nothing_vanish() {
    let mut discovery = with_two_pods();
    discovery.open();
    discovery.apply(response(Kind::Addresses, [pod("b", "10.0.0.9", "2")], &[]));
    assert!(!discovery.unsettled() && !discovery.settle());
    assert!(has(&discovery, "a"));
}

#[test]
fn a_refused_resource_of_a_full_resend_is_not_gone() {
    let mut discovery = with_two_pods();
    discovery.open();
    let resources = [pod("a", "10.0.0.1", "1"), broken("b")];
    discovery.apply(response(Kind::Addresses, resources, &[]));
    discovery.settle();
    assert!(has(&discovery, "b"));
}

#[test]
fn a_policy_that_was_removed_and_comes_again_is_in_force() {
    let mut discovery = discovery(Scope::Wildcard);
    discovery.open();
    let key = PolicyKey {
        namespace: "shop".into(),
        name: "deny".into(),
    };
    discovery.apply(response(Kind::Policies, [policy("deny", "1")], &[]));
    assert!(discovery.snapshot().policy(&key).is_some());
    assert!(
        discovery
            .apply(response(Kind::Policies, [], &["shop/deny"]))
            .changed
    );
    assert!(discovery.snapshot().policy(&key).is_none());
    assert!(
        discovery
            .apply(response(Kind::Policies, [policy("deny", "1")], &[]))
            .changed
    );
    assert!(discovery.snapshot().policy(&key).is_some());
}

fn address(ip: &str) -> NetworkAddress {
    NetworkAddress::new("", ip.parse().unwrap())
}

#[test]
fn on_demand_subscribes_to_nothing_until_an_address_is_wanted() {
    let mut discovery = discovery(Scope::OnDemand);
    let requests = discovery.open();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].resource_names_subscribe, ["*"]);
    assert_eq!(requests[0].resource_names_unsubscribe, ["*"]);
    assert!(
        requests[1].resource_names_subscribe.is_empty(),
        "policies come as a whole"
    );
    let want = discovery.want(address("10.0.0.7")).unwrap();
    assert_eq!(want.resource_names_subscribe, ["/10.0.0.7"]);
    assert_eq!(want.type_url, proto::ADDRESS_TYPE_URL);
    assert_eq!(discovery.want(address("10.0.0.7")), None, "once is enough");
    let again = discovery.open();
    assert_eq!(again[2].resource_names_subscribe, ["/10.0.0.7"]);
}

#[test]
fn on_demand_removed_means_that_there_is_none() {
    let mut discovery = discovery(Scope::OnDemand);
    discovery.open();
    discovery.want(address("10.0.0.7"));
    let removed = response(Kind::Addresses, [pod("a", "10.0.0.1", "1")], &["/10.0.0.7"]);
    assert!(discovery.apply(removed).changed);
    assert!(discovery.answered(Kind::Addresses));
    assert!(
        !discovery.snapshot().addresses_synced(),
        "no answer is about all addresses"
    );
    assert!(discovery.snapshot().is_absent(&address("10.0.0.7")));
    assert!(!discovery.snapshot().is_absent(&address("10.0.0.8")));
    // The address gets an owner.
    discovery.apply(response(Kind::Addresses, [pod("b", "10.0.0.7", "1")], &[]));
    assert!(!discovery.snapshot().is_absent(&address("10.0.0.7")));
}

#[test]
fn on_demand_an_address_whose_owner_went_is_asked_for_anew() {
    let mut discovery = discovery(Scope::OnDemand);
    discovery.open();
    discovery.want(address("10.0.0.1"));
    discovery.apply(response(Kind::Addresses, [pod("a", "10.0.0.1", "1")], &[]));
    let applied = discovery.apply(response(Kind::Addresses, [], &["Kubernetes//Pod/shop/a"]));
    assert_eq!(
        applied.requests[1].resource_names_unsubscribe,
        ["/10.0.0.1"]
    );
    assert!(discovery.want(address("10.0.0.1")).is_some());
}

#[test]
fn on_demand_the_subscription_of_a_forgotten_absence_ends() {
    let mut discovery = discovery(Scope::OnDemand);
    discovery.open();
    let mut ended = Vec::new();
    for n in 0..=mesh::snapshot::MAX_ABSENT {
        let ip = IpAddr::from([10, 9, (n >> 8) as u8, n as u8]);
        let address = NetworkAddress::new("", ip);
        discovery.want(address.clone());
        let name = address.to_string();
        let applied = discovery.apply(response(Kind::Addresses, [], &[&name]));
        ended.extend(applied.requests.into_iter().skip(1));
    }
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].resource_names_unsubscribe, ["/10.9.0.0"]);
}

#[test]
fn in_the_wildcard_nothing_is_wanted_by_address() {
    let mut discovery = discovery(Scope::Wildcard);
    discovery.open();
    assert_eq!(discovery.want(address("10.0.0.7")), None);
}
