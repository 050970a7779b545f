//! The live connections of one worker: counted, listed, judged again on every policy push.
//!
//! Knows no socket: a connection that must go is told to end.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::{Deref, Range};
use std::rc::Rc;
use std::time::Duration;

use mesh::decide::{InboundQuery, inbound};
use mesh::snapshot::Snapshot;
use netio::executor::yield_now;
use netio::time::sleep;
use slab::Slab;

use super::Worker;
use crate::connection::{Connection, Ended, Shared};
use crate::inbound::why_denied;
use crate::pod::PodUid;
use carrier::limits::{CONNECTIONS_PER_TURN, Limit, Reached};
use carrier::spread::Kind;

/// The connections.
#[derive(Default)]
pub struct Live {
    all: RefCell<Slab<Shared>>,
}

/// A connection in the list, while this lives.
pub struct Listed {
    worker: Rc<Worker>,
    connection: Shared,
}

impl Listed {
    /// In whose list it is.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }
}

impl Deref for Listed {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.connection
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connection.detach();
        let place = self.connection.place.get() as usize;
        self.worker.live.all.borrow_mut().remove(place);
        let count = &self.connection.pod.connections;
        count.set(count.get() - 1);
        let loads = &self.connection.pod.loads;
        loads.leave(self.worker.number, Kind::Connection);
    }
}

impl Worker {
    /// Lists a connection.
    ///
    /// # Errors
    /// There are too many.
    pub fn list(
        self: &Rc<Self>,
        connection: Connection,
    ) -> Result<Listed, (Reached, Box<Connection>)> {
        let limits = &self.config.limits;
        let full = |limit, connection| Err((Reached::refused(limit), Box::new(connection)));
        if self.live.len() >= limits.connections_per_worker {
            return full(Limit::ConnectionsPerWorker, connection);
        }
        let count = connection.pod.connections.get();
        if count >= limits.connections_per_pod {
            return full(Limit::ConnectionsPerPod, connection);
        }
        connection.pod.connections.set(count + 1);
        connection.pod.loads.enter(self.number, Kind::Connection);
        let connection = Rc::new(connection);
        let place = self.live.all.borrow_mut().insert(Rc::clone(&connection));
        let place = u32::try_from(place).expect("connections of a worker are bounded by less");
        connection.place.set(place);
        Ok(Listed {
            worker: Rc::clone(self),
            connection,
        })
    }
}

impl Live {
    /// How many.
    pub fn len(&self) -> usize {
        self.all.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The connections, or those of one pod.
    pub fn of(&self, pod: Option<&PodUid>) -> Vec<Shared> {
        let all = self.all.borrow();
        let wanted = all
            .iter()
            .filter(|(_, c)| pod.is_none_or(|pod| *pod == c.pod.uid));
        wanted
            .map(|(_, connection)| Rc::clone(connection))
            .collect()
    }

    /// Whether a connection has not ended.
    pub fn contains(&self, connection: &Shared) -> bool {
        let place = connection.place.get() as usize;
        let all = self.all.borrow();
        all.get(place)
            .is_some_and(|listed| Rc::ptr_eq(listed, connection))
    }

    /// Whether a client's plaintext connection from that very port is live: its four numbers are
    /// taken towards `destination`.
    pub fn has_plaintext(&self, client: SocketAddr, destination: SocketAddr) -> bool {
        self.all.borrow().iter().any(|(_, connection)| {
            let ends = || (connection.source(), connection.destination());
            let is_plain = || connection.details.borrow().source.identity.is_none();
            connection.is_admitted.get() && ends() == (client, destination) && is_plain()
        })
    }

    /// Ends the inbound connections that this snapshot denies, and no other. Others have their turn
    /// in between; what is listed meanwhile must have been judged by this snapshot or a later one.
    pub async fn judge(&self, snapshot: &Snapshot) {
        let places = self.places();
        for first in (0..places).step_by(CONNECTIONS_PER_TURN) {
            self.judge_some(snapshot, first..first + CONNECTIONS_PER_TURN);
            yield_now().await;
        }
    }

    /// Places in the list, empty ones included.
    fn places(&self) -> usize {
        // Keys of a slab are below its capacity.
        self.all.borrow().capacity()
    }

    /// Calls `look` with each connection; others have their turn in between.
    pub async fn each(&self, pause: Duration, look: impl Fn(&Connection)) {
        for first in (0..self.places()).step_by(CONNECTIONS_PER_TURN) {
            let some = |all: &Slab<Shared>| -> Vec<Shared> {
                let range = first..first + CONNECTIONS_PER_TURN;
                let found = range.filter_map(|place| all.get(place));
                found.map(Rc::clone).collect()
            };
            let some = some(&self.all.borrow());
            some.iter().for_each(|connection| look(connection));
            if !some.is_empty() {
                sleep(pause).await;
            }
        }
    }

    fn judge_some(&self, snapshot: &Snapshot, places: Range<usize>) {
        let mut losers = Vec::new();
        let all = self.all.borrow();
        for connection in places.filter_map(|place| all.get(place)) {
            if !connection.is_admitted.get() {
                continue;
            }
            // A workload that discovery has forgotten says nothing about its connections.
            let Some(workload) = snapshot.workload(&connection.pod.workload) else {
                continue;
            };
            let details = connection.details.borrow();
            let verdict = inbound(
                snapshot,
                &InboundQuery {
                    workload,
                    destination: connection.destination(),
                    source_ip: connection.source().ip().to_canonical(),
                    peer: details.source.identity.as_ref(),
                },
            );
            if verdict.closes_live() {
                losers.push((Rc::clone(connection), verdict));
            }
        }
        // Outside of the borrow: an ended connection leaves the list.
        drop(all);
        for (connection, verdict) in losers {
            let why = why_denied("", verdict.policy.as_ref(), &verdict.reason).into();
            connection.end(Ended::LateRejection { why });
        }
    }
}
