//! The live connections of one worker: counted, listed, judged again on every push of policies.
//!
//! Knows no socket: a connection that must go is told to end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use carrier::limits::{CONNECTIONS_PER_TURN, Limit, Reached};
use carrier::spread::Kind;
use mesh::Identity;
use mesh::policy::Connection as Judged;
use mesh::route::book::Addressed;
use mesh::route::{Book, GatewayKey};
use netio::executor::yield_now;
use netio::time::sleep;
use slab::Slab;

use super::Worker;
use crate::connection::{Admission, Connection, Ended, Shared};

/// The connections.
#[derive(Default)]
pub struct Live {
    all: RefCell<Slab<Shared>>,
    /// How many each client has, by what it proved to be.
    of_peer: RefCell<HashMap<Identity, usize>>,
}

/// A connection in the list, while this lives.
pub struct Listed {
    worker: Rc<Worker>,
    connection: Shared,
    peer: Identity,
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
        self.worker.live.remove(self.place, &self.peer);
        self.worker
            .loads
            .leave(self.worker.number, Kind::Connection);
    }
}

impl Worker {
    /// Lists a connection of that client.
    ///
    /// # Errors
    /// There are too many, of the worker or of the client.
    pub fn list(
        self: &Rc<Self>,
        connection: Connection,
        peer: &Identity,
    ) -> Result<Listed, (Reached, Box<Connection>)> {
        let limits = &self.config.limits;
        let full = if self.live.len() >= limits.connections_per_worker {
            Some(Limit::ConnectionsPerWorker)
        } else if self.live.of_peer(peer) >= limits.connections_per_peer {
            Some(Limit::ConnectionsPerPeer)
        } else {
            None
        };
        if let Some(limit) = full {
            return Err((Reached::refused(limit), Box::new(connection)));
        }
        let connection = Rc::new(connection);
        let place = self.live.insert(&connection, peer);
        connection.place.set(place);
        self.loads.enter(self.number, Kind::Connection);
        Ok(Listed {
            worker: Rc::clone(self),
            connection,
            peer: peer.clone(),
            place,
        })
    }
}

impl Admission {
    /// Whether the targeted policies of `book` let it pass.
    ///
    /// # Errors
    /// Why they do not.
    pub fn authorize(
        &self,
        book: &Book,
        gateway: &GatewayKey,
    ) -> Result<(), mesh::policy::targeted::Refusal> {
        let (addressed, judged) = self.judged(gateway);
        book.policies.authorize(&addressed, &judged)
    }

    /// The AUDIT policies of `book` that match it.
    pub fn audited(&self, book: &Book, gateway: &GatewayKey) -> Option<Arc<str>> {
        let (addressed, judged) = self.judged(gateway);
        book.policies.audited(&addressed, &judged)
    }

    /// What policies see of it.
    fn judged<'a>(&'a self, gateway: &'a GatewayKey) -> (Addressed<'a>, Judged<'a>) {
        let addressed = Addressed {
            service: self.service.as_ref(),
            client_namespace: Some(self.client.namespace()),
            gateway: Some(gateway),
        };
        let judged = Judged::new(Some(&self.client), self.source.ip(), self.destination);
        (addressed, judged)
    }
}

impl Live {
    fn insert(&self, connection: &Shared, peer: &Identity) -> usize {
        *self.of_peer.borrow_mut().entry(peer.clone()).or_default() += 1;
        self.all.borrow_mut().insert(Rc::clone(connection))
    }

    fn remove(&self, place: usize, peer: &Identity) {
        let mut of_peer = self.of_peer.borrow_mut();
        if let Some(count) = of_peer.get_mut(peer) {
            *count -= 1;
            if *count == 0 {
                of_peer.remove(peer);
            }
        }
        self.all.borrow_mut().remove(place);
    }

    /// How many that client has.
    fn of_peer(&self, peer: &Identity) -> usize {
        self.of_peer.borrow().get(peer).copied().unwrap_or(0)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.all.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn all(&self) -> Vec<Shared> {
        let all = self.all.borrow();
        all.iter()
            .map(|(_, connection)| Rc::clone(connection))
            .collect()
    }

    /// Whether a connection has not ended.
    pub fn contains(&self, connection: &Shared) -> bool {
        let all = self.all.borrow();
        let listed = all.get(connection.place.get());
        listed.is_some_and(|listed| Rc::ptr_eq(listed, connection))
    }

    /// Ends the connections that the policies of this book deny, and no other. Others have their
    /// turn in between; what is listed meanwhile must have been judged by this book or a later one.
    pub async fn judge(&self, book: &Book, gateway: &GatewayKey) {
        let places = self.all.borrow().capacity();
        for first in (0..places).step_by(CONNECTIONS_PER_TURN) {
            let some = self.some(first..first + CONNECTIONS_PER_TURN);
            for connection in some {
                let Some(admission) = connection.admission.get() else {
                    continue;
                };
                connection.audits.replace(admission.audited(book, gateway));
                if let Err(why) = admission.authorize(book, gateway) {
                    connection.end(Ended::LateRejection(why.to_string().into()));
                }
            }
            yield_now().await;
        }
    }

    /// Calls `look` with each connection; others have their turn in between.
    pub async fn each(&self, pause: Duration, look: impl Fn(&Connection)) {
        let places = self.all.borrow().capacity();
        for first in (0..places).step_by(CONNECTIONS_PER_TURN) {
            let some = self.some(first..first + CONNECTIONS_PER_TURN);
            some.iter().for_each(|connection| look(connection));
            if !some.is_empty() {
                sleep(pause).await;
            }
        }
    }

    fn some(&self, places: Range<usize>) -> Vec<Shared> {
        let all = self.all.borrow();
        places.filter_map(|place| all.get(place).cloned()).collect()
    }
}
