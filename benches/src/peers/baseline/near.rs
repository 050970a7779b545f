//! The originating side: plain connections, a pool of tunnels by key.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::copy::{from_tunnel, into_tunnel};
use super::telemetry::Connection;
use super::{FRAME_BYTES, STREAM_WINDOW_BYTES, STREAMS_PER_TUNNEL, TUNNEL_WINDOW_BYTES};
use crate::peers::certificates::PEER_NAME;
use crate::peers::{Forward, shared_listener};

pub(super) async fn serve(
    forwards: &[Forward],
    far: SocketAddr,
    tls: Arc<ClientConfig>,
) -> anyhow::Result<()> {
    let tasks = TaskTracker::new();
    let pool = Arc::new(Pool {
        connector: TlsConnector::from(tls),
        tunnels: Mutex::default(),
        opening: tokio::sync::Mutex::default(),
        tasks: tasks.clone(),
    });
    for forward in forwards.iter().copied() {
        let listener = shared_listener(forward.listen)?;
        let (pool, streams) = (Arc::clone(&pool), tasks.clone());
        tasks.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                streams.spawn(stream(near, forward.to, far, Arc::clone(&pool)));
            }
        });
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Who talks to whom, from where: connections of one key share tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: String,
    destination: String,
    peer: SocketAddr,
    source_ip: std::net::IpAddr,
}

#[derive(Clone)]
struct Tunnel {
    requests: SendRequest<Bytes>,
    streams: Arc<AtomicUsize>,
}

struct Pool {
    connector: TlsConnector,
    tunnels: Mutex<HashMap<Key, Vec<Tunnel>>>,
    /// Held while a tunnel is opened, so that a burst of connections opens one.
    opening: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
}

/// A place in a tunnel; given back when dropped.
struct Place(Tunnel);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    async fn place(&self, key: &Key) -> anyhow::Result<Place> {
        if let Some(place) = self.free_place(key) {
            return Ok(place);
        }
        let _opening = self.opening.lock().await;
        if let Some(place) = self.free_place(key) {
            return Ok(place);
        }
        let tunnel = self.open(key.peer).await?;
        let mut tunnels = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        tunnels.entry(key.clone()).or_default().push(tunnel.clone());
        tunnel.streams.fetch_add(1, Ordering::Relaxed);
        Ok(Place(tunnel))
    }

    fn free_place(&self, key: &Key) -> Option<Place> {
        let tunnels = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        let tunnel = tunnels.get(key)?.iter().find(|tunnel| {
            let taken = tunnel.streams.fetch_add(1, Ordering::Relaxed);
            if taken >= STREAMS_PER_TUNNEL {
                tunnel.streams.fetch_sub(1, Ordering::Relaxed);
            }
            taken < STREAMS_PER_TUNNEL
        })?;
        Some(Place(tunnel.clone()))
    }

    async fn open(&self, peer: SocketAddr) -> anyhow::Result<Tunnel> {
        let tcp = TcpStream::connect(peer).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(PEER_NAME)?;
        let tls = self.connector.connect(name, tcp).await?;
        let mut builder = h2::client::Builder::new();
        builder
            .max_frame_size(FRAME_BYTES)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(TUNNEL_WINDOW_BYTES)
            .initial_max_send_streams(STREAMS_PER_TUNNEL)
            .enable_push(false);
        let (requests, http) = builder.handshake(tls).await?;
        self.tasks.spawn(http);
        Ok(Tunnel {
            requests,
            streams: Arc::default(),
        })
    }
}

/// A connection that fails is closed, which its client sees.
async fn stream(
    near: TcpStream,
    to: SocketAddr,
    far: SocketAddr,
    pool: Arc<Pool>,
) -> anyhow::Result<()> {
    near.set_nodelay(true)?;
    let key = Key {
        source: "spiffe://cluster.local/ns/bench/sa/client".to_owned(),
        destination: "spiffe://cluster.local/ns/bench/sa/server".to_owned(),
        peer: far,
        source_ip: near.peer_addr()?.ip(),
    };
    let place = pool.place(&key).await?;
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(to.to_string())
        .body(())?;
    let mut requests = place.0.requests.clone().ready().await?;
    let (response, send) = requests.send_request(request, false)?;
    let response = response.await?;
    anyhow::ensure!(response.status().is_success(), "{}", response.status());
    let (read, write) = near.into_split();
    let connection = Connection::open("source", to);
    let sent = into_tunnel(read, send, Arc::clone(&connection));
    let sent = pool.tasks.spawn(sent);
    from_tunnel(response.into_body(), write, connection).await?;
    sent.await.context("the copy panicked")?
}
