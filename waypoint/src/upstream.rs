//! A connection to an endpoint: a stream of a tunnel under the waypoint's own identity, or plain
//! TCP. Knows no route and no HTTP.

mod tunnels;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use carrier::flag::Flag;
use carrier::headers::request_fields;
use carrier::limits::{CONNECT_TIMEOUT, DISCOVERY_WAIT};
use carrier::relay::End;
use carrier::tunnel::dial::{Dialler, describe};
use carrier::tunnel::key::TunnelKey;
use carrier::tunnel::pool::TunnelError;
use carrier::tunnel::stream::{StreamError, TunnelStream};
use hbone::{CloseReason, ConnectRequest, ErrorCode};
use mesh::decide::{HboneRoute, Route};
use netio::TcpStream;
use netio::socket::{self, ConnectError, Source, Upstream};
use netio::time::Instant;

use crate::endpoints::Endpoint;
use crate::worker::Worker;
use tunnels::Tunnels;

/// How often a stream is asked for again when its tunnel was lost, or took no more streams, before
/// it answered: a tunnel of the pool may have died a moment ago.
const STREAM_TRIES: usize = 3;

/// Why there is no connection to an endpoint. No byte was sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No TCP connection.
    #[error("{0}")]
    Connect(Arc<str>),
    /// No stream.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The endpoint's proxy answered the CONNECT with something else than 200.
    #[error("{}", status_text(*.0))]
    Status(u16),
    /// The way leads nowhere.
    #[error("{0}")]
    Nowhere(Arc<str>),
}

fn status_text(status: u16) -> String {
    match status {
        401 => "the endpoint's proxy refused by policy (401)".to_owned(),
        503 => "the endpoint's proxy cannot reach its application (503)".to_owned(),
        status => format!("the endpoint's proxy answered {status}"),
    }
}

impl UpstreamError {
    /// `response_flags`.
    pub fn flag(&self) -> Flag {
        match self {
            Self::Status(401) => Flag::Deny,
            Self::Connect(_) | Self::Status(_) | Self::Nowhere(_) => Flag::Connect,
            Self::Tunnel(error) => error.flag(),
        }
    }

    /// Whether the waypoint itself has no more room.
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::Tunnel(TunnelError::Limit(_)))
    }

    /// Whether another endpoint may do better.
    pub fn tries_elsewhere(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Status(503) => true,
            Self::Tunnel(error) => error.tries_elsewhere(),
            Self::Status(_) | Self::Nowhere(_) => false,
        }
    }
}

/// For whom a connection is made; the endpoint's side hears of it in logs alone.
#[derive(Clone, Debug)]
pub struct OnBehalf {
    /// The client.
    pub client: SocketAddr,
    /// Host name of the service that was addressed.
    pub host: Option<Arc<str>>,
}

/// Connects to an endpoint.
///
/// # Errors
/// Why not.
pub async fn connect(
    worker: &Rc<Worker>,
    endpoint: &Endpoint,
    behalf: &OnBehalf,
) -> Result<End, UpstreamError> {
    match &endpoint.way.route {
        Route::Passthrough(address) | Route::Plain(address) => match dial(worker, *address).await {
            Ok(socket) => Ok(End::Tcp(Rc::new(socket))),
            Err(error) => Err(UpstreamError::Connect(describe(&error, *address))),
        },
        Route::Hbone(route) => tunnelled(worker, route, behalf).await,
        route @ (Route::NotYet(_) | Route::Refuse(_)) => {
            Err(UpstreamError::Nowhere(route.to_string().into()))
        }
    }
}

/// A TCP connection from the waypoint's own namespace and address. No proxy captures it.
async fn dial(worker: &Worker, destination: SocketAddr) -> Result<TcpStream, ConnectError> {
    let upstream = Upstream {
        netns: &worker.netns,
        destination,
        mark: 0,
        source: Source::Own,
    };
    socket::connect(&upstream, CONNECT_TIMEOUT).await
}

async fn tunnelled(
    worker: &Rc<Worker>,
    route: &HboneRoute,
    behalf: &OnBehalf,
) -> Result<End, UpstreamError> {
    worker.has_memory().map_err(TunnelError::from)?;
    let own = worker.own();
    let key = Rc::new(TunnelKey {
        source: worker.config.identity.clone(),
        destinations: route.identities.clone(),
        peer: route.peer,
        // The kernel chooses among the addresses of the one pod.
        source_ip: match route.peer.is_ipv6() {
            true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        },
        pod: worker.pod.clone(),
        netns: worker.netns.id(),
    });
    let host = behalf.host.as_deref();
    let random = || worker.random();
    let request = ConnectRequest {
        authority: route.authority.clone(),
        headers: request_fields(own.as_deref(), behalf.client, host, random),
    };
    // A tunnel outlives the certificate that it was made with; new streams do not get into it.
    if !worker.has_certificate() {
        let certificate = worker.certificate(Instant::now() + DISCOVERY_WAIT).await;
        certificate.map_err(|why| TunnelError::NoCertificate(why.into()))?;
    }
    let maker = Dialler(Tunnels(Rc::clone(worker)));
    for last in (0..STREAM_TRIES).rev() {
        let stream = match worker.pool.stream(&key, &request, &maker).await {
            Err(error) if error.was_cut_off() && last > 0 => continue,
            stream => stream?,
        };
        match answered(&stream).await {
            Ok(()) => return Ok(End::Stream(stream)),
            Err(Unanswered::Lost(_)) if last > 0 => {}
            Err(Unanswered::Lost(error)) => return Err(TunnelError::Stream(error).into()),
            Err(Unanswered::For(error)) => return Err(error),
        }
    }
    unreachable!("the last try returns")
}

/// Why a stream was not opened.
enum Unanswered {
    /// It went with its tunnel, or the tunnel took no more: another one may take it.
    Lost(StreamError),
    /// The peer means it.
    For(UpstreamError),
}

async fn answered(stream: &TunnelStream) -> Result<(), Unanswered> {
    match stream.response().await {
        Ok(response) if response.status == 200 => Ok(()),
        Ok(response) => {
            stream.reset(ErrorCode::NO_ERROR);
            Err(Unanswered::For(UpstreamError::Status(response.status)))
        }
        // A server that refuses our certificate says so only after the handshake is over for us.
        Err(error) => match stream.tunnel().close_reason() {
            Some(why @ (CloseReason::Tls(_) | CloseReason::Handshake(_))) => {
                Err(Unanswered::For(TunnelError::Handshake(why).into()))
            }
            _ if error == StreamError::Silent => {
                Err(Unanswered::For(TunnelError::Stream(error).into()))
            }
            _ => Err(Unanswered::Lost(error)),
        },
    }
}
