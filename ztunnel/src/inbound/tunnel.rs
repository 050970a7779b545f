//! A tunnel that a peer makes to a pod: handshake with the pod's own certificate, then streams.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use hbone::{CloseReason, ConnectRequest, ErrorCode};
use mesh::Identity;
use netio::time::Instant;

use super::{InboundError, stream};
use crate::connection::{Connection, Direction};
use crate::flow;
use crate::worker::Worker;
use crate::worker::accept::Accepted;
use crate::worker::pods::LocalPod;
use carrier::handshakes::Handshake;
use carrier::limits::{DISCOVERY_WAIT, INBOUND_TUNNEL_IDLE, Limit, Reached};
use carrier::relay::abort;
use carrier::spread::Seat;
use carrier::tunnel::stream::TunnelStream;
use carrier::tunnel::{Owner, Tunnel, driver};

/// Serves one accepted TCP connection to its end.
pub async fn serve(worker: Rc<Worker>, mut accepted: Accepted) {
    let seat = accepted.seat.take();
    let socket = Rc::clone(&accepted.socket);
    let begun = worker
        .handshakes
        .begin(accepted.source.ip(), move || abort(&socket));
    let handshake = match begun {
        Ok(handshake) => handshake,
        Err(full) => return refuse(&worker, &accepted, &full.into()),
    };
    // On the heap: a task that drives a tunnel for days shall not carry its beginning.
    let tunnel = match Box::pin(begin(&worker, &accepted, handshake, seat)).await {
        Ok(tunnel) => tunnel,
        Err(error) => return refuse(&worker, &accepted, &error),
    };
    drop(accepted);
    driver::drive(&tunnel, &worker.buffers).await;
}

fn refuse(worker: &Worker, accepted: &Accepted, why: &InboundError) {
    abort(&accepted.socket);
    let Accepted {
        pod,
        source,
        destination,
        ..
    } = accepted;
    let resident = Rc::clone(&pod.resident);
    let connection = Connection::new(resident, Direction::Inbound, *source, *destination);
    flow::record_refusal(worker, &connection, why);
}

/// The tunnel, whose handshake comes next.
async fn begin(
    worker: &Rc<Worker>,
    accepted: &Accepted,
    handshake: Handshake,
    seat: Option<Seat>,
) -> Result<Rc<Tunnel>, InboundError> {
    let Accepted {
        pod,
        socket,
        source,
        destination,
        ..
    } = accepted;
    if pod.is_own_listener(*destination) {
        return Err(InboundError::OwnListener);
    }
    let identity = &pod.pod.identity;
    let deadline = Instant::now() + DISCOVERY_WAIT;
    let certificate = worker.certificate(deadline, identity).await;
    let certificate =
        certificate.map_err(|why| InboundError::NoCertificate(format!("{identity}: {why}")))?;
    let now = worker.clock.now();
    let connection = hbone::Connection::server(&certificate.server, &worker.tunnel_config, now)
        .map_err(|error| InboundError::Handshake(CloseReason::Handshake(error)))?;
    let server = Server {
        worker: Rc::clone(worker),
        pod: Rc::clone(pod),
        source: *source,
        destination: *destination,
        handshake: RefCell::new(Some(handshake)),
        _seat: seat,
    };
    let setting = worker.tunnel_setting(worker.config.tunnel_idle * INBOUND_TUNNEL_IDLE);
    let tunnel = Tunnel::new(connection, Rc::clone(socket), setting, Box::new(server));
    tunnel.expires(certificate.not_after());
    worker.tunnels.insert(&pod.pod.uid, &tunnel);
    Ok(tunnel)
}

/// What follows from the events of an inbound tunnel.
struct Server {
    worker: Rc<Worker>,
    pod: Rc<LocalPod>,
    source: SocketAddr,
    destination: SocketAddr,
    /// Given back when the handshake is over, either way.
    handshake: RefCell<Option<Handshake>>,
    /// Counts the tunnel on this worker.
    _seat: Option<Seat>,
}

impl Server {
    /// The record of a tunnel that did not come about.
    fn record(&self, peer: Option<Identity>, why: &InboundError) {
        let resident = Rc::clone(&self.pod.resident);
        let (source, destination) = (self.source, self.destination);
        let connection = Connection::new(resident, Direction::Inbound, source, destination);
        connection.details.borrow_mut().source.identity = peer;
        flow::record_refusal(&self.worker, &connection, why);
    }
}

impl Owner for Server {
    fn established(&self, tunnel: &Rc<Tunnel>) {
        self.handshake.take();
        if self.worker.lets_go_of(&self.pod.pod.uid) {
            tunnel.drain();
        }
        let Some(peer) = tunnel.peer() else { return };
        match self.worker.guests.admit(&self.pod.pod.uid, &peer, tunnel) {
            Ok(evicted) => {
                for limit in evicted {
                    tracing::debug!(%peer, %limit, "a tunnel without streams made room");
                    self.worker.count_reached(Reached::evicted(limit));
                }
            }
            Err(full) => {
                self.record(Some(peer), &full.into());
                tunnel.close(ErrorCode::ENHANCE_YOUR_CALM);
            }
        }
    }

    fn request(&self, stream: Rc<TunnelStream>, request: ConnectRequest) {
        let asked = stream::Asked {
            pod: Rc::clone(&self.pod),
            source: self.source,
            bound: self.destination,
            authority: request.authority,
            stream,
        };
        let worker = Rc::clone(&self.worker);
        self.worker.spawn(stream::serve(worker, asked));
    }

    fn closed(&self, tunnel: &Rc<Tunnel>, reason: &CloseReason) {
        self.worker.tunnels.remove(tunnel);
        self.worker.guests.remove(tunnel);
        match self.handshake.take() {
            Some(handshake) if handshake.was_evicted() => {
                self.record(None, &Reached::evicted(Limit::HandshakesPerWorker).into());
            }
            Some(_) => self.record(None, &InboundError::Handshake(reason.clone())),
            None => {}
        }
        tracing::debug!(source = %self.source, %reason, "inbound tunnel closed");
    }
}
