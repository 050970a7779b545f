//! Making one tunnel of ours: certificate, TCP connection, handshake. The proxy says where its
//! certificates, its sockets and its tasks come from.
//!
//! Runs as a task of the worker, apart from those that wait for the tunnel.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use hbone::{CloseReason, ConnectRequest, ErrorCode};
use netio::TcpStream;
use netio::socket::ConnectError;
use netio::time::Instant;
use tokio::sync::watch;

use super::key::TunnelKey;
use super::pool::{Maker, Pool, Progress, TunnelError};
use super::stream::TunnelStream;
use super::{Owner, Setting, Tunnel, driver};
use crate::certificate::Certificate;
use crate::limits::{DISCOVERY_WAIT, Limit, Reached};
use crate::relay::buffer::Buffers;

/// What a proxy gives to the making of its tunnels. Clones mean the same.
pub trait Site: Clone + 'static {
    /// The certificate of that tunnel's source, valid now, waited for until then at most; else why
    /// there is none.
    fn certificate(
        &self,
        key: &TunnelKey,
        deadline: Instant,
    ) -> impl Future<Output = Result<Certificate, Arc<str>>>;

    /// A TCP connection to the other end, within its time.
    fn dial(&self, key: &TunnelKey) -> impl Future<Output = Result<TcpStream, ConnectError>>;

    /// How tunnels of ours are made.
    fn config(&self) -> &hbone::Config;

    /// What a new one is given.
    fn setting(&self) -> Setting;

    /// The proxy's tunnels of ours.
    fn pool(&self) -> &Pool;

    /// Read buffers.
    fn buffers(&self) -> &Buffers;

    /// It is there, its handshake comes next: listed, so that a drain finds it.
    fn begun(&self, key: &TunnelKey, tunnel: &Rc<Tunnel>);

    /// It is over.
    fn ended(&self, tunnel: &Rc<Tunnel>);

    /// Starts a task. False: there are too many, and it was dropped.
    fn spawn(&self, task: impl Future<Output = ()> + 'static) -> bool;
}

/// Makes the tunnels of one worker.
pub struct Dialler<S>(pub S);

impl<S: Site> Maker for Dialler<S> {
    fn make(&self, key: &Rc<TunnelKey>, progress: watch::Sender<Progress>) {
        let site = self.0.clone();
        let client = Rc::new(Client {
            site: site.clone(),
            key: Rc::clone(key),
            progress: RefCell::new(Some(progress)),
        });
        let made = Rc::clone(&client);
        let is_begun = self.0.spawn(async move {
            // On the heap: a task that drives a tunnel for days shall not carry its connecting.
            match Box::pin(connect(&made)).await {
                Ok(tunnel) => driver::drive(&tunnel, site.buffers()).await,
                Err(error) => made.settle(Progress::Failed(error)),
            }
        });
        if !is_begun {
            let full = Reached::refused(Limit::TasksPerWorker);
            client.settle(Progress::Failed(full.into()));
        }
    }
}

/// Why there is no connection, in a sentence.
pub fn describe(error: &ConnectError, address: SocketAddr) -> Arc<str> {
    format!("connecting to {address}: {error}").into()
}

async fn connect<S: Site>(client: &Rc<Client<S>>) -> Result<Rc<Tunnel>, TunnelError> {
    let (site, key) = (&client.site, &client.key);
    let deadline = Instant::now() + DISCOVERY_WAIT;
    let certificate = site.certificate(key, deadline).await;
    let certificate = certificate.map_err(TunnelError::NoCertificate)?;
    let socket = site.dial(key).await.map_err(|error| match error {
        ConnectError::TimedOut => TunnelError::TimedOut,
        error => TunnelError::Connect(describe(&error, key.peer)),
    })?;
    let setting = site.setting();
    let connection = hbone::Connection::client(
        &certificate.client,
        key.destinations.clone(),
        site.config(),
        setting.clock.now(),
    );
    let connection = connection.map_err(|e| TunnelError::Handshake(CloseReason::Handshake(e)))?;
    let owner = Box::new(Events(Rc::clone(client)));
    let tunnel = Tunnel::new(connection, Rc::new(socket), setting, owner);
    tunnel.expires(certificate.not_after());
    site.begun(key, &tunnel);
    Ok(tunnel)
}

/// Who waits for the tunnel.
struct Client<S> {
    site: S,
    key: Rc<TunnelKey>,
    /// Taken when told.
    progress: RefCell<Option<watch::Sender<Progress>>>,
}

impl<S: Site> Client<S> {
    fn settle(&self, outcome: Progress) {
        if let Some(progress) = self.progress.take() {
            self.site.pool().made(&self.key);
            // Those who waited may all have given up.
            let _ = progress.send(outcome);
        }
    }
}

/// What follows from the events of a tunnel of ours.
struct Events<S>(Rc<Client<S>>);

impl<S: Site> Owner for Events<S> {
    fn established(&self, tunnel: &Rc<Tunnel>) {
        let key = &self.0.key;
        tracing::debug!(peer = %key.peer, source = %key.source, "tunnel made");
        self.0.site.pool().insert(key, tunnel);
        self.0.settle(Progress::Ready);
    }

    fn request(&self, stream: Rc<TunnelStream>, _request: ConnectRequest) {
        // Only servers are asked; the connection sees to it.
        stream.reset(ErrorCode::REFUSED_STREAM);
    }

    fn closed(&self, tunnel: &Rc<Tunnel>, reason: &CloseReason) {
        tracing::debug!(peer = %self.0.key.peer, %reason, "tunnel closed");
        self.0.site.pool().remove(&self.0.key, tunnel);
        self.0.site.ended(tunnel);
        self.0
            .settle(Progress::Failed(TunnelError::Handshake(reason.clone())));
    }
}
