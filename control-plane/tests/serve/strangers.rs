//! Connections that prove nothing: few, for a short time, and never in the way of those that can.

use std::time::Duration;

use control_plane::strangers::{FIRST_CALL_WITHIN, STRANGERS_PER_ADDRESS};
use proto::ADDRESS_TYPE_URL;
use proto::wire::agent::DescribePodRequest;
use proto::wire::agent::agent_service_client::AgentServiceClient;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::harness::{Culvertd, pod, soon};

/// Bytes until the other side closes, however it does.
async fn closed(stream: &mut TcpStream) -> usize {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest).await {
        Ok(bytes) => bytes,
        Err(_) => rest.len(),
    }
}

#[tokio::test]
async fn strangers_of_its_own_address_do_not_keep_a_node_out() {
    let culvertd = Culvertd::mesh().await;
    let mut first = culvertd.discovery("node-b").await;
    first.ask(ADDRESS_TYPE_URL, &[], &[]).await;
    first.take().await;
    let mut strangers = Vec::new();
    for _ in 0..3 * STRANGERS_PER_ADDRESS {
        strangers.push(TcpStream::connect(culvertd.serving.address).await.unwrap());
    }
    // The oldest had to make room, without a word.
    assert_eq!(
        soon("the end of the oldest", closed(&mut strangers[0])).await,
        0
    );
    let mut agents = AgentServiceClient::new(culvertd.as_node("node-a").await);
    let asked = agents.describe_pod(DescribePodRequest::default());
    soon("the answer", asked).await.unwrap();
    // Who was known before is not counted among them.
    first.ask(ADDRESS_TYPE_URL, &["/10.244.1.2"], &[]).await;
    culvertd.write("more.yaml", &pod("new", "node-a", "10.244.1.9"));
    first.take().await;
    culvertd.stop().await;
}

#[tokio::test]
async fn a_connection_without_an_authenticated_call_is_closed_and_one_with_it_may_rest() {
    let culvertd = Culvertd::mesh().await;
    let mut node = culvertd.discovery("node-a").await;
    node.ask(ADDRESS_TYPE_URL, &[], &[]).await;
    node.take().await;
    let mut silent = tls(&culvertd).await;
    let mut settings = Vec::new();
    let patience = FIRST_CALL_WITHIN + Duration::from_secs(20);
    // Whether it ends with a FIN, a GOAWAY or a reset is all the same.
    let ended = tokio::time::timeout(patience, silent.read_to_end(&mut settings)).await;
    assert!(ended.is_ok(), "the silent connection stays open");
    assert!(!settings.is_empty(), "it was not even greeted");
    culvertd.write("more.yaml", &pod("new", "node-a", "10.244.1.9"));
    assert_eq!(
        node.take().await.resources.len(),
        1,
        "the same stream as before"
    );
    culvertd.stop().await;
}

/// A TLS connection that says nothing.
async fn tls(culvertd: &Culvertd) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    let root = pem::parse(culvertd.root()).unwrap();
    roots.add(root.into_contents().into()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(culvertd.serving.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    connector.connect(name, stream).await.unwrap()
}
