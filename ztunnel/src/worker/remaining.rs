//! What is still open when a pod or the worker ends: waited for, then ended.

use std::rc::Rc;
use std::time::Duration;

use hbone::ErrorCode;
use tokio::time::{Instant, sleep, timeout_at};

use super::Worker;
use crate::connection::{Ended, Shared};
use crate::pod::PodUid;
use crate::tunnel::Tunnel;

/// How often it is looked whether everything has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Connections and tunnels that were open at one moment.
pub struct Remaining {
    worker: Rc<Worker>,
    connections: Vec<Shared>,
    tunnels: Vec<Rc<Tunnel>>,
}

impl Worker {
    /// What is open now, of one pod or of all.
    pub fn remaining(self: &Rc<Self>, pod: Option<&PodUid>) -> Remaining {
        let (connections, tunnels) = (self.live.of(pod), self.tunnels.of(pod));
        Remaining {
            worker: Rc::clone(self),
            connections,
            tunnels,
        }
    }
}

impl Remaining {
    /// Whether all has ended. A tunnel in its handshake counts too: the peer that makes it has
    /// connections that wait for it, and cutting it off would fail them.
    pub fn is_empty(&self) -> bool {
        let is_listed = |connection: &Shared| self.worker.live.contains(connection);
        let is_open = |tunnel: &Rc<Tunnel>| !tunnel.is_over();
        !self.connections.iter().any(is_listed) && !self.tunnels.iter().any(is_open)
    }

    /// How many connections.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Waits until all has ended, and lets tunnels go that carry nothing any more.
    pub async fn ended(&self, deadline: Instant) {
        let look = async {
            while !self.is_empty() {
                let idle = |tunnel: &&Rc<Tunnel>| tunnel.is_established() && tunnel.streams() == 0;
                self.tunnels
                    .iter()
                    .filter(idle)
                    .for_each(|tunnel| tunnel.drain());
                sleep(LOOK).await;
            }
        };
        // What is left then is ended by force.
        let _ = timeout_at(deadline, look).await;
    }

    /// Ends what is left.
    pub fn force(&self, why: &Ended) {
        for connection in &self.connections {
            connection.end(why.clone());
        }
        for tunnel in &self.tunnels {
            tunnel.close(ErrorCode::NO_ERROR);
        }
    }
}
