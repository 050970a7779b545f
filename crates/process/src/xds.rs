//! The discovery feed: keeps one delta ADS stream to the control plane and publishes what it says
//! as immutable snapshots.
//!
//! The protocol is the pure [`discovery`]; `stream` moves its messages. Knows nothing of what is
//! done with a snapshot. The last good snapshot stays whatever happens to the stream.

use std::sync::Arc;

use mesh::NetworkAddress;
use mesh::route::Book;
use mesh::snapshot::Snapshot;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::admin::Readiness;
use crate::grpc::ControlPlane;
use crate::metrics::XdsMetrics;
use crate::tasks::Tasks;

mod carried;
pub mod discovery;
mod node;
mod stream;

pub use carried::{Carried, Mesh};
use discovery::Discovery;
pub use discovery::Scope;
pub use node::Node;

/// Addresses waiting to be subscribed to, on demand: far more than arrive between two turns of
/// the stream's task.
const WANT_QUEUE: usize = 1024;

/// What the feed asks for.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who asks.
    pub node: Node,
    /// Everything, or addresses on demand.
    pub scope: Scope,
    /// What a predecessor knew: the feed starts with it, in [`Scope::Wildcard`] only, and tells
    /// the control plane which versions it has. None: it starts with nothing.
    pub carried: Option<Carried>,
    /// Whether routes and policies with targets are asked for: by waypoints.
    pub routes: bool,
}

/// State of the feed, for `/config_dump` and log lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether the stream is up.
    pub connected: bool,
    /// Whether the first answer on workloads and services is in.
    pub addresses_answered: bool,
    /// Whether the first answer on policies is in.
    pub policies_answered: bool,
    /// Whether the first answers on routes and policies with targets are in.
    pub routes_answered: bool,
    /// Why the stream last ended, in a sentence.
    pub last_error: Option<String>,
}

/// Too many addresses wait to be subscribed to ([`Feed::want`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many addresses wait to be looked up")]
pub struct WantError;

/// A running feed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Feed {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    books: watch::Receiver<Arc<Book>>,
    carried: watch::Receiver<Option<Carried>>,
    status: watch::Receiver<Status>,
    wants: mpsc::Sender<NetworkAddress>,
    scope: Scope,
}

/// Starts the feed as a task of `tasks`. It connects, and connects again, until the tasks are told
/// to stop; `readiness` gets the conditions `addresses` and `policies`, and `routes` if they are
/// asked for, each met at the first answer on its types and never unmet (the last good state stays
/// in use).
pub fn start(
    tasks: &Tasks,
    control_plane: ControlPlane,
    config: Config,
    metrics: XdsMetrics,
    readiness: &Readiness,
) -> Feed {
    let Config {
        node,
        scope,
        carried,
        routes,
    } = config;
    let mut discovery = match carried.filter(|_| scope == Scope::Wildcard) {
        Some(carried) => Discovery::resume(node.to_wire(), carried),
        None => Discovery::new(node.to_wire(), scope),
    };
    if routes {
        discovery = discovery.with_routes();
    }
    let (snapshots, snapshots_seen) = watch::channel(Arc::new(discovery.snapshot().clone()));
    let (books, books_seen) = watch::channel(Arc::default());
    let (carried, carried_seen) = watch::channel(discovery.carried());
    let (status, status_seen) = watch::channel(Status::default());
    let (wants, wanted) = mpsc::channel(WANT_QUEUE);
    let states = stream::States {
        snapshots,
        books,
        carried,
        status,
    };
    let outlets = stream::Outlets::new(states, metrics, readiness, routes);
    let stream = stream::Stream::new(control_plane, discovery, wanted, outlets);
    tasks.spawn("xds", stream.run(tasks.stop()));
    Feed {
        snapshots: snapshots_seen,
        books: books_seen,
        carried: carried_seen,
        status: status_seen,
        wants,
        scope,
    }
}

impl Feed {
    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// The newest routes and policies with targets; empty when they are not asked for.
    pub fn book(&self) -> Arc<Book> {
        self.books.borrow().clone()
    }

    /// A receiver of books, as with [`Feed::subscribe`]. A book that speaks of a service comes
    /// behind the snapshot that has it.
    pub fn subscribe_book(&self) -> watch::Receiver<Arc<Book>> {
        self.books.clone()
    }

    /// What another process' feed can start from; None before the first complete answer. Cheap.
    pub fn carried(&self) -> Option<Carried> {
        self.carried.borrow().clone()
    }

    /// A receiver of snapshots; it has seen none yet, so `changed()` ends at once after the first
    /// publication.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Asks for an address, on demand; does nothing in wildcard scope or when it was asked for.
    /// The answer is a snapshot that knows the address, or knows that it is absent.
    ///
    /// # Errors
    /// When too many wait; the connection that needs it is refused, and the next one asks again.
    pub fn want(&self, address: NetworkAddress) -> Result<(), WantError> {
        match self.scope {
            Scope::Wildcard => Ok(()),
            Scope::OnDemand => self.wants.try_send(address).map_err(|_| WantError),
        }
    }

    /// State of the stream.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }
}
