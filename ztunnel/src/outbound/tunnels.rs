//! What ztunnel gives to the making of a pod's outbound tunnels.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use carrier::certificate::Certificate;
use carrier::relay::buffer::Buffers;
use carrier::tunnel::dial::Site;
use carrier::tunnel::key::TunnelKey;
use carrier::tunnel::pool::Pool;
use carrier::tunnel::{Setting, Tunnel};
use netio::TcpStream;
use netio::socket::ConnectError;
use netio::time::Instant;

use super::peer::dial;
use crate::worker::Worker;
use crate::worker::pods::LocalPod;

/// The tunnels of one pod.
#[derive(Clone)]
pub(super) struct Tunnels {
    /// Where they run.
    pub worker: Rc<Worker>,
    /// Whose they are.
    pub pod: Rc<LocalPod>,
}

impl Site for Tunnels {
    async fn certificate(
        &self,
        key: &TunnelKey,
        deadline: Instant,
    ) -> Result<Certificate, Arc<str>> {
        let certificate = self.worker.certificate(deadline, &key.source).await;
        certificate.map_err(|why| format!("{}: {why}", key.source).into())
    }

    async fn dial(&self, key: &TunnelKey) -> Result<TcpStream, ConnectError> {
        dial(&self.pod, key.peer).await
    }

    fn config(&self) -> &hbone::Config {
        &self.worker.tunnel_config
    }

    fn setting(&self) -> Setting {
        self.worker.tunnel_setting(self.worker.config.tunnel_idle)
    }

    fn pool(&self) -> &Pool {
        &self.worker.pool
    }

    fn buffers(&self) -> &Buffers {
        &self.worker.buffers
    }

    fn begun(&self, key: &TunnelKey, tunnel: &Rc<Tunnel>) {
        self.worker.tunnels.insert(&key.pod, tunnel);
    }

    fn ended(&self, tunnel: &Rc<Tunnel>) {
        self.worker.tunnels.remove(tunnel);
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) -> bool {
        self.worker.spawn(task)
    }
}
