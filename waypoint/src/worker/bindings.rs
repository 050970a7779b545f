//! What live connections lead to, asked again of every snapshot: a service may be taken away from
//! the waypoint while its clients are connected. Knows no socket and no HTTP.
//!
//! Connections that ask for the same share one entry, so that a snapshot costs as many questions as
//! there are targets in use, not connections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use carrier::limits::CONNECTIONS_PER_TURN;
use hbone::authority::Authority;
use mesh::Workload;
use mesh::decide::waypoint::{Addressed, Bound, Unbound, WaypointQuery, bound};
use mesh::snapshot::Snapshot;
use netio::executor::yield_now;
use tokio_util::sync::CancellationToken;

/// Who may ask for what: the answer is the same for all of them.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    authority: Authority,
    client_namespace: Arc<str>,
}

/// What some connections were let in for.
pub struct Binding {
    key: Key,
    target: Bound,
    revoked: CancellationToken,
    home: Weak<Bindings>,
}

impl Binding {
    /// Cancelled when the waypoint must not serve it any more.
    pub fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else {
            return;
        };
        let mut all = home.all.borrow_mut();
        // After a revocation the place may be another one's.
        let is_own = |kept: &Weak<Self>| std::ptr::eq(kept.as_ptr(), self);
        if all.get(&self.key).is_some_and(is_own) {
            all.remove(&self.key);
        }
    }
}

/// All that one worker's connections lead to.
#[derive(Default)]
pub struct Bindings {
    all: RefCell<HashMap<Key, Weak<Binding>>>,
}

impl Bindings {
    /// The entry of what a CONNECT was let in for just now.
    pub fn hold(
        self: &Rc<Self>,
        authority: Authority,
        client_namespace: &str,
        target: &Bound,
    ) -> Rc<Binding> {
        let key = Key {
            authority,
            client_namespace: client_namespace.into(),
        };
        let known = self.all.borrow().get(&key).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.target.is_same(target)) {
            return known;
        }
        let made = Rc::new(Binding {
            key: key.clone(),
            target: target.clone(),
            revoked: CancellationToken::new(),
            home: Rc::downgrade(self),
        });
        self.all.borrow_mut().insert(key, Rc::downgrade(&made));
        made
    }

    /// How many things connections lead to.
    pub fn len(&self) -> usize {
        self.all.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Revokes what is not bound to the waypoint any more. What discovery cannot tell now stays as
    /// it was. Others have their turn in between.
    pub async fn judge(&self, snapshot: &Snapshot, own: &Workload) {
        let all: Vec<_> = self.all.borrow().values().cloned().collect();
        for some in all.chunks(CONNECTIONS_PER_TURN) {
            for binding in some.iter().filter_map(Weak::upgrade) {
                if !binding.holds(snapshot, own) {
                    tracing::info!(authority = %binding.key.authority, "not bound any more");
                    self.forget(&binding);
                    binding.revoked.cancel();
                }
            }
            yield_now().await;
        }
    }

    /// Who asks for the same from now on gets an entry of its own.
    fn forget(&self, binding: &Rc<Binding>) {
        let mut all = self.all.borrow_mut();
        let is_it = |kept: &Weak<Binding>| std::ptr::eq(kept.as_ptr(), Rc::as_ptr(binding));
        if all.get(&binding.key).is_some_and(is_it) {
            all.remove(&binding.key);
        }
    }
}

impl Binding {
    fn holds(&self, snapshot: &Snapshot, own: &Workload) -> bool {
        let query = WaypointQuery {
            own,
            addressed: addressed(&self.key.authority),
            client_namespace: &self.key.client_namespace,
        };
        match bound(snapshot, &query) {
            Ok(now) => now.is_same(&self.target),
            Err(Unbound::NotYet(_)) => true,
            Err(_) => false,
        }
    }
}

/// The authority of a CONNECT, as it is decided on.
pub fn addressed(authority: &Authority) -> Addressed<'_> {
    match authority {
        Authority::Address(address) => Addressed::Address(*address),
        Authority::Host { host, port } => Addressed::Host(host, *port),
    }
}
