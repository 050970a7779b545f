//! The live connections of one worker: counted, listed, judged again on every push of policies.
//!
//! Knows no socket: a connection that must go is told to end.

use std::cell::RefCell;
use std::ops::{Deref, Range};
use std::rc::Rc;
use std::time::Duration;

use carrier::limits::{CONNECTIONS_PER_TURN, Limit, Reached};
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
        self.worker.live.all.borrow_mut().remove(self.place);
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
        if self.live.len() >= self.config.limits.connections_per_worker {
            let full = Reached::refused(Limit::ConnectionsPerWorker);
            return Err((full, Box::new(connection)));
        }
        let connection = Rc::new(connection);
        let place = self.live.all.borrow_mut().insert(Rc::clone(&connection));
        connection.place.set(place);
        Ok(Listed {
            worker: Rc::clone(self),
            connection,
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
        let addressed = Addressed {
            service: self.service.as_ref(),
            client_namespace: Some(self.client.namespace()),
            gateway: Some(gateway),
        };
        let judged = Judged::new(Some(&self.client), self.source.ip(), self.destination);
        book.policies.authorize(&addressed, &judged)
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
                let judged = connection.admission.get();
                let judged = judged.map(|admission| admission.authorize(book, gateway));
                if let Some(Err(why)) = judged {
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
