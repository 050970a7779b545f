//! culvertd with the clients that ztunnel and the agent are made of.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use control_plane::authority::root;
use mesh::{Identity, NetworkAddress, WorkloadUid};
use process::admin::Readiness;
use process::certs::{CertManager, DEFAULT_TTL, GrpcAuthority};
use process::clock::SystemClock;
use process::grpc::agent::{AgentClient, Described, PodReport};
use process::grpc::{ControlPlane, Settings};
use process::metrics::XdsMetrics;
use process::tasks::Tasks;
use process::xds::{self, Config, Feed, Node, Scope};
use prometheus_client::registry::Registry;

use super::harness::{CLIENT, Culvertd, LIMIT, soon};

pub fn control_plane(culvertd: &Culvertd, node: &str) -> ControlPlane {
    let token: PathBuf = culvertd.state().path(&format!("token-{node}"));
    control_plane::state::nodes::rotate(&culvertd.state(), node, &token).unwrap();
    let address = format!("https://{}", culvertd.serving.address);
    let settings = Settings::new(&address, &culvertd.state().path("root.pem"), Some(&token));
    ControlPlane::new(settings).unwrap()
}

fn feed(tasks: &Tasks, control_plane: ControlPlane, scope: Scope) -> (Feed, Readiness) {
    let readiness = Readiness::new();
    let config = Config {
        routes: false,
        node: Node::ztunnel("node-a", "Kubernetes"),
        scope,
        carried: None,
    };
    let metrics = XdsMetrics::register(&mut Registry::default());
    (
        xds::start(tasks, control_plane, config, metrics, &readiness),
        readiness,
    )
}

async fn snapshot(feed: &Feed, right: impl Fn(&mesh::snapshot::Snapshot) -> bool) {
    let mut snapshots = feed.subscribe();
    soon("the snapshot", snapshots.wait_for(|s| right(s)))
        .await
        .unwrap();
}

fn address(ip: &str) -> NetworkAddress {
    NetworkAddress::new("", ip.parse::<IpAddr>().unwrap())
}

#[tokio::test]
async fn the_feed_has_the_whole_mesh_and_hears_of_an_enrolled_pod_in_time() {
    let culvertd = Culvertd::mesh().await;
    let tasks = Tasks::new();
    let (feed, readiness) = feed(&tasks, control_plane(&culvertd, "node-b"), Scope::Wildcard);
    snapshot(&feed, |s| s.addresses_synced() && s.policies_synced()).await;
    assert!(readiness.is_ready());
    let synced = feed.snapshot();
    assert_eq!(
        (synced.workloads().count(), synced.services().count()),
        (2, 1)
    );
    assert_eq!(synced.policies().count(), 2);
    let agent = AgentClient::new(control_plane(&culvertd, "node-a"));
    let Described::Pod(pod) = agent.describe_pod("shop", "client", "u").await.unwrap() else {
        panic!("not known");
    };
    assert!(pod.enrol && pod.service_account == "client");
    let report = PodReport {
        uid: "u".to_owned(),
        namespace: "shop".to_owned(),
        name: "client".to_owned(),
        ips: vec!["10.244.1.2".parse().unwrap()],
        enrolled: true,
        waypoint: None,
    };
    assert!(agent.report_pods(&[report], true).await.unwrap());
    // Acknowledged means that the proxy already acts by it.
    let uid = WorkloadUid(CLIENT.into());
    let tunnel = feed.snapshot().workload(&uid).unwrap().tunnel;
    assert_eq!(tunnel, mesh::workload::TunnelProtocol::Hbone);
    tasks.shutdown(LIMIT).await;
    culvertd.stop().await;
}

#[tokio::test]
async fn the_feed_asks_on_demand_and_is_told_what_is_absent() {
    let culvertd = Culvertd::mesh().await;
    let tasks = Tasks::new();
    let (feed, _) = feed(&tasks, control_plane(&culvertd, "node-a"), Scope::OnDemand);
    let uid = WorkloadUid(CLIENT.into());
    snapshot(&feed, |s| s.workload(&uid).is_some()).await;
    assert_eq!(feed.snapshot().workloads().count(), 1);
    feed.want(address("10.96.0.80")).unwrap();
    snapshot(&feed, |s| {
        s.service_by_address(&address("10.96.0.80")).is_some()
    })
    .await;
    assert_eq!(feed.snapshot().workloads().count(), 2);
    feed.want(address("192.0.2.1")).unwrap();
    snapshot(&feed, |s| s.is_absent(&address("192.0.2.1"))).await;
    tasks.shutdown(LIMIT).await;
    culvertd.stop().await;
}

#[tokio::test]
async fn certificates_are_accepted_before_and_after_a_rotation() {
    let culvertd = Culvertd::mesh().await;
    let tasks = Tasks::new();
    let authority = GrpcAuthority::new(control_plane(&culvertd, "node-a"));
    let clock = Arc::new(SystemClock);
    let certificates = CertManager::start(&tasks, Arc::new(authority), clock.clone(), DEFAULT_TTL);
    let identity = Identity::new("cluster.local", "shop", "client").unwrap();
    let issued = certificates.certificate(&identity, LIMIT).await.unwrap();
    assert_eq!((issued.chain().len(), issued.roots().len()), (1, 1));
    root::rotate(&culvertd.state()).unwrap();
    certificates.forget(&identity);
    let issued = certificates.certificate(&identity, LIMIT).await.unwrap();
    assert_eq!((issued.chain().len(), issued.roots().len()), (2, 2));
    tasks.shutdown(LIMIT).await;
    culvertd.stop().await;
}
