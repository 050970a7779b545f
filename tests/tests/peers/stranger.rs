//! An HTTP/2 client and a TLS server that are not ours, on the tunnel's port.

use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use netio::netns::Netns;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use scenarios::stranger::{Credentials, tls};
use tokio::net::TcpStream;
use world::Place;

/// A whole exchange; a ztunnel answers in milliseconds, on a machine that has them.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(60);

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
    let config = tls::client(own.map(|own| &own.shown))?;
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
        let config = tls::server(&shown.shown)?;
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
