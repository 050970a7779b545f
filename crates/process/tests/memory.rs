//! What a workload costs the feed: the snapshot, its indexes, and the versions that are held
//! beside it. Counted in bytes that are asked of the allocator, so it is the same on every run.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is a test, also what the test functions call"
)]

use mesh::WorkloadUid;
use process::xds::Scope;
use process::xds::discovery::{Discovery, Kind};
use prost::Message;
use proto::wire::discovery::{DeltaDiscoveryResponse, Node, Resource};
use proto::wire::workload::address::Type;
use proto::wire::workload::{Address, Port, PortList, Workload};

/// Workloads that come in one push.
const COUNT: usize = 10_000;
/// Pods behind one service.
const PER_SERVICE: usize = 50;
/// Of one workload, everything included: 369 are measured (2,122 before workloads shared anything,
/// 534 before their tables had no gaps, 392 before an address had no network beside it), and the
/// rest is for other layouts of a newer compiler.
/// 50,000 workloads in 25 MB would be 500, with what the allocator rounds up.
const MAX_BYTES: usize = 385;

fn uid(index: usize) -> String {
    let app = index / PER_SERVICE;
    format!(
        "Kubernetes//Pod/team-{}/app-{app}-7c9d8f6b54-{index:05}",
        app % 40
    )
}

/// A pod of a deployment of 50, each on a node of its own, as an ordinary cluster has them.
fn workload(index: usize) -> Resource {
    let app = index / PER_SERVICE;
    let (namespace, account) = (format!("team-{}", app % 40), format!("app-{app}"));
    let [_, a, b, c] = u32::try_from(index).unwrap().to_be_bytes();
    let ports = PortList {
        ports: vec![Port {
            service_port: 80,
            target_port: 8080,
            ..Port::default()
        }],
    };
    let service = format!("{namespace}/{account}.{namespace}.svc.cluster.local");
    let workload = Workload {
        uid: uid(index),
        name: format!("{account}-7c9d8f6b54-{index:05}"),
        namespace,
        addresses: vec![vec![10, a, b, c]],
        service_account: account.clone(),
        node: format!("node-{}", index % 500),
        canonical_name: account.clone(),
        workload_name: account,
        services: [(service, ports)].into(),
        ..Workload::default()
    };
    let address = Address {
        r#type: Some(Type::Workload(workload)),
    };
    Resource {
        name: uid(index),
        version: format!("{:016x}", index * 7919),
        resource: Some(prost_types::Any {
            type_url: Kind::Addresses.url().to_owned(),
            value: address.encode_to_vec(),
        }),
        ..Resource::default()
    }
}

fn push(count: usize) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: Kind::Addresses.url().to_owned(),
        resources: (0..count).map(workload).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

#[test]
fn a_workload_of_a_deployment_takes_half_a_kilobyte_of_the_feed() {
    let response = push(COUNT);
    // Prepared outside of the measure: only what stays is counted, but freeing counts too.
    let given = response.encoded_len();
    let mut discovery = Discovery::new(Node::default(), Scope::Wildcard);
    let bytes = response.encode_to_vec();
    let mut applied = None;
    let counted = allocation_counter::measure(|| {
        let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
        applied = Some(discovery.apply(response).changed);
        discovery.pack();
    });
    assert_eq!(applied, Some(true));
    assert_eq!(discovery.snapshot().workloads().count(), COUNT);
    let each = usize::try_from(counted.bytes_current).unwrap() / COUNT;
    println!(
        "{each} bytes for each workload, {} on the wire",
        given / COUNT
    );
    assert!(each <= MAX_BYTES, "{each} bytes for each workload");
}

#[test]
fn tables_shrink_with_what_is_in_them_and_do_not_grow_when_it_comes_again() {
    const LEFT: usize = COUNT / 10;
    let mut discovery = Discovery::new(Node::default(), Scope::Wildcard);
    let bytes = push(COUNT).encode_to_vec();
    // Not the first of each deployment: what is left has less in common.
    let gone = (0..COUNT)
        .filter(|index| index % 10 != 3)
        .map(uid)
        .collect();
    let removal = DeltaDiscoveryResponse {
        type_url: Kind::Addresses.url().to_owned(),
        removed_resources: gone,
        ..DeltaDiscoveryResponse::default()
    };
    let removal = removal.encode_to_vec();
    let mut kept = Vec::new();
    let mut take = |bytes: &[u8], discovery: &mut Discovery| {
        let counted = allocation_counter::measure(|| {
            let response = DeltaDiscoveryResponse::decode(bytes).unwrap();
            discovery.apply(response);
            discovery.pack();
        });
        kept.push(counted.bytes_current);
    };
    take(&bytes, &mut discovery);
    take(&bytes, &mut discovery);
    take(&removal, &mut discovery);
    assert_eq!(discovery.snapshot().workloads().count(), LEFT);
    println!("{kept:?} bytes more after it, the same again, and all but {LEFT} gone");
    // A version is another one, word for word the same.
    assert!(kept[1].abs() < kept[0] / 100, "{kept:?}");
    let left: i64 = kept.iter().sum();
    let each = usize::try_from(left).unwrap() / LEFT;
    // Fewer of them have the same in common.
    assert!(each <= 2 * MAX_BYTES, "{each} bytes for each that is left");
}

#[test]
fn replicas_share_what_they_have_in_common() {
    let mut discovery = Discovery::new(Node::default(), Scope::Wildcard);
    discovery.apply(push(600));
    let known = |index| {
        let uid = WorkloadUid(uid(index).into());
        discovery.snapshot().workload(&uid).unwrap().clone()
    };
    let [first, second, elsewhere] = [known(0), known(1), known(500)];
    assert!(std::sync::Arc::ptr_eq(&first.common, &second.common));
    // Another deployment on the same node.
    assert!(std::sync::Arc::ptr_eq(&first.node, &elsewhere.node));
    assert!(std::sync::Arc::ptr_eq(&first.cluster, &elsewhere.cluster));
    assert_ne!(first.common, elsewhere.common);
}
