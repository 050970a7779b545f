//! Listeners, and which protocol a connection speaks.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::Server;
use crate::reply::{Met, answer};

/// Connections waiting for accept.
const BACKLOG: i32 = 1024;
/// What HTTP/2 begins with (RFC 9113, 3.4); HTTP/1.1 has no method that begins so.
const PREFACE: &[u8] = b"PRI";
/// Between two looks at what has come so far.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A listener for both families.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves HTTP/1.1 and HTTP/2 with prior knowledge.
pub(crate) async fn http(server: &Arc<Server>, port: u16) -> anyhow::Result<()> {
    let listener = listen(port)?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, client) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let server = server.clone();
        let met = Met {
            client,
            port,
            sni: None,
        };
        connections.spawn(async move {
            let is_h2 = speaks_h2(&stream).await;
            serve(server, met, (stream, is_h2)).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Serves the same in TLS; ALPN says which.
pub(crate) async fn https(server: &Arc<Server>, port: u16, tls: TlsAcceptor) -> anyhow::Result<()> {
    let listener = listen(port)?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, client) = listener.accept().await?;
        let (server, tls) = (server.clone(), tls.clone());
        connections.spawn(async move {
            // A client that gives up is its own to tell.
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let (_, session) = stream.get_ref();
            let met = Met {
                client,
                port,
                sni: session.server_name().map(str::to_owned),
            };
            let is_h2 = session.alpn_protocol() == Some(b"h2");
            serve(server, met, (stream, is_h2)).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Greets first, then gives back every byte, until the client ends.
pub(crate) async fn greet(server: &Arc<Server>, port: u16) -> anyhow::Result<()> {
    let listener = listen(port)?;
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await?;
        let greeting = format!("220 {}\n", server.name);
        connections.spawn(async move {
            stream.write_all(greeting.as_bytes()).await?;
            let mut buffer = [0; 16 * 1024];
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return io::Result::Ok(());
                }
                stream.write_all(&buffer[..n]).await?;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// A certificate that nobody signed, for whatever name a client asks.
pub(crate) fn tls(name: &str) -> anyhow::Result<TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .context("a certificate of our own")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn speaks_h2(stream: &TcpStream) -> bool {
    let mut first = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return false,
            Ok(n) if first[..n] != PREFACE[..n] => return false,
            Ok(n) if n == PREFACE.len() => return true,
            Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// How the connection ends is the client's to tell.
async fn serve<S>(server: Arc<Server>, met: Met, (stream, is_h2): (S, bool))
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let (server, met) = (server.clone(), met.clone());
        async move { answer(&server, &met, request).await }
    });
    let io = TokioIo::new(stream);
    let _ = if is_h2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        builder.serve_connection(io, service).await
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).half_close(true);
        builder.serve_connection(io, service).await
    };
}
