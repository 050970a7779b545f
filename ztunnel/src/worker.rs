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
mod wait;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mesh::snapshot::Snapshot;
use netio::executor::Scope;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::DataPath;
use crate::metrics::Metrics;
use crate::pod::PodUid;
use crate::record::Recorder;
use accept::Handed;
use carrier::budget::{Budget, Pressure};
use carrier::certificate::{Book, Certificates};
use carrier::clock::Clock;
use carrier::guests::Guests;
use carrier::handshakes::Handshakes;
use carrier::limits::{Limit, Reached};
use carrier::relay::buffer::Buffers;
use carrier::spread::Spread;
use carrier::tunnel::pool::Pool;
use carrier::tunnel::{Setting, Tunnel};
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
    /// Those that peers made, once both sides are authenticated.
    pub guests: Guests<Tunnel>,
    /// Peers that are not authenticated yet.
    pub handshakes: Rc<Handshakes>,
    /// Bytes that the tunnels hold.
    pub budget: Rc<Budget>,
    /// Connections.
    pub live: Live,
    /// Pods whose listeners it accepts on.
    pub pods: LocalPods,
    /// Where records go.
    pub recorder: Recorder,
    /// Whether connections are accepted.
    pub open: watch::Receiver<bool>,
    /// Its place among the workers.
    number: usize,
    /// What all workers have.
    spread: Arc<Spread>,
    /// Where all workers, itself too, take what others have accepted.
    neighbours: Arc<[mpsc::Sender<Handed>]>,
    /// Cancelled when it accepts nothing any more.
    stopped: CancellationToken,
    metrics: Metrics,
    /// Owner of all tasks.
    scope: Scope,
    snapshot: RefCell<Arc<Snapshot>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    certificates: Arc<Certificates>,
    book: watch::Receiver<Book>,
    random: RefCell<SmallRng>,
    draining: Cell<bool>,
}

impl Worker {
    fn new(inputs: &Inputs) -> Rc<Self> {
        let snapshot = inputs.snapshots.borrow().clone();
        let limits = &inputs.config.limits;
        Rc::new(Self {
            config: inputs.config.clone(),
            clock: Clock::start(),
            tunnel_config: limits.tunnel(),
            buffers: Buffers::default(),
            pool: Pool::new(limits),
            tunnels: Tunnels::default(),
            guests: Guests::new(limits),
            handshakes: Handshakes::new(limits),
            budget: Rc::new(Budget::new(limits.buffered_per_worker)),
            live: Live::default(),
            pods: LocalPods::default(),
            recorder: inputs.recorder.clone(),
            open: inputs.open.clone(),
            number: inputs.number,
            spread: Arc::clone(&inputs.spread),
            neighbours: Arc::clone(&inputs.neighbours),
            stopped: CancellationToken::new(),
            metrics: inputs.metrics.clone(),
            scope: Scope::new(limits.tasks_per_worker()),
            snapshot: RefCell::new(snapshot),
            snapshots: inputs.snapshots.clone(),
            certificates: Arc::clone(&inputs.certificates),
            book: inputs.certificates.book(),
            random: RefCell::new(SmallRng::from_os_rng()),
            draining: Cell::new(false),
        })
    }

    /// Starts a task. Past [`carrier::limits::Limits::tasks_per_worker`] it is dropped, which
    /// closes its sockets, and that is counted: the limits on connections and tunnels come long
    /// before. False: it was dropped.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) -> bool {
        let Err(error) = self.scope.spawn(task) else {
            return true;
        };
        tracing::error!(%error, "a connection was dropped");
        self.count_reached(Reached::refused(Limit::TasksPerWorker));
        false
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
