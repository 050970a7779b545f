//! What the waypoint gives to the making of its tunnels to endpoints.

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

use super::dial;
use crate::worker::Worker;

/// The worker whose tunnels they are.
#[derive(Clone)]
pub(super) struct Tunnels(pub Rc<Worker>);

impl Site for Tunnels {
    async fn certificate(&self, _: &TunnelKey, deadline: Instant) -> Result<Certificate, Arc<str>> {
        self.0.certificate(deadline).await.map_err(Arc::from)
    }

    async fn dial(&self, key: &TunnelKey) -> Result<TcpStream, ConnectError> {
        dial(&self.0, key.peer).await
    }

    fn config(&self) -> &hbone::Config {
        &self.0.tunnel_config
    }

    fn setting(&self) -> Setting {
        self.0.tunnel_setting(self.0.config.tunnel_idle)
    }

    fn pool(&self) -> &Pool {
        &self.0.pool
    }

    fn buffers(&self) -> &Buffers {
        &self.0.buffers
    }

    fn begun(&self, _: &TunnelKey, tunnel: &Rc<Tunnel>) {
        self.0.upstream_tunnels.insert(tunnel);
    }

    fn ended(&self, tunnel: &Rc<Tunnel>) {
        self.0.upstream_tunnels.remove(tunnel);
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) -> bool {
        self.0.spawn(task)
    }
}
