//! The main loop of a worker: orders, pushes, housekeeping, drain.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use hbone::ErrorCode;
use mesh::snapshot::Snapshot;
use netio::{Backend, executor};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::Worker;
use super::command::Command;
use crate::certificate::Certificates;
use crate::config::DataPath;
use crate::connection::Ended;
use crate::dump::ConnectionView;
use crate::limits::{BUFFERS_KEPT_FOR, DUMPED_CONNECTIONS, POD_DRAIN};
use crate::pod::PodUid;
use crate::record::Recorder;

/// How often a drain looks whether everything has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

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
        let (worker, uid) = (Rc::clone(self), uid.clone());
        self.spawn(async move {
            worker.ended(Some(&uid), Instant::now() + POD_DRAIN).await;
            worker.force(Some(&uid), &Ended::PodGone);
        });
    }

    fn views(&self) -> Vec<ConnectionView> {
        let connections = self.live.of(None);
        connections
            .iter()
            .take(DUMPED_CONNECTIONS)
            .map(|c| ConnectionView::of(c))
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
        self.ended(None, deadline).await;
        self.force(None, &Ended::DrainDeadline);
        self.ended(None, Instant::now() + DRAIN_RECORDS).await;
    }

    /// Waits until no connection is left, of one pod or of all, and lets their tunnels go. A tunnel
    /// that is not established yet has somebody waiting for it, or nobody that counts.
    async fn ended(&self, pod: Option<&PodUid>, deadline: Instant) {
        let look = async {
            loop {
                let mut tunnels = self.tunnels.of(pod);
                tunnels.retain(|tunnel| tunnel.is_established());
                if tunnels.is_empty() && self.live.of(pod).is_empty() {
                    return;
                }
                for tunnel in tunnels.iter().filter(|tunnel| tunnel.streams() == 0) {
                    tunnel.drain();
                }
                sleep(DRAIN_LOOK).await;
            }
        };
        // What is left is forced by the caller.
        let _ = timeout_at(deadline, look).await;
    }

    fn force(&self, pod: Option<&PodUid>, why: &Ended) {
        for connection in self.live.of(pod) {
            connection.end(why.clone());
        }
        for tunnel in self.tunnels.of(pod) {
            tunnel.close(ErrorCode::NO_ERROR);
        }
    }
}
