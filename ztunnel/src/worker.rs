//! One worker: a thread with its own executor, tunnels, buffers and connections.
//!
//! Nothing in it is shared with another thread. Snapshots and certificates come to it as immutable
//! values, orders by a bounded queue, and its records leave by one that never makes it wait.

pub mod accept;
pub mod command;
pub mod live;
pub mod pods;
mod remaining;
mod run;
pub mod threads;
mod wait;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use mesh::snapshot::Snapshot;
use netio::executor::Scope;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::watch;

use crate::certificate::{Book, Certificates};
use crate::clock::Clock;
use crate::config::DataPath;
use crate::limits::{HANDSHAKES_IN_FLIGHT, INBOUND_TUNNELS_PER_WORKER, TASKS_PER_WORKER};
use crate::metrics::Metrics;
use crate::pod::PodUid;
use crate::record::Recorder;
use crate::relay::buffer::Buffers;
use crate::tunnel::Tunnel;
use crate::tunnel::pool::Pool;
use live::Live;
use pods::LocalPods;
pub use run::{Inputs, run};

/// The state of one worker, shared by its tasks.
pub struct Worker {
    /// What the operator chose.
    pub config: DataPath,
    /// Time for the tunnels.
    pub clock: Clock,
    /// Limits and waits of the tunnels.
    pub tunnel_config: hbone::Config,
    /// Read buffers.
    pub buffers: Buffers,
    /// Outbound tunnels.
    pub pool: Pool,
    /// All tunnels, both ways, for the drain.
    pub tunnels: Tunnels,
    /// Connections.
    pub live: Live,
    /// Pods whose listeners it accepts on.
    pub pods: LocalPods,
    /// Where records go.
    pub recorder: Recorder,
    /// Whether connections are accepted.
    pub open: watch::Receiver<bool>,
    metrics: Metrics,
    /// Owner of all tasks.
    scope: Scope,
    snapshot: RefCell<Arc<Snapshot>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    certificates: Arc<Certificates>,
    book: watch::Receiver<Book>,
    random: RefCell<SmallRng>,
    handshakes: Cell<usize>,
    draining: Cell<bool>,
}

impl Worker {
    fn new(inputs: &Inputs) -> Rc<Self> {
        let snapshot = inputs.snapshots.borrow().clone();
        Rc::new(Self {
            config: inputs.config.clone(),
            clock: Clock::start(),
            tunnel_config: hbone::Config::default(),
            buffers: Buffers::default(),
            pool: Pool::default(),
            tunnels: Tunnels::default(),
            live: Live::default(),
            pods: LocalPods::default(),
            recorder: inputs.recorder.clone(),
            open: inputs.open.clone(),
            metrics: inputs.metrics.clone(),
            scope: Scope::new(TASKS_PER_WORKER),
            snapshot: RefCell::new(snapshot),
            snapshots: inputs.snapshots.clone(),
            certificates: Arc::clone(&inputs.certificates),
            book: inputs.certificates.book(),
            random: RefCell::new(SmallRng::from_os_rng()),
            handshakes: Cell::new(0),
            draining: Cell::new(false),
        })
    }

    /// Starts a task. Past [`TASKS_PER_WORKER`] it is dropped, which closes its sockets: the limits
    /// on connections and tunnels come long before.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if let Err(error) = self.scope.spawn(task) {
            tracing::error!(%error, "a connection was dropped");
        }
    }

    /// What is known of the mesh now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// 64 random bits; not for keys.
    pub fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// Whether a tunnel of that pod that comes about now shall take no streams: the worker
    /// drains, or the pod is gone.
    pub fn lets_go_of(&self, pod: &PodUid) -> bool {
        self.draining.get() || !self.pods.contains(pod)
    }

    /// A place for one TLS handshake, unless [`HANDSHAKES_IN_FLIGHT`] or
    /// [`INBOUND_TUNNELS_PER_WORKER`] is reached.
    pub fn handshake(self: &Rc<Self>) -> Option<Handshake> {
        let full = self.handshakes.get() >= HANDSHAKES_IN_FLIGHT
            || self.tunnels.len() >= INBOUND_TUNNELS_PER_WORKER;
        if full {
            return None;
        }
        self.handshakes.set(self.handshakes.get() + 1);
        Some(Handshake(Rc::clone(self)))
    }
}

/// A handshake in flight, while it lives.
pub struct Handshake(Rc<Worker>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
    }
}

/// All tunnels of a worker.
#[derive(Default)]
pub struct Tunnels {
    all: RefCell<Vec<(PodUid, Rc<Tunnel>)>>,
}

impl Tunnels {
    /// One more, of that pod.
    pub fn insert(&self, pod: &PodUid, tunnel: &Rc<Tunnel>) {
        self.all.borrow_mut().push((pod.clone(), Rc::clone(tunnel)));
    }

    /// It is over.
    pub fn remove(&self, tunnel: &Rc<Tunnel>) {
        let mut all = self.all.borrow_mut();
        if let Some(place) = all.iter().position(|(_, kept)| Rc::ptr_eq(kept, tunnel)) {
            all.swap_remove(place);
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.all.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, or those of one pod.
    pub fn of(&self, pod: Option<&PodUid>) -> Vec<Rc<Tunnel>> {
        let all = self.all.borrow();
        let wanted = all
            .iter()
            .filter(|(uid, _)| pod.is_none_or(|pod| pod == uid));
        wanted.map(|(_, tunnel)| Rc::clone(tunnel)).collect()
    }
}
