//! The discovery feed.

use std::sync::Arc;

use mesh::snapshot::Snapshot;
use mesh::{NetworkAddress, WorkloadUid};
use process::admin::Readiness;
use process::metrics::XdsMetrics;
use process::tasks::Tasks;
use process::xds::{self, Config, Feed, Node, Scope};
use prometheus_client::registry::Registry;
use prost::Message;
use proto::wire::discovery::{DeltaDiscoveryResponse, Resource};
use proto::wire::workload::{self, address};
use tonic::Status;

use super::ca::Ca;
use super::server::{AdsStream, SOON, Site, soon};

struct Client {
    tasks: Tasks,
    feed: Feed,
    readiness: Readiness,
    registry: Registry,
}

impl Client {
    fn start(site: &Site, scope: Scope) -> Self {
        let tasks = Tasks::new();
        let readiness = Readiness::new();
        let mut registry = Registry::default();
        let metrics = XdsMetrics::register(&mut registry);
        let config = Config {
            routes: false,
            node: Node::ztunnel("node-1", "Kubernetes"),
            scope,
            carried: None,
        };
        let feed = xds::start(&tasks, site.control_plane(), config, metrics, &readiness);
        Self {
            tasks,
            feed,
            readiness,
            registry,
        }
    }

    async fn snapshot_with(&self, wanted: impl FnMut(&Arc<Snapshot>) -> bool) -> Arc<Snapshot> {
        let mut snapshots = self.feed.subscribe();
        soon("the snapshot", snapshots.wait_for(wanted))
            .await
            .unwrap()
            .clone()
    }

    /// Waits for an error of the stream that says `text`.
    async fn error_with(&self, text: &str) {
        let found = async {
            while !self
                .feed
                .status()
                .last_error
                .is_some_and(|error| error.contains(text))
            {
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::time::timeout(SOON, found).await;
        assert!(
            found.is_ok(),
            "no error says `{text}`: {:?}",
            self.feed.status()
        );
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

fn uid(name: &str) -> WorkloadUid {
    WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into())
}

fn pod(name: &str, last: u8) -> Resource {
    let workload = workload::Workload {
        uid: uid(name).to_string(),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        addresses: vec![vec![10, 0, 0, last]],
        ..Default::default()
    };
    let address = workload::Address {
        r#type: Some(address::Type::Workload(workload)),
    };
    Resource {
        name: uid(name).to_string(),
        version: "1".to_owned(),
        resource: Some(prost_types::Any {
            type_url: proto::ADDRESS_TYPE_URL.to_owned(),
            value: address.encode_to_vec(),
        }),
        ..Default::default()
    }
}

fn addresses(resources: impl Into<Vec<Resource>>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: proto::ADDRESS_TYPE_URL.to_owned(),
        nonce: "a".to_owned(),
        resources: resources.into(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn no_policies() -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: proto::AUTHORIZATION_TYPE_URL.to_owned(),
        nonce: "p".to_owned(),
        ..Default::default()
    }
}

/// Reads the two first requests of a stream.
async fn opening(stream: &mut AdsStream) -> proto::wire::discovery::DeltaDiscoveryRequest {
    let first = stream.request().await;
    assert_eq!(first.type_url, proto::ADDRESS_TYPE_URL);
    assert_eq!(
        stream.request().await.type_url,
        proto::AUTHORIZATION_TYPE_URL
    );
    first
}

#[tokio::test]
async fn the_first_answers_make_a_synced_snapshot_and_the_process_ready() {
    let server = Tasks::new();
    let site = Site::new();
    let mut served = site.serve(&server).await;
    let client = Client::start(&site, Scope::Wildcard);
    let mut stream = served.next_stream().await;
    assert_eq!(stream.authorization.as_deref(), Some("Bearer f00d"));
    let node = opening(&mut stream).await.node.unwrap();
    assert!(node.id.starts_with("ztunnel~"), "{}", node.id);
    let names: Vec<_> = client
        .readiness
        .missing()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["addresses", "policies"]);
    stream.send(addresses([pod("a", 1)], &[])).await;
    stream.send(no_policies()).await;
    let snapshot = client.snapshot_with(|now| now.policies_synced()).await;
    assert!(snapshot.addresses_synced() && snapshot.workload(&uid("a")).is_some());
    // The acknowledgements come when it is in use.
    for nonce in ["a", "p"] {
        let ack = stream.request().await;
        assert_eq!(
            (ack.response_nonce.as_str(), ack.error_detail),
            (nonce, None)
        );
    }
    assert!(client.readiness.is_ready());
    assert!(client.feed.status().connected);
    let text = client.metrics();
    assert!(text.contains(r#"message_total{url="type.googleapis.com/istio.workload.Address"} 1"#));
    client.tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}

#[tokio::test]
async fn an_acknowledged_change_is_in_the_published_snapshot() {
    let server = Tasks::new();
    let site = Site::new();
    let mut served = site.serve(&server).await;
    let client = Client::start(&site, Scope::Wildcard);
    let mut stream = served.next_stream().await;
    opening(&mut stream).await;
    for last in 1..20 {
        let name = format!("pod-{last}");
        stream.send(addresses([pod(&name, last)], &[])).await;
        stream.request().await;
        assert!(
            client.feed.snapshot().workload(&uid(&name)).is_some(),
            "{name}"
        );
    }
    client.tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}

#[tokio::test]
async fn a_bad_resource_is_listed_in_the_answer_and_the_good_ones_are_used() {
    let server = Tasks::new();
    let site = Site::new();
    let mut served = site.serve(&server).await;
    let client = Client::start(&site, Scope::Wildcard);
    let mut stream = served.next_stream().await;
    opening(&mut stream).await;
    let mut bad = pod("bad", 9);
    bad.resource.as_mut().unwrap().value = vec![0xff; 4];
    stream.send(addresses([bad, pod("good", 1)], &[])).await;
    let nack = stream.request().await;
    let detail = nack.error_detail.unwrap();
    assert!(
        detail.message.contains("Kubernetes//Pod/shop/bad"),
        "{}",
        detail.message
    );
    assert!(
        !detail.message.contains("Pod/shop/good"),
        "{}",
        detail.message
    );
    assert!(client.feed.snapshot().workload(&uid("good")).is_some());
    assert!(
        client.metrics().contains("xds_rejected_resources_total{"),
        "{}",
        client.metrics()
    );
    client.tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}

#[tokio::test]
async fn a_broken_stream_is_opened_again_with_the_versions_and_nothing_is_lost_meanwhile() {
    let server = Tasks::new();
    let site = Site::new();
    let mut served = site.serve(&server).await;
    let client = Client::start(&site, Scope::Wildcard);
    let mut stream = served.next_stream().await;
    opening(&mut stream).await;
    stream
        .send(addresses([pod("a", 1), pod("b", 2)], &[]))
        .await;
    stream.request().await;
    stream.fail(Status::unavailable("going away")).await;
    client.error_with("going away").await;
    assert!(
        client.feed.snapshot().workload(&uid("a")).is_some(),
        "the last good one stays"
    );
    let mut stream = served.next_stream().await;
    let versions = opening(&mut stream).await.initial_resource_versions;
    assert_eq!(versions.len(), 2);
    assert_eq!(versions["Kubernetes//Pod/shop/a"], "1");
    stream
        .send(addresses([pod("c", 3)], &["Kubernetes//Pod/shop/a"]))
        .await;
    let snapshot = client
        .snapshot_with(|now| now.workload(&uid("c")).is_some())
        .await;
    assert!(snapshot.workload(&uid("a")).is_none() && snapshot.workload(&uid("b")).is_some());
    assert!(
        client
            .metrics()
            .contains(r#"terminations_total{reason="error"} 1"#)
    );
    client.tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}

#[tokio::test]
async fn a_server_that_sends_all_again_after_a_restart_is_coped_with() {
    let first = Tasks::new();
    let site = Site::new();
    let mut served = site.serve(&first).await;
    let client = Client::start(&site, Scope::Wildcard);
    let mut stream = served.next_stream().await;
    opening(&mut stream).await;
    stream
        .send(addresses([pod("a", 1), pod("b", 2)], &[]))
        .await;
    client
        .snapshot_with(|now| now.workload(&uid("a")).is_some())
        .await;
    first.shutdown(SOON).await;
    drop((served, stream));
    let second = Tasks::new();
    let mut served = site.serve(&second).await;
    let mut stream = served.next_stream().await;
    opening(&mut stream).await;
    stream.send(addresses([pod("b", 2)], &[])).await;
    let snapshot = client
        .snapshot_with(|now| now.workload(&uid("a")).is_none())
        .await;
    assert!(snapshot.workload(&uid("b")).is_some());
    client.tasks.shutdown(SOON).await;
    second.shutdown(SOON).await;
}

#[tokio::test]
async fn a_control_plane_that_comes_late_is_found_and_until_then_the_reason_is_told() {
    let server = Tasks::new();
    let site = Site::new();
    let client = Client::start(&site, Scope::Wildcard);
    client.error_with("nothing listens there").await;
    client.error_with(&site.address.to_string()).await;
    let missing = client.readiness.missing();
    assert!(
        missing[0].1.contains("nothing listens there"),
        "{missing:?}"
    );
    let mut served = site.serve(&server).await;
    let mut stream = served.next_stream().await;
    opening(&mut stream).await;
    stream.send(addresses([], &[])).await;
    client.snapshot_with(|now| now.addresses_synced()).await;
    client.tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}

#[tokio::test]
async fn a_server_of_another_root_is_refused_until_the_root_file_is_right() {
    let server = Tasks::new();
    let site = Site::new();
    site.write_root(&Ca::new("control plane").root_pem());
    let mut served = site.serve(&server).await;
    let client = Client::start(&site, Scope::Wildcard);
    client.error_with("copy its root.pem there").await;
    client.error_with("root.pem").await;
    site.write_root(&site.ca.root_pem());
    served.next_stream().await;
    client.tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}

#[tokio::test]
async fn a_token_that_others_may_read_is_not_sent() {
    let server = Tasks::new();
    let site = Site::new();
    site.write_token("f00d", 0o644);
    let mut served = site.serve(&server).await;
    let client = Client::start(&site, Scope::Wildcard);
    client.error_with("chmod 0600").await;
    site.write_token("c0de", 0o600);
    let stream = served.next_stream().await;
    assert_eq!(stream.authorization.as_deref(), Some("Bearer c0de"));
    client.tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}

#[tokio::test]
async fn on_demand_an_address_is_subscribed_to_and_its_absence_is_known() {
    let server = Tasks::new();
    let site = Site::new();
    let mut served = site.serve(&server).await;
    let client = Client::start(&site, Scope::OnDemand);
    let mut stream = served.next_stream().await;
    assert_eq!(opening(&mut stream).await.resource_names_unsubscribe, ["*"]);
    let address = NetworkAddress::new("", "10.0.0.7".parse().unwrap());
    client.feed.want(address.clone()).unwrap();
    assert_eq!(
        stream.request().await.resource_names_subscribe,
        ["/10.0.0.7"]
    );
    stream.send(addresses([], &["/10.0.0.7"])).await;
    let snapshot = client.snapshot_with(|now| now.is_absent(&address)).await;
    assert!(!snapshot.addresses_synced());
    client.tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}

#[tokio::test]
async fn the_stop_ends_a_feed_that_waits_for_its_server() {
    let site = Site::new();
    let client = Client::start(&site, Scope::Wildcard);
    client.error_with("nothing listens").await;
    assert_eq!(
        client.tasks.shutdown(SOON).await.forced,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn the_control_plane_may_have_an_ipv6_address() {
    let server = Tasks::new();
    let site = Site::at("::1");
    let mut served = site.serve(&server).await;
    let client = Client::start(&site, Scope::Wildcard);
    served.next_stream().await;
    client.tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}

#[tokio::test]
async fn a_server_whose_certificate_is_for_another_address_is_refused() {
    let server = Tasks::new();
    let site = Site::new().named("192.0.2.1");
    let _served = site.serve(&server).await;
    let client = Client::start(&site, Scope::Wildcard);
    client.error_with("--server-name").await;
    client.tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}
