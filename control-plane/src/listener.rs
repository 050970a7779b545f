//! The TLS listener of the gRPC services: TLS 1.3 with a certificate by the mesh's own root, which
//! is renewed, and follows a rotation of the root, while connections come in.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use process::tasks::Tasks;
use rcgen::SanType;
use rcgen::string::Ia5String;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::authority::{Authority, IssueError};
use crate::strangers::{FIRST_CALL_WITHIN, Standing, Strangers};

/// Most connections, also half-open ones: two or three of each of 1,000 nodes.
const MAX_CONNECTIONS: usize = 4096;

/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that are ready and not yet taken.
const READY: usize = 64;

/// Pause after a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How far the clock may be behind the making of the certificate before it counts as set back:
/// half of what a certificate is dated back.
const SET_BACK: Duration = Duration::from_secs(60);

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is not ours or is taken.
    #[error("cannot listen on {0}: {1}")]
    Bind(SocketAddr, io::Error),
    /// A name that no certificate can have.
    #[error("server name `{0}` is neither an IP address nor a DNS name")]
    Name(String),
    /// No certificate.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// The names of a server as a certificate has them.
///
/// # Errors
/// One that is neither an IP address nor a DNS name.
pub fn server_names(names: &[String]) -> Result<Vec<SanType>, ListenError> {
    let one = |name: &String| {
        if let Ok(ip) = name.parse() {
            return Ok(SanType::IpAddress(ip));
        }
        let wrong = || ListenError::Name(name.clone());
        rustls::pki_types::DnsName::try_from(name.as_str()).map_err(|_| wrong())?;
        Ok(SanType::DnsName(
            Ia5String::try_from(name.as_str()).map_err(|_| wrong())?,
        ))
    };
    names.iter().map(one).collect()
}

/// The listener's certificate, made anew at half its life, when the root is another, and when the
/// clock was set back.
pub struct ServerCertificate {
    authority: Authority,
    names: Vec<SanType>,
    current: RwLock<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    made_at: SystemTime,
    renew_at: SystemTime,
    root: String,
}

impl ServerCertificate {
    /// Makes the first one.
    ///
    /// # Errors
    /// The authority cannot sign.
    pub fn new(authority: Authority, names: Vec<SanType>) -> Result<Self, IssueError> {
        let current = make(&authority, &names, SystemTime::now())?;
        Ok(Self {
            authority,
            names,
            current: RwLock::new(current),
        })
    }

    /// Makes a new one if it is time to.
    pub fn renew(&self, now: SystemTime) {
        let due = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            // By a clock that ran ahead it may not be valid yet.
            let set_back = now + SET_BACK < current.made_at;
            now >= current.renew_at || set_back || current.root != self.authority.root().name()
        };
        if !due {
            return;
        }
        match make(&self.authority, &self.names, now) {
            Ok(made) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = made;
                tracing::info!("server certificate renewed");
            }
            Err(error) => tracing::error!(%error, "server certificate not renewed"),
        }
    }
}

fn make(authority: &Authority, names: &[SanType], now: SystemTime) -> Result<Current, IssueError> {
    let root = authority.root().name().to_owned();
    let (key, not_after) = authority.listener(names.to_vec(), now)?;
    let life = not_after.duration_since(now).unwrap_or_default();
    Ok(Current {
        key: Arc::new(key),
        made_at: now,
        renew_at: now + life / 2,
        root,
    })
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No key in a log line.
        f.debug_struct("ServerCertificate")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .key
                .clone(),
        )
    }
}

/// Listens, and gives the connections whose handshake is done.
///
/// # Errors
/// The address cannot be had, or TLS cannot be set up.
pub async fn listen(
    tasks: &Tasks,
    address: SocketAddr,
    certificate: Arc<ServerCertificate>,
    strangers: Strangers,
) -> Result<(SocketAddr, ReceiverStream<io::Result<Connection>>), ListenError> {
    let wrong = |error| ListenError::Bind(address, error);
    let listener = TcpListener::bind(address).await.map_err(wrong)?;
    let bound = listener.local_addr().map_err(wrong)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (ready, connections) = mpsc::channel(READY);
    let accept = Accept {
        tasks: tasks.clone(),
        tls: Arc::new(config).into(),
        ready,
        strangers,
    };
    tasks.spawn("listener", accept.run(listener));
    Ok((bound, ReceiverStream::new(connections)))
}

struct Accept {
    tasks: Tasks,
    tls: TlsAcceptor,
    ready: mpsc::Sender<io::Result<Connection>>,
    strangers: Strangers,
}

impl Accept {
    async fn run(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let stop = self.tasks.stop();
        loop {
            let accepted = async {
                let place = places.clone().acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = stop.cancelled() => return,
                next = accepted => next,
            };
            match (place, accepted) {
                (Ok(place), Ok((stream, peer))) => {
                    let standing = self.strangers.admit(peer.ip());
                    let ready = self.ready.clone();
                    let shake = shake(self.tls.clone(), (stream, peer), (place, standing), ready);
                    self.tasks.spawn("TLS handshake", async move {
                        if let Err(error) = shake.await {
                            tracing::debug!(%peer, %error, "TLS handshake failed");
                        }
                    });
                }
                (Err(_), _) => return,
                (_, Err(error)) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn shake(
    tls: TlsAcceptor,
    (stream, peer): (TcpStream, SocketAddr),
    (place, standing): (OwnedSemaphorePermit, Standing),
    ready: mpsc::Sender<io::Result<Connection>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::select! {
        stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)) => stream,
        () = standing.evicted() => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    let Ok(stream) = stream else {
        standing.count("no_handshake");
        return Err(io::ErrorKind::TimedOut.into());
    };
    let stream = stream?;
    tracing::debug!(%peer, "connected");
    let patience = patience(standing.clone(), peer);
    // The server may be stopping.
    let _ = ready
        .send(Ok(Connection {
            stream,
            standing,
            patience: Some(Box::pin(patience)),
            _place: place,
        }))
        .await;
    Ok(())
}

/// Ends when a connection that has shown no token must go.
async fn patience(standing: Standing, peer: SocketAddr) {
    tokio::select! {
        () = standing.evicted() => {}
        () = tokio::time::sleep(FIRST_CALL_WITHIN) => {
            // Nobody looks any more when it has shown one.
            if !standing.is_known() {
                standing.count("no_call");
                tracing::debug!(%peer, "closed: no authenticated call in time");
            }
        }
    }
}

/// A connection, counted until it is dropped.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    standing: Standing,
    /// While it has shown no token.
    patience: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Fails when it has shown no token for too long; else wakes the reader when that is.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.standing.is_known() {
            self.patience = None;
        }
        let patience = self.patience.as_mut();
        if patience.is_some_and(|patience| patience.as_mut().poll(cx).is_ready()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = Standing;

    fn connect_info(&self) -> Standing {
        self.standing.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // There is always a read: HTTP/2 waits for the next frame.
        self.look(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
