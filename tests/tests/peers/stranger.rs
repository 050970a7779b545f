//! A TLS and HTTP/2 client and a TLS server that are not ours, on the tunnel's port.

use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use netio::netns::Netns;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use tokio::net::TcpStream;
use world::Place;

use super::credentials::Credentials;

/// A whole exchange; a ztunnel answers in milliseconds.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(15);

/// What came of a CONNECT.
#[derive(Debug)]
pub enum Answer {
    /// TLS or HTTP/2 ended before an answer.
    NoTunnel(#[allow(dead_code, reason = "shown by Debug when a scenario fails")] String),
    /// The status, and the first bytes of the stream after a 200.
    Status(u16, String),
}

/// Connects from a place to a tunnel port and sends one CONNECT.
pub fn connect(
    from: &Place,
    to: SocketAddr,
    own: Option<&Credentials>,
    authority: &str,
) -> anyhow::Result<Answer> {
    let config = client_config(own)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Netns::open(from.netns())?.enter(|| {
        runtime.block_on(async {
            let stream = TcpStream::connect(to).await.context("connect")?;
            let tunnel = tokio::time::timeout(EXCHANGE_WITHIN, ask(stream, config, authority));
            Ok(match tunnel.await.context("no answer")? {
                Ok((status, said)) => Answer::Status(status, said),
                Err(error) => Answer::NoTunnel(format!("{error:#}")),
            })
        })
    })?
}

async fn ask(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    authority: &str,
) -> anyhow::Result<(u16, String)> {
    let name = ServerName::from(stream.peer_addr()?.ip());
    let tls = tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await?;
    let (sender, connection) = h2::client::handshake(tls).await?;
    let exchange = async {
        let mut sender = sender.ready().await?;
        let request = http::Request::builder()
            .method("CONNECT")
            .uri(authority)
            .body(())?;
        let (response, _stream) = sender.send_request(request, false)?;
        let response = response.await?;
        let status = response.status().as_u16();
        let mut said = String::new();
        if status == 200 {
            let data = response.into_body().data().await.context("no data")??;
            said = String::from_utf8_lossy(&data).into_owned();
        }
        anyhow::Ok((status, said))
    };
    let mut exchange = pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = connection => {
            ended?;
            // The answer may have been the last thing that came.
            exchange.await
        }
    }
}

/// A TLS server on the tunnel's port of a pod that no agent has captured.
pub struct Server {
    listener: TcpListener,
    config: Arc<ServerConfig>,
}

impl Server {
    /// Listens, and shows `shown` to whoever connects.
    pub fn listen(at: &Place, port: u16, shown: &Credentials) -> anyhow::Result<Self> {
        let config = server_config(shown)?;
        let listener = Netns::open(at.netns())?.enter(|| TcpListener::bind(("::", port)))??;
        listener.set_nonblocking(true)?;
        Ok(Server { listener, config })
    }

    /// Takes one connection; the SPIFFE ID of the client when the handshake comes through.
    pub fn one_handshake(self) -> anyhow::Result<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let handshake = async {
                let listener = tokio::net::TcpListener::from_std(self.listener)?;
                let (stream, _) = listener.accept().await?;
                tokio_rustls::TlsAcceptor::from(self.config)
                    .accept(stream)
                    .await
            };
            let tls = tokio::time::timeout(EXCHANGE_WITHIN, handshake).await??;
            let shown = tls
                .get_ref()
                .1
                .peer_certificates()
                .context("no certificate")?;
            let leaf = shown.first().context("an empty chain")?;
            spiffe_id(leaf).context("no SPIFFE ID in the client's certificate")
        })
    }
}

fn spiffe_id(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_uri_names().next().map(str::to_owned)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn client_config(own: Option<&Credentials>) -> anyhow::Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = match own {
        Some(own) => builder.with_client_auth_cert(own.chain.clone(), own.key())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Ok(Arc::new(config))
}

fn server_config(shown: &Credentials) -> anyhow::Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Anyone))
        .with_single_cert(shown.chain.clone(), shown.key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A stranger checks nobody: what is tested is the other end.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
