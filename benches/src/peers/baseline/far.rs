//! The terminating side: mTLS, HTTP/2, a plain connection for each CONNECT.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::copy::{from_tunnel, into_tunnel};
use super::telemetry::Connection;
use super::{FRAME_BYTES, STREAM_WINDOW_BYTES, TUNNEL_WINDOW_BYTES};
use crate::peers::shared_listener;

/// Streams that a tunnel may have open; the near side stays below.
const MAX_STREAMS: u32 = 200;

pub(super) async fn serve(listen: SocketAddr, tls: Arc<ServerConfig>) -> anyhow::Result<()> {
    let listener = shared_listener(listen)?;
    let acceptor = TlsAcceptor::from(tls);
    let tasks = TaskTracker::new();
    loop {
        let (tcp, _) = listener.accept().await?;
        tasks.spawn(tunnel(tcp, acceptor.clone(), tasks.clone()));
    }
}

/// A peer that fails ends its own tunnel only.
async fn tunnel(tcp: TcpStream, acceptor: TlsAcceptor, tasks: TaskTracker) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let tls = acceptor.accept(tcp).await?;
    let mut builder = h2::server::Builder::new();
    builder
        .max_frame_size(FRAME_BYTES)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(TUNNEL_WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS);
    let mut http = builder.handshake::<_, Bytes>(tls).await?;
    while let Some(request) = http.accept().await {
        let (request, respond) = request?;
        tasks.spawn(stream(request, respond, tasks.clone()));
    }
    Ok(())
}

async fn stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    tasks: TaskTracker,
) -> anyhow::Result<()> {
    let authority = request.uri().authority().context("no authority")?;
    let to: SocketAddr = authority.as_str().parse()?;
    let Ok(server) = TcpStream::connect(to).await else {
        respond.send_response(Response::builder().status(503).body(())?, true)?;
        return Ok(());
    };
    server.set_nodelay(true)?;
    let send = respond.send_response(Response::new(()), false)?;
    let (read, write) = server.into_split();
    let connection = Connection::open("destination", to);
    tasks.spawn(into_tunnel(read, send, Arc::clone(&connection)));
    from_tunnel(request.into_body(), write, connection).await
}
