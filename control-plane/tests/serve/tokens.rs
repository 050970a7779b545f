//! Who is let in.

use proto::ADDRESS_TYPE_URL;
use proto::wire::agent::DescribePodRequest;
use proto::wire::agent::agent_service_client::AgentServiceClient;
use proto::wire::ca::IstioCertificateRequest;
use proto::wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use tonic::Code;
use tonic::service::interceptor::InterceptedService;

use super::harness::{Bearer, Culvertd, Discovery};

#[tokio::test]
async fn without_a_valid_token_nothing_is_answered_and_nothing_is_said() {
    let culvertd = Culvertd::mesh().await;
    let channel = culvertd.channel().await;
    let old = culvertd.token("node-a");
    culvertd.token("node-a");
    let longer = format!("{old}0");
    for bearer in [
        Bearer::none(),
        Bearer::new(&"0".repeat(64)),
        Bearer::new(""),
        Bearer::new(&longer),
        Bearer::new(&old),
    ] {
        let service = InterceptedService::new(channel.clone(), bearer.clone());
        let mut agents = AgentServiceClient::new(service.clone());
        let mut certificates = IstioCertificateServiceClient::new(service);
        let described = agents
            .describe_pod(DescribePodRequest::default())
            .await
            .unwrap_err();
        let signed = certificates.create_certificate(IstioCertificateRequest::default());
        let signed = signed.await.unwrap_err();
        let opened = Discovery::open(channel.clone(), bearer)
            .await
            .map(drop)
            .unwrap_err();
        for status in [described, signed, opened] {
            assert_eq!(status.code(), Code::Unauthenticated);
            assert_eq!(status.message(), "no valid token");
        }
    }
    culvertd.stop().await;
}

#[tokio::test]
async fn a_rotated_token_ends_the_streams_that_it_opened_and_no_other() {
    let culvertd = Culvertd::mesh().await;
    let mut a = culvertd.discovery("node-a").await;
    let mut b = culvertd.discovery("node-b").await;
    for stream in [&mut a, &mut b] {
        stream.ask(ADDRESS_TYPE_URL, &[], &[]).await;
        stream.take().await;
    }
    let new = culvertd.token("node-a");
    assert_eq!(a.next().await.unwrap_err().code(), Code::Unauthenticated);
    let mut again = Discovery::open(culvertd.channel().await, Bearer::new(&new))
        .await
        .unwrap();
    again.ask(ADDRESS_TYPE_URL, &[], &[]).await;
    again.take().await;
    culvertd.write(
        "more.yaml",
        &super::harness::pod("new", "node-a", "10.244.1.9"),
    );
    assert_eq!(b.take().await.resources.len(), 1);
    culvertd.stop().await;
}

#[tokio::test]
async fn a_client_that_pins_another_root_does_not_connect() {
    let culvertd = Culvertd::mesh().await;
    let other = Culvertd::mesh().await;
    assert!(culvertd.channel_trusting(&other.root()).await.is_err());
    other.stop().await;
    culvertd.stop().await;
}
