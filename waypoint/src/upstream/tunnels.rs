//! Making one tunnel to an endpoint: certificate, TCP connection, handshake.
//!
//! Runs as a task of the worker, apart from those that wait for it.

use std::cell::RefCell;
use std::rc::Rc;

use carrier::limits::DISCOVERY_WAIT;
use carrier::tunnel::key::TunnelKey;
use carrier::tunnel::pool::{Maker, Progress, TunnelError};
use carrier::tunnel::stream::TunnelStream;
use carrier::tunnel::{Owner, Tunnel, driver};
use hbone::{CloseReason, ConnectRequest, ErrorCode};
use netio::socket::ConnectError;
use netio::time::Instant;
use tokio::sync::watch;

use super::{describe, dial};
use crate::worker::Worker;

/// Makes the tunnels of one worker.
pub(super) struct TunnelMaker(pub Rc<Worker>);

impl Maker for TunnelMaker {
    fn make(&self, key: &Rc<TunnelKey>, progress: watch::Sender<Progress>) {
        let worker = Rc::clone(&self.0);
        let client = Rc::new(Client {
            worker: Rc::clone(&worker),
            key: Rc::clone(key),
            progress: RefCell::new(Some(progress)),
        });
        self.0.spawn(async move {
            // On the heap: a task that drives a tunnel for days shall not carry its connecting.
            match Box::pin(connect(&worker, &client)).await {
                Ok(tunnel) => driver::drive(&tunnel, &worker.buffers).await,
                Err(error) => client.settle(Progress::Failed(error)),
            }
        });
    }
}

async fn connect(worker: &Rc<Worker>, client: &Rc<Client>) -> Result<Rc<Tunnel>, TunnelError> {
    let key = &client.key;
    let certificate = worker.certificate(Instant::now() + DISCOVERY_WAIT).await;
    let certificate = certificate.map_err(|why| TunnelError::NoCertificate(why.into()))?;
    let socket = dial(worker, key.peer).await.map_err(|error| match error {
        ConnectError::TimedOut => TunnelError::TimedOut,
        error => TunnelError::Connect(describe(&error, key.peer)),
    })?;
    let connection = hbone::Connection::client(
        &certificate.client,
        key.destinations.clone(),
        &worker.tunnel_config,
        worker.clock.now(),
    );
    let connection = connection.map_err(|e| TunnelError::Handshake(CloseReason::Handshake(e)))?;
    let tunnel = Tunnel::new(
        connection,
        Rc::new(socket),
        worker.tunnel_setting(worker.config.tunnel_idle),
        Box::new(Events(Rc::clone(client))),
    );
    tunnel.expires(certificate.not_after());
    worker.upstream_tunnels.insert(&tunnel);
    Ok(tunnel)
}

/// Who waits for the tunnel.
struct Client {
    worker: Rc<Worker>,
    key: Rc<TunnelKey>,
    /// Taken when told.
    progress: RefCell<Option<watch::Sender<Progress>>>,
}

impl Client {
    fn settle(&self, outcome: Progress) {
        if let Some(progress) = self.progress.take() {
            self.worker.pool.made(&self.key);
            // Those who waited may all have given up.
            let _ = progress.send(outcome);
        }
    }
}

/// What follows from the events of a tunnel of ours.
struct Events(Rc<Client>);

impl Owner for Events {
    fn established(&self, tunnel: &Rc<Tunnel>) {
        tracing::debug!(peer = %self.0.key.peer, "tunnel made");
        self.0.worker.pool.insert(&self.0.key, tunnel);
        self.0.settle(Progress::Ready);
    }

    fn request(&self, stream: TunnelStream, _request: ConnectRequest) {
        // Only servers are asked; the connection sees to it.
        stream.reset(ErrorCode::REFUSED_STREAM);
    }

    fn closed(&self, tunnel: &Rc<Tunnel>, reason: &CloseReason) {
        tracing::debug!(peer = %self.0.key.peer, %reason, "tunnel closed");
        self.0.worker.pool.remove(&self.0.key, tunnel);
        self.0.worker.upstream_tunnels.remove(tunnel);
        self.0
            .settle(Progress::Failed(TunnelError::Handshake(reason.clone())));
    }
}
