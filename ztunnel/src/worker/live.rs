//! The live connections of one worker: counted, listed, judged again on every policy push.
//!
//! Knows no socket: a connection that must go is told to end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::{Deref, Range};
use std::rc::Rc;
use std::time::Duration;

use mesh::decide::{InboundQuery, inbound};
use mesh::snapshot::Snapshot;
use mesh::workload::WorkloadUid;
use netio::executor::yield_now;
use netio::time::sleep;
use slab::Slab;

use super::Worker;
use crate::connection::{Connection, Ended, Shared};
use crate::inbound::why_denied;
use crate::pod::PodUid;
use carrier::limits::{CONNECTIONS_PER_TURN, Limit, Reached};

/// The connections.
#[derive(Default)]
pub struct Live {
    all: RefCell<Slab<(Shared, WorkloadUid)>>,
    per_pod: RefCell<HashMap<PodUid, usize>>,
}

/// A connection in the list, while this lives.
pub struct Listed {
    worker: Rc<Worker>,
    connection: Shared,
    place: usize,
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
        let live = &self.worker.live;
        live.all.borrow_mut().remove(self.place);
        let mut per_pod = live.per_pod.borrow_mut();
        if let Some(count) = per_pod.get_mut(&self.connection.pod) {
            *count -= 1;
            if *count == 0 {
                per_pod.remove(&self.connection.pod);
            }
        }
    }
}

impl Worker {
    /// Lists a connection of the pod's `workload`.
    ///
    /// # Errors
    /// There are too many.
    pub fn list(
        self: &Rc<Self>,
        connection: Connection,
        workload: &WorkloadUid,
    ) -> Result<Listed, (Reached, Box<Connection>)> {
        let limits = &self.config.limits;
        let full = |limit, connection| Err((Reached::refused(limit), Box::new(connection)));
        if self.live.len() >= limits.connections_per_worker {
            return full(Limit::ConnectionsPerWorker, connection);
        }
        let mut per_pod = self.live.per_pod.borrow_mut();
        let count = per_pod.get(&connection.pod).copied().unwrap_or(0);
        if count >= limits.connections_per_pod {
            return full(Limit::ConnectionsPerPod, connection);
        }
        per_pod.insert(connection.pod.clone(), count + 1);
        let connection = Rc::new(connection);
        let entry = (Rc::clone(&connection), workload.clone());
        let place = self.live.all.borrow_mut().insert(entry);
        connection.place.set(place);
        drop(per_pod);
        Ok(Listed {
            worker: Rc::clone(self),
            connection,
            place,
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
            .filter(|(_, (c, _))| pod.is_none_or(|pod| *pod == c.pod));
        wanted
            .map(|(_, (connection, _))| Rc::clone(connection))
            .collect()
    }

    /// Whether a connection has not ended.
    pub fn contains(&self, connection: &Shared) -> bool {
        let place = connection.place.get();
        let all = self.all.borrow();
        all.get(place)
            .is_some_and(|(listed, _)| Rc::ptr_eq(listed, connection))
    }

    /// Whether a client's plaintext connection from that very port is live: its four numbers are
    /// taken towards `destination`.
    pub fn has_plaintext(&self, client: SocketAddr, destination: SocketAddr) -> bool {
        self.all.borrow().iter().any(|(_, (connection, _))| {
            let admission = connection.admission.get();
            admission.is_some_and(|a| {
                let ends = (connection.source, connection.destination);
                a.peer.is_none() && ends == (client, destination)
            })
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
            let some = |all: &Slab<_>| -> Vec<Shared> {
                let range = first..first + CONNECTIONS_PER_TURN;
                let found = range.filter_map(|place| all.get(place));
                found
                    .map(|(connection, _): &(Shared, _)| Rc::clone(connection))
                    .collect()
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
        for (connection, uid) in places.filter_map(|place| all.get(place)) {
            let Some(admission) = connection.admission.get() else {
                continue;
            };
            // A workload that discovery has forgotten says nothing about its connections.
            let Some(workload) = snapshot.workload(uid) else {
                continue;
            };
            let verdict = inbound(
                snapshot,
                &InboundQuery {
                    workload,
                    destination: connection.destination,
                    source_ip: connection.source.ip().to_canonical(),
                    peer: admission.peer.as_ref(),
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
