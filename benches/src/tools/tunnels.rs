//! Tunnels to the terminating proxy of a path: HBONE's client side as rustls and `h2` make it.
//!
//! What a proxy does for a cold tunnel, or for one that idles, is measured without the pool of the
//! originating proxy, which would keep tunnels warm.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use http::{Method, Request};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::samples::{Samples, Summary};
use crate::peers::certificates::{Certificates, PEER_NAME};

/// Longer than any handshake of a working proxy takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where tunnels go and what is asked in them.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// The terminating proxy.
    pub(crate) peer: SocketAddr,
    /// `:authority` of the CONNECT.
    pub(crate) authority: SocketAddr,
    /// A directory with root.pem, leaf.pem, key.pem.
    pub(crate) certificates: PathBuf,
}

/// Opens tunnels one after the other, `at_once` at the same time; each is closed when its CONNECT
/// was answered.
pub(super) async fn cold(
    target: Target,
    at_once: usize,
    length: Duration,
) -> anyhow::Result<Summary> {
    let connector = connector(&target.certificates)?;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..at_once {
        let (target, connector) = (target.clone(), connector.clone());
        clients.spawn_local(async move {
            let (mut samples, tasks) = (Samples::default(), TaskTracker::new());
            while start.elapsed() < length {
                let begun = Instant::now();
                let opened = open(&target, &connector, &tasks);
                match tokio::time::timeout(PATIENCE, opened).await {
                    Ok(Ok(_tunnel)) => samples.add(begun.elapsed()),
                    Ok(Err(_)) | Err(_) => samples.fail(),
                }
            }
            samples
        });
    }
    let mut all = Samples::default();
    while let Some(samples) = clients.join_next().await {
        all.merge(samples?);
    }
    all.summary(start.elapsed())
}

/// Opens that many, prints `open` and holds them until the process is ended.
pub(super) async fn hold(target: Target, tunnels: usize) -> anyhow::Result<()> {
    let connector = connector(&target.certificates)?;
    let tasks = TaskTracker::new();
    let mut held = Vec::new();
    for _ in 0..tunnels {
        held.push(open(&target, &connector, &tasks).await?);
    }
    println!("open");
    std::future::pending().await
}

/// An open tunnel with one stream in it. Dropping it closes the connection.
struct Tunnel {
    driver: JoinHandle<Result<(), h2::Error>>,
    _stream: SendStream<Bytes>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn open(
    target: &Target,
    connector: &TlsConnector,
    tasks: &TaskTracker,
) -> anyhow::Result<Tunnel> {
    let tcp = TcpStream::connect(target.peer).await?;
    tcp.set_nodelay(true)?;
    let tls = connector
        .connect(ServerName::try_from(PEER_NAME)?, tcp)
        .await?;
    let (requests, http) = h2::client::handshake(tls).await?;
    let driver = tasks.spawn(http);
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(target.authority.to_string())
        .body(())?;
    let mut requests = requests.ready().await?;
    let (response, stream) = requests.send_request(request, false)?;
    let tunnel = Tunnel {
        driver,
        _stream: stream,
    };
    let response = response.await?;
    anyhow::ensure!(response.status().is_success(), "{}", response.status());
    Ok(tunnel)
}

/// Each handshake is a whole one.
fn connector(certificates: &Path) -> anyhow::Result<TlsConnector> {
    let mut config = Arc::unwrap_or_clone(Certificates::at(certificates).client()?);
    let algorithms = config.crypto_provider().signature_verification_algorithms;
    let verifier = Arc::new(AnyCertificate(algorithms));
    config.dangerous().set_certificate_verifier(verifier);
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes any certificate whose key signs the handshake: the load has no opinion on names, and the
/// proxies under test check the client's, which is what is measured.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
