//! The live connections of one worker: counted, listed, judged again on every policy push.
//!
//! Knows no socket: a connection that must go is told to end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;

use mesh::decide::{InboundQuery, inbound};
use mesh::snapshot::Snapshot;
use mesh::workload::WorkloadUid;
use slab::Slab;

use super::Worker;
use crate::connection::{Connection, Ended, Shared};
use crate::limits::{CONNECTIONS_PER_POD, CONNECTIONS_PER_WORKER};
use crate::pod::PodUid;

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// [`CONNECTIONS_PER_WORKER`].
    #[error("limit reached: {CONNECTIONS_PER_WORKER} connections of this worker")]
    Worker,
    /// [`CONNECTIONS_PER_POD`].
    #[error("limit reached: {CONNECTIONS_PER_POD} connections of this pod on this worker")]
    Pod,
}

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
    ) -> Result<Listed, (Full, Box<Connection>)> {
        if self.live.len() >= CONNECTIONS_PER_WORKER {
            return Err((Full::Worker, Box::new(connection)));
        }
        let mut per_pod = self.live.per_pod.borrow_mut();
        let count = per_pod.entry(connection.pod.clone()).or_default();
        if *count >= CONNECTIONS_PER_POD {
            return Err((Full::Pod, Box::new(connection)));
        }
        *count += 1;
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
                a.peer.is_none() && a.source == client && a.destination == destination
            })
        })
    }

    /// Ends the inbound connections that this snapshot denies, and no other.
    pub fn judge(&self, snapshot: &Snapshot) {
        let mut losers = Vec::new();
        for (_, (connection, uid)) in self.all.borrow().iter() {
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
                    destination: admission.destination,
                    source_ip: admission.source.ip(),
                    peer: admission.peer.as_ref(),
                },
            );
            if verdict.closes_live() {
                losers.push((Rc::clone(connection), verdict));
            }
        }
        // Outside of the borrow: an ended connection leaves the list.
        for (connection, verdict) in losers {
            let reason = verdict.reason.to_string().into();
            connection.end(Ended::LateRejection {
                policy: verdict.policy,
                reason,
            });
        }
    }
}
