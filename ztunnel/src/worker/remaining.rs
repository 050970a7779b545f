//! What is still open when a pod or the worker ends: waited for, then ended.

use std::rc::Rc;
use std::time::Duration;

use hbone::ErrorCode;
use netio::time::{Instant, sleep, timeout_at};

use super::Worker;
use crate::connection::{Ended, Shared};
use crate::pod::PodUid;
use carrier::tunnel::Tunnel;

/// How often it is looked whether everything has ended.
const LOOK: Duration = Duration::from_millis(20);

/// A connection that moved nothing for so long at its deadline is quiet.
const QUIET: Duration = Duration::from_millis(200);

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

    /// Closes connections of which nothing is on its way, and waits a moment for both sides to
    /// agree. Says how many have; the others are left. No byte is cut off by it: where a side has
    /// half-closed, a close would look like the end of an answer that is still to come.
    pub async fn close_quiet(&self, why: &Ended) -> usize {
        let moved = |connection: &Shared| connection.moved_bytes();
        let before: Vec<_> = self.connections.iter().map(moved).collect();
        sleep(QUIET).await;
        let is_listed = |connection: &Shared| self.worker.live.contains(connection);
        let quiet = self.connections.iter().zip(before).filter(|(now, moved)| {
            is_listed(now) && now.pulse.is_quiet() && now.moved_bytes() == *moved
        });
        let closing: Vec<_> = quiet.map(|(connection, _)| connection).collect();
        for connection in &closing {
            connection.close(why.clone());
        }
        let open = || closing.iter().filter(|it| is_listed(it)).count();
        let deadline = Instant::now() + self.worker.config.close_wait;
        while open() > 0 && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        closing.len() - open()
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
