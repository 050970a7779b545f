//! A tunnel that a client's proxy makes: handshake with the waypoint's own certificate, then
//! CONNECTs.

mod admit;
pub mod refusal;
mod stream;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use carrier::handshakes::Handshake;
use carrier::limits::{DISCOVERY_WAIT, INBOUND_TUNNEL_IDLE, Limit, Reached};
use carrier::relay::abort;
use carrier::spread::Seat;
use carrier::tunnel::stream::TunnelStream;
use carrier::tunnel::{Owner, Tunnel, driver};
use hbone::{CloseReason, ConnectRequest, ErrorCode};
use mesh::Identity;
use netio::TcpStream;
use netio::time::Instant;

use crate::connection::Connection;
use crate::worker::Worker;
use crate::worker::accept::Accepted;
pub use refusal::Refusal;

/// Serves one accepted TCP connection to its end.
pub async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted {
        socket,
        source,
        seat,
    } = accepted;
    let cut_off = Rc::clone(&socket);
    let begun = worker
        .handshakes
        .begin(source.ip(), move || abort(&cut_off));
    let handshake = match begun {
        Ok(handshake) => handshake,
        Err(full) => {
            abort(&socket);
            return record(&worker, source, None, &full.into());
        }
    };
    // On the heap: a task that drives a tunnel for days shall not carry its beginning.
    let tunnel = match Box::pin(begin(&worker, (&socket, source), handshake, seat)).await {
        Ok(tunnel) => tunnel,
        Err(error) => {
            abort(&socket);
            return record(&worker, source, None, &error);
        }
    };
    drop(socket);
    driver::drive(&tunnel, &worker.buffers).await;
}

/// The tunnel, whose handshake comes next.
async fn begin(
    worker: &Rc<Worker>,
    (socket, source): (&Rc<TcpStream>, SocketAddr),
    handshake: Handshake,
    seat: Seat,
) -> Result<Rc<Tunnel>, Refusal> {
    let deadline = Instant::now() + DISCOVERY_WAIT;
    let certificate = worker.certificate(deadline).await;
    let certificate = certificate.map_err(Refusal::NoCertificate)?;
    let now = worker.clock.now();
    let connection = hbone::Connection::server(&certificate.server, &worker.tunnel_config, now)
        .map_err(|error| Refusal::Handshake(CloseReason::Handshake(error)))?;
    let server = Server {
        worker: Rc::clone(worker),
        source,
        handshake: RefCell::new(Some(handshake)),
        _seat: seat,
    };
    let setting = worker.tunnel_setting(worker.config.tunnel_idle * INBOUND_TUNNEL_IDLE);
    let tunnel = Tunnel::new(connection, Rc::clone(socket), setting, Box::new(server));
    tunnel.expires(certificate.not_after());
    worker.tunnels.insert(&tunnel);
    Ok(tunnel)
}

/// The record of a tunnel that did not come about.
fn record(worker: &Worker, source: SocketAddr, peer: Option<Identity>, why: &Refusal) {
    let connection = Connection::new(source, "".into());
    connection.details.borrow_mut().source.identity = peer;
    refusal::record(worker, &connection, why);
}

/// What follows from the events of an inbound tunnel.
struct Server {
    worker: Rc<Worker>,
    source: SocketAddr,
    /// Given back when the handshake is over, either way.
    handshake: RefCell<Option<Handshake>>,
    /// Counts the tunnel on this worker.
    _seat: Seat,
}

impl Owner for Server {
    fn established(&self, tunnel: &Rc<Tunnel>) {
        self.handshake.take();
        if self.worker.is_draining() {
            tunnel.drain();
        }
        let Some(peer) = tunnel.peer() else { return };
        match self.worker.guests.admit(&self.worker.pod, &peer, tunnel) {
            Ok(evicted) => {
                for limit in evicted {
                    tracing::debug!(%peer, %limit, "a tunnel without streams made room");
                    self.worker.count_reached(Reached::evicted(limit));
                }
            }
            Err(full) => {
                record(&self.worker, self.source, Some(peer), &full.into());
                tunnel.close(ErrorCode::ENHANCE_YOUR_CALM);
            }
        }
    }

    fn request(&self, stream: Rc<TunnelStream>, request: ConnectRequest) {
        let asked = stream::Connect {
            peer: self.source,
            request,
            stream,
        };
        let worker = Rc::clone(&self.worker);
        self.worker.spawn(stream::serve(worker, Box::new(asked)));
    }

    fn closed(&self, tunnel: &Rc<Tunnel>, reason: &CloseReason) {
        self.worker.tunnels.remove(tunnel);
        self.worker.guests.remove(tunnel);
        match self.handshake.take() {
            Some(handshake) if handshake.was_evicted() => {
                let why = Reached::evicted(Limit::HandshakesPerWorker).into();
                record(&self.worker, self.source, None, &why);
            }
            Some(_) => {
                let why = Refusal::Handshake(reason.clone());
                record(&self.worker, self.source, None, &why);
            }
            None => {}
        }
        tracing::debug!(source = %self.source, %reason, "inbound tunnel closed");
    }
}
