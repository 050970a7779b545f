//! Making one outbound tunnel: certificate, TCP connection in the pod's namespace, handshake.
//!
//! Runs as a task of the worker, apart from the connections that wait for it.

use std::cell::RefCell;
use std::rc::Rc;

use hbone::{CloseReason, ConnectRequest, ErrorCode};
use netio::socket::ConnectError;
use netio::time::Instant;
use tokio::sync::watch;

use super::peer::{describe, dial};
use crate::worker::Worker;
use crate::worker::pods::LocalPod;
use carrier::limits::DISCOVERY_WAIT;
use carrier::tunnel::key::TunnelKey;
use carrier::tunnel::pool::{Maker, Progress, TunnelError};
use carrier::tunnel::stream::TunnelStream;
use carrier::tunnel::{Owner, Tunnel, driver};

/// Makes the tunnels of one pod.
pub struct TunnelMaker {
    /// Where it runs.
    pub worker: Rc<Worker>,
    /// Whose it is.
    pub pod: Rc<LocalPod>,
}

impl Maker for TunnelMaker {
    fn make(&self, key: &Rc<TunnelKey>, progress: watch::Sender<Progress>) {
        let (worker, pod) = (Rc::clone(&self.worker), Rc::clone(&self.pod));
        let client = Rc::new(Client {
            worker: Rc::clone(&worker),
            key: Rc::clone(key),
            progress: RefCell::new(Some(progress)),
        });
        self.worker.spawn(async move {
            // On the heap: a task that drives a tunnel for days shall not carry its connecting.
            match Box::pin(connect(&worker, &pod, &client)).await {
                Ok(tunnel) => driver::drive(&tunnel, &worker.buffers).await,
                Err(error) => client.settle(Progress::Failed(error)),
            }
        });
    }
}

async fn connect(
    worker: &Rc<Worker>,
    pod: &LocalPod,
    client: &Rc<Client>,
) -> Result<Rc<Tunnel>, TunnelError> {
    let key = &client.key;
    let deadline = Instant::now() + DISCOVERY_WAIT;
    let certificate = worker.certificate(deadline, &key.source).await;
    let certificate = certificate
        .map_err(|why| TunnelError::NoCertificate(format!("{}: {why}", key.source).into()))?;
    let socket = dial(pod, key.peer).await.map_err(|error| match error {
        ConnectError::TimedOut => TunnelError::TimedOut,
        error => TunnelError::Connect(describe(&error, key.peer).into()),
    })?;
    let connection = hbone::Connection::client(
        &certificate.client,
        key.destinations.clone(),
        &worker.tunnel_config,
        worker.clock.now(),
    );
    let connection = connection.map_err(|e| TunnelError::Handshake(CloseReason::Handshake(e)))?;
    let owner = Box::new(Events(Rc::clone(client)));
    let tunnel = Tunnel::new(
        connection,
        Rc::new(socket),
        worker.tunnel_setting(worker.config.tunnel_idle),
        owner,
    );
    tunnel.expires(certificate.not_after());
    worker.tunnels.insert(&key.pod, &tunnel);
    Ok(tunnel)
}

/// What follows from the events of an outbound tunnel.
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

/// The events of its tunnel are the client's.
struct Events(Rc<Client>);

impl Owner for Events {
    fn established(&self, tunnel: &Rc<Tunnel>) {
        tracing::debug!(peer = %self.0.key.peer, source = %self.0.key.source, "tunnel made");
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
        self.0.worker.tunnels.remove(tunnel);
        self.0
            .settle(Progress::Failed(TunnelError::Handshake(reason.clone())));
    }
}
