//! One worker: a thread with its own executor, tunnels, buffers and connections.
//!
//! Nothing in it is shared with another thread. Snapshots, routes and certificates come to it as
//! immutable values, orders by a bounded queue, and its records leave by one that never makes it
//! wait.

pub mod accept;
pub mod bindings;
pub mod command;
mod drain;
pub mod live;
mod run;
mod wait;

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use carrier::budget::{Budget, Pressure};
use carrier::certificate::{Book as Certified, Certificates};
use carrier::clock::Clock;
use carrier::guests::Guests;
use carrier::handshakes::Handshakes;
use carrier::hush::Hush;
use carrier::limits::{Limit, Reached};
use carrier::relay::buffer::Buffers;
use carrier::spread::Loads;
use carrier::tunnel::key::PodUid;
use carrier::tunnel::pool::Pool;
use carrier::tunnel::{Setting, Tunnel};
use mesh::Workload;
use mesh::route::Book;
use mesh::snapshot::Snapshot;
use netio::executor::Scope;
use netio::netns::Netns;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::DataPath;
use crate::endpoints::Endpoints;
use crate::metrics::Metrics;
use crate::places::Places;
use crate::record::Recorder;
use crate::site::WorkerSite;
use crate::trace::Tracing;
use crate::{http, limits};
use accept::Handed;
use bindings::Bindings;
use live::Live;
pub use run::{Inputs, run};

/// The state of one worker, shared by its tasks.
pub struct Worker {
    /// What the operator chose.
    pub config: DataPath,
    /// Bounds of HTTP.
    pub http_limits: http::site::Limits,
    /// Time for the tunnels.
    pub clock: Clock,
    /// Limits and waits of the tunnels.
    pub tunnel_config: hbone::Config,
    /// Read buffers.
    pub buffers: Rc<Buffers>,
    /// Tunnels to endpoints.
    pub pool: Pool,
    /// Tunnels of clients' proxies, for the drain.
    pub tunnels: Tunnels,
    /// Tunnels to endpoints, for the drain.
    pub upstream_tunnels: Tunnels,
    /// Those that peers made, once both sides are authenticated.
    pub guests: Guests<Tunnel>,
    /// Peers that are not authenticated yet.
    pub handshakes: Rc<Handshakes>,
    /// Bytes that the tunnels hold.
    pub budget: Rc<Budget>,
    /// Connections.
    pub live: Live,
    /// What the connections lead to.
    pub bindings: Rc<Bindings>,
    /// Endpoints in use and what they carry.
    pub endpoints: Endpoints,
    /// HTTP's connections to endpoints.
    pub endpoint_connections: Places,
    /// Where records go.
    pub recorder: Recorder,
    /// What is traced; None: nothing.
    pub tracing: Option<Tracing>,
    /// Where sockets are made.
    pub netns: Netns,
    /// The one pod that tunnels and limits know of: the waypoint itself.
    pub pod: PodUid,
    /// Nothing new is taken from its cancellation on.
    pub draining: CancellationToken,
    /// What is idle shall end from its cancellation on: the drain deadline is near.
    pub closing: CancellationToken,
    /// Its place among the workers.
    number: usize,
    /// What each worker has.
    loads: Arc<Loads>,
    /// Where all workers, itself too, take what others have accepted.
    neighbours: Arc<[mpsc::Sender<Handed>]>,
    metrics: Metrics,
    /// Owner of all tasks.
    scope: Scope,
    /// Lines about tasks that were refused.
    refused_tasks: RefCell<Hush>,
    snapshot: RefCell<Arc<Snapshot>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    book: RefCell<Arc<Book>>,
    certificates: Arc<Certificates>,
    certified: watch::Receiver<Certified>,
    random: RefCell<SmallRng>,
    is_draining: Cell<bool>,
    /// HTTP on this worker. It knows the worker weakly.
    proxy: OnceCell<Rc<http::Proxy>>,
}

impl Worker {
    fn new(inputs: &Inputs, netns: Netns) -> Rc<Self> {
        let snapshot = inputs.snapshots.borrow().clone();
        let book = inputs.books.borrow().clone();
        let given = &inputs.config.limits;
        Rc::new(Self {
            config: inputs.config.clone(),
            http_limits: limits::http(given),
            clock: Clock::start(),
            tunnel_config: given.tunnel(),
            buffers: Rc::default(),
            pool: Pool::new(given),
            tunnels: Tunnels::default(),
            upstream_tunnels: Tunnels::default(),
            guests: Guests::new(given),
            handshakes: Handshakes::new(given),
            budget: Rc::new(Budget::new(given.buffered_per_worker)),
            live: Live::default(),
            bindings: Rc::default(),
            endpoints: Endpoints::default(),
            endpoint_connections: Places::new(given.http_endpoint_connections_per_worker),
            recorder: inputs.recorder.clone(),
            tracing: inputs.tracing.clone(),
            netns,
            pod: PodUid(Arc::clone(&inputs.config.workload.0)),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            number: inputs.number,
            loads: Arc::clone(&inputs.loads),
            neighbours: Arc::clone(&inputs.neighbours),
            metrics: inputs.metrics.clone(),
            scope: Scope::new(limits::tasks_per_worker(given)),
            refused_tasks: RefCell::default(),
            snapshot: RefCell::new(snapshot),
            snapshots: inputs.snapshots.clone(),
            book: RefCell::new(book),
            certificates: Arc::clone(&inputs.certificates),
            certified: inputs.certificates.book(),
            random: RefCell::new(SmallRng::from_os_rng()),
            is_draining: Cell::new(false),
            proxy: OnceCell::new(),
        })
    }

    /// HTTP on this worker.
    pub fn proxy(self: &Rc<Self>) -> Rc<http::Proxy> {
        let site = || Rc::new(WorkerSite::new(self));
        let proxy = self.proxy.get_or_init(|| http::Proxy::new(site()));
        Rc::clone(proxy)
    }

    /// Starts a task. Past the bound it is dropped, which closes its sockets, and that is counted:
    /// the limits on connections, requests and tunnels come long before. False: it was dropped.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) -> bool {
        let Err(error) = self.scope.spawn(task) else {
            return true;
        };
        let limit = Limit::TasksPerWorker;
        self.count_reached(Reached::refused(limit));
        let mut refused = self.refused_tasks.borrow_mut();
        let now = std::time::Instant::now();
        for (_, times) in refused.sum_up(now) {
            tracing::error!(times, "more tasks were refused than was said");
        }
        if refused.allows(limit.key(), now) {
            tracing::error!(%error, "a connection or request was dropped");
        }
        false
    }

    /// What is known of the mesh now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// The routes and targeted policies of now.
    pub fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book.borrow())
    }

    /// The waypoint itself, as discovery knows it.
    pub fn own(&self) -> Option<Arc<Workload>> {
        let snapshot = self.snapshot.borrow();
        snapshot.workload(&self.config.workload).cloned()
    }

    /// 64 random bits; not for keys.
    pub fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// Whether a tunnel that comes about now shall take no streams.
    pub fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// What the worker gives to a tunnel that drains after so long without a stream.
    pub fn tunnel_setting(&self, idle_limit: Duration) -> Setting {
        Setting {
            clock: self.clock,
            idle_limit,
            budget: Rc::clone(&self.budget),
        }
    }

    /// Whether a new stream may be taken.
    ///
    /// # Errors
    /// The tunnels hold far too much already.
    pub fn has_memory(&self) -> Result<(), Reached> {
        match self.budget.pressure() {
            Pressure::Full => Err(Reached::refused(Limit::BufferedPerWorker)),
            Pressure::Calm | Pressure::Over => Ok(()),
        }
    }

    /// Counts what a limit has cost.
    pub fn count_reached(&self, reached: Reached) {
        self.metrics.count_reached(reached);
    }
}

/// Tunnels of a worker, one way.
#[derive(Default)]
pub struct Tunnels {
    all: RefCell<Vec<Rc<Tunnel>>>,
}

impl Tunnels {
    /// One more.
    pub fn insert(&self, tunnel: &Rc<Tunnel>) {
        self.all.borrow_mut().push(Rc::clone(tunnel));
    }

    /// It is over.
    pub fn remove(&self, tunnel: &Rc<Tunnel>) {
        let mut all = self.all.borrow_mut();
        if let Some(place) = all.iter().position(|kept| Rc::ptr_eq(kept, tunnel)) {
            all.swap_remove(place);
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Rc<Tunnel>> {
        self.all.borrow().clone()
    }
}
