//! What agents ask and report.

use mesh::workload::TunnelProtocol;
use proto::wire::agent::agent_service_client::AgentServiceClient;
use proto::wire::agent::{DescribePodRequest, PodReport, ReportPodsRequest};
use proto::{ADDRESS_TYPE_URL, Resource, decode};
use tonic::Code;

use super::harness::{CLIENT, Culvertd, LIMIT, directory, soon};

fn question(name: &str) -> DescribePodRequest {
    DescribePodRequest {
        namespace: "shop".into(),
        name: name.into(),
        uid: "u-1".into(),
    }
}

fn report(name: &str, ips: &[&str], enrolled: bool) -> PodReport {
    PodReport {
        uid: "u-1".into(),
        namespace: "shop".into(),
        name: name.into(),
        ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        enrolled,
        waypoint: None,
    }
}

fn workload(response: &proto::wire::discovery::DeltaDiscoveryResponse) -> mesh::Workload {
    let one = response
        .resources
        .iter()
        .find(|r| r.name == CLIENT)
        .expect("the pod is sent");
    match decode::discovered(one).unwrap() {
        Resource::Workload(workload) => workload,
        other => panic!("no workload: {other:?}"),
    }
}

#[tokio::test]
async fn a_pod_is_described_to_its_own_node_only() {
    let culvertd = Culvertd::mesh().await;
    let mut agent = AgentServiceClient::new(culvertd.as_node("node-a").await);
    let told = agent
        .describe_pod(question("client"))
        .await
        .unwrap()
        .into_inner();
    assert!(told.found && told.enrol, "{told:?}");
    assert_eq!(
        (told.service_account.as_str(), told.trust_domain.as_str()),
        ("client", "cluster.local")
    );
    assert_eq!(
        told.reason,
        "namespace label istio.io/dataplane-mode=ambient"
    );
    for name in ["web", "nobody", ""] {
        let told = agent
            .describe_pod(question(name))
            .await
            .unwrap()
            .into_inner();
        assert!(
            !told.found && !told.enrol && told.service_account.is_empty(),
            "{told:?}"
        );
        assert!(told.reason.contains("node-a"), "{}", told.reason);
    }
    culvertd.stop().await;
}

#[tokio::test]
async fn a_pod_is_advertised_as_hbone_when_its_node_says_that_it_is_captured() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-b").await;
    stream.ask(ADDRESS_TYPE_URL, &[], &[]).await;
    assert_eq!(workload(&stream.take().await).tunnel, TunnelProtocol::None);
    let mut agent = AgentServiceClient::new(culvertd.as_node("node-a").await);
    let pods = vec![report("client", &["10.244.1.7", "fd00:10:244:1::7"], true)];
    let acked = agent.report_pods(ReportPodsRequest {
        pods: pods.clone(),
        wait_for_acks: false,
    });
    assert!(acked.await.unwrap().into_inner().acked);
    let sent = workload(&stream.take().await);
    assert_eq!(sent.tunnel, TunnelProtocol::Hbone);
    assert_eq!(sent.addresses.len(), 2);
    // A node speaks for its own pods only.
    let mut other = AgentServiceClient::new(culvertd.as_node("node-c").await);
    other
        .report_pods(ReportPodsRequest {
            pods,
            wait_for_acks: false,
        })
        .await
        .unwrap();
    let before = culvertd.serving.engine.now();
    assert!(
        before
            .statuses
            .values()
            .flatten()
            .all(|c| c.reason != "AddressConflict")
    );
    // What is not listed is gone: the manifest's own address counts again.
    agent
        .report_pods(ReportPodsRequest {
            pods: vec![],
            wait_for_acks: false,
        })
        .await
        .unwrap();
    let sent = workload(&stream.take().await);
    assert_eq!(
        (sent.tunnel, sent.addresses.len()),
        (TunnelProtocol::None, 1)
    );
    culvertd.stop().await;
}

#[tokio::test]
async fn a_report_that_waits_is_answered_when_every_proxy_has_acknowledged() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-b").await;
    stream.ask(ADDRESS_TYPE_URL, &[], &[]).await;
    stream.take().await;
    let mut agent = AgentServiceClient::new(culvertd.as_node("node-a").await);
    let pods = vec![report("client", &["10.244.1.2"], true)];
    let asked = agent.report_pods(ReportPodsRequest {
        pods,
        wait_for_acks: true,
    });
    let mut asked = std::pin::pin!(asked);
    let response = tokio::select! {
        answer = &mut asked => panic!("answered before the proxy did: {answer:?}"),
        response = stream.next() => response.unwrap(),
    };
    stream.ack(&response).await;
    assert!(soon("the answer", asked).await.unwrap().into_inner().acked);
    culvertd.stop().await;
}

#[tokio::test]
async fn reports_outlive_a_restart() {
    let culvertd = Culvertd::mesh().await;
    let mut agent = AgentServiceClient::new(culvertd.as_node("node-a").await);
    let pods = vec![report("client", &["10.244.1.7"], true)];
    agent
        .report_pods(ReportPodsRequest {
            pods,
            wait_for_acks: false,
        })
        .await
        .unwrap();
    let culvertd = culvertd.restart().await;
    let mut stream = culvertd.discovery("node-b").await;
    stream.ask(ADDRESS_TYPE_URL, &[], &[]).await;
    let sent = workload(&stream.take().await);
    assert_eq!(sent.tunnel, TunnelProtocol::Hbone);
    assert_eq!(
        *sent.addresses,
        ["10.244.1.7".parse::<std::net::IpAddr>().unwrap()]
    );
    culvertd.stop().await;
}

#[tokio::test]
async fn a_report_that_cannot_be_is_refused_whole() {
    let culvertd = Culvertd::mesh().await;
    let mut agent = AgentServiceClient::new(culvertd.as_node("node-a").await);
    let many = vec![report("client", &[], true); 2000];
    for pods in [
        many,
        vec![report("client", &["10.244.1"], true)],
        vec![report("client", &["127.0.0.1"], true)],
        vec![report("client", &["0.0.0.0"], true)],
        vec![report("", &["10.244.1.2"], true)],
        vec![report("client", &["10.0.0.1"; 17], true)],
    ] {
        let asked = agent.report_pods(ReportPodsRequest {
            pods,
            wait_for_acks: false,
        });
        assert_eq!(asked.await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert!(culvertd.serving.engine.now().reports.is_empty());
    culvertd.stop().await;
}

#[tokio::test]
async fn a_node_cannot_claim_addresses_of_another() {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\n\
                spec: {podCIDRs: [10.244.1.0/24]}\n---\n";
    let mesh = format!("{node}{}", super::harness::MESH);
    let culvertd = Culvertd::start(directory(&[("mesh.yaml", &mesh)])).await;
    let mut agent = AgentServiceClient::new(culvertd.as_node("node-a").await);
    let pods = vec![report("client", &["10.244.2.2"], true)];
    agent
        .report_pods(ReportPodsRequest {
            pods,
            wait_for_acks: false,
        })
        .await
        .unwrap();
    let published = culvertd
        .published(|p| !p.addresses.contains_key(CLIENT))
        .await;
    assert!(published.addresses.contains_key(super::harness::WEB));
    let reasons: Vec<_> = published
        .statuses
        .values()
        .flatten()
        .map(|c| c.reason)
        .collect();
    assert!(reasons.contains(&"ForeignAddress"), "{reasons:?}");
    tokio::time::timeout(LIMIT, culvertd.stop()).await.unwrap();
}
