//! Connecting to what was decided: plain TCP, or a stream of a tunnel.

use std::net::SocketAddr;
use std::rc::Rc;

use hbone::{CloseReason, ConnectRequest, ErrorCode};
use mesh::decide::{HboneRoute, Outbound, Route};
use netio::TcpStream;
use netio::socket::{self, ConnectError, MARK_UPSTREAM, Source, Upstream};
use netio::time::Instant;

use super::tunnels::Tunnels;
use super::{Established, OutboundError, ip};
use crate::connection::Connection;
use crate::worker::Worker;
use crate::worker::pods::LocalPod;
use carrier::headers::request_fields;
use carrier::limits::{CONNECT_TIMEOUT, DISCOVERY_WAIT};
use carrier::relay::End;
use carrier::tunnel::dial::{Dialler, describe};
use carrier::tunnel::key::TunnelKey;
use carrier::tunnel::pool::TunnelError;
use carrier::tunnel::stream::{StreamError, TunnelStream};

/// How often a stream is asked for again when its tunnel was lost, or took no more streams, before
/// it answered: a tunnel of the pool may have died a moment ago.
const STREAM_TRIES: usize = 3;

pub(super) async fn connect(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    connection: &Connection,
    decision: &Outbound,
) -> Established {
    match &decision.route {
        Route::Passthrough(address) | Route::Plain(address) => plain(pod, *address).await,
        Route::Hbone(route) => tunnelled(worker, pod, connection, (route, decision)).await,
        Route::NotYet(missing) => Err(OutboundError::NotYet(missing.clone())),
        Route::Refuse(why) => Err(OutboundError::Refused(why.clone())),
    }
}

async fn plain(pod: &LocalPod, address: SocketAddr) -> Established {
    match dial(pod, address).await {
        Ok(socket) => Ok(End::Tcp(Rc::new(socket))),
        Err(error) => Err(OutboundError::Connect(describe(&error, address))),
    }
}

/// A TCP connection that leaves the pod by its own interface, not captured again.
pub(super) async fn dial(
    pod: &LocalPod,
    destination: SocketAddr,
) -> Result<TcpStream, ConnectError> {
    let netns = &pod.pod.netns;
    let upstream = Upstream {
        netns,
        destination,
        mark: MARK_UPSTREAM,
        source: Source::Own,
    };
    socket::connect(&upstream, CONNECT_TIMEOUT).await
}

async fn tunnelled(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    connection: &Connection,
    (route, decision): (&HboneRoute, &Outbound),
) -> Established {
    worker.has_memory().map_err(TunnelError::from)?;
    let key = Rc::new(TunnelKey {
        source: pod.pod.identity.clone(),
        destinations: route.identities.clone(),
        peer: route.peer,
        source_ip: ip(connection.source()),
        pod: pod.pod.uid.clone(),
        netns: pod.pod.netns.id(),
    });
    let request = request(worker, connection, route, decision);
    let maker = Dialler(Tunnels {
        worker: Rc::clone(worker),
        pod: Rc::clone(pod),
    });
    // A tunnel outlives the certificate that it was made with; new connections do not get into it.
    if !worker.has_certificate(&key.source) {
        let deadline = Instant::now() + DISCOVERY_WAIT;
        let certificate = worker.certificate(deadline, &key.source).await;
        certificate
            .map_err(|why| TunnelError::NoCertificate(format!("{}: {why}", key.source).into()))?;
    }
    for last in (0..STREAM_TRIES).rev() {
        let stream = match worker.pool.stream(&key, &request, &maker).await {
            Err(error) if error.was_cut_off() && last > 0 => continue,
            stream => stream?,
        };
        match answered(&stream).await {
            Ok(()) => {
                connection.details.borrow_mut().destination.identity = stream.tunnel().peer();
                return Ok(End::Stream(stream));
            }
            Err(Unanswered::Lost(_)) if last > 0 && connection.ended().is_none() => {}
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
    For(OutboundError),
}

async fn answered(stream: &TunnelStream) -> Result<(), Unanswered> {
    match stream.response().await {
        Ok(response) if response.status == 200 => Ok(()),
        Ok(response) => {
            stream.reset(ErrorCode::NO_ERROR);
            Err(Unanswered::For(OutboundError::Status(response.status)))
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

fn request(
    worker: &Worker,
    connection: &Connection,
    route: &HboneRoute,
    decision: &Outbound,
) -> ConnectRequest {
    let source = connection.details.borrow().source.workload.clone();
    let host = decision.service.as_ref().map(|service| &*service.hostname);
    let random = || worker.random();
    let headers = request_fields(source.as_deref(), connection.source(), host, random);
    ConnectRequest {
        authority: route.authority.clone(),
        headers,
    }
}
