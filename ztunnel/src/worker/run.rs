//! The main loop of a worker: orders, pushes, housekeeping, drain.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use mesh::snapshot::Snapshot;
use netio::{Backend, executor};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, sleep};

use super::Worker;
use super::command::Command;
use crate::certificate::Certificates;
use crate::config::DataPath;
use crate::connection::Ended;
use crate::dump::ConnectionView;
use crate::limits::{BUFFERS_KEPT_FOR, DUMPED_CONNECTIONS, POD_DRAIN};
use crate::pod::PodUid;
use crate::record::Recorder;

/// How long the tasks of connections that were accepted last have to begin.
const LAST_ACCEPTED: Duration = Duration::from_millis(20);

/// How long connections that were ended by force have to leave their records.
const DRAIN_RECORDS: Duration = Duration::from_millis(500);

/// What a worker is made of.
pub struct Inputs {
    /// Number of the worker, for log lines.
    pub number: usize,
    /// Which back end moves its bytes.
    pub backend: Backend,
    /// What the operator chose.
    pub config: DataPath,
    /// What is known of the mesh.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Certificates of this node's pods.
    pub certificates: Arc<Certificates>,
    /// Orders.
    pub commands: mpsc::Receiver<Command>,
    /// Where records go.
    pub recorder: Recorder,
}

/// Runs a worker on the calling thread, until a [`Command::Drain`] is done, or the orders' queue
/// closes.
///
/// # Errors
/// The executor cannot be made.
pub fn run(inputs: Inputs) -> io::Result<()> {
    executor::run(inputs.backend, serve(inputs))
}

async fn serve(mut inputs: Inputs) {
    let worker = Worker::new(&inputs);
    worker.spawn(follow_pushes(Rc::clone(&worker), inputs.snapshots.clone()));
    worker.spawn(keep_house(Rc::clone(&worker)));
    while let Some(command) = inputs.commands.recv().await {
        match command {
            Command::Add(pod, done) => {
                let accepting = worker.accept_for(pod).map_err(|error| error.to_string());
                // The asker may have given up waiting.
                let _ = done.send(accepting);
            }
            Command::Remove(uid) => worker.remove(&uid),
            Command::Dump(reply) => {
                let _ = reply.send(worker.views());
            }
            Command::Drain => break,
        }
    }
    worker.drain().await;
    worker.scope.abort_all();
    worker.scope.join_all().await;
}

async fn follow_pushes(worker: Rc<Worker>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        worker.live.judge(&snapshot);
        *worker.snapshot.borrow_mut() = snapshot;
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

async fn keep_house(worker: Rc<Worker>) {
    loop {
        sleep(BUFFERS_KEPT_FOR).await;
        worker.buffers.trim();
    }
}

impl Worker {
    /// The pod is gone: nothing new, and what is open ends within [`POD_DRAIN`].
    fn remove(self: &Rc<Self>, uid: &PodUid) {
        let Some(local) = self.pods.remove(uid) else {
            return;
        };
        local.stop.cancel();
        // Not what the pod makes when it comes back meanwhile.
        let remaining = self.remaining(Some(uid));
        self.spawn(async move {
            remaining.ended(Instant::now() + POD_DRAIN).await;
            remaining.force(&Ended::PodGone);
        });
    }

    fn views(&self) -> Vec<ConnectionView> {
        let connections = self.live.of(None);
        let shown = connections.iter().take(DUMPED_CONNECTIONS);
        shown
            .map(|connection| ConnectionView::of(connection))
            .collect()
    }

    async fn drain(self: &Rc<Self>) {
        let deadline = Instant::now() + self.config.drain_deadline;
        self.draining.set(true);
        for local in self.pods.all() {
            local.stop.cancel();
        }
        for tunnel in self
            .tunnels
            .of(None)
            .iter()
            .filter(|tunnel| tunnel.is_established())
        {
            tunnel.drain();
        }
        // The tasks of what was accepted a moment ago have not begun yet.
        sleep(LAST_ACCEPTED).await;
        while Instant::now() < deadline {
            let remaining = self.remaining(None);
            if remaining.is_empty() {
                return;
            }
            remaining.ended(deadline).await;
        }
        let remaining = self.remaining(None);
        remaining.force(&Ended::DrainDeadline);
        remaining.ended(Instant::now() + DRAIN_RECORDS).await;
    }
}
