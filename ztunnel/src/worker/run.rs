//! The main loop of a worker: orders, pushes, housekeeping, drain.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use mesh::snapshot::Snapshot;
use netio::executor::yield_now;
use netio::time::{Duration, Instant, sleep};
use netio::{Backend, executor};
use tokio::sync::{mpsc, watch};

use super::Worker;
use super::accept::Handed;
use super::command::Command;
use crate::config::DataPath;
use crate::connection::{Connection, Ended};
use crate::dump::ConnectionView;
use crate::metrics::Metrics;
use crate::pod::PodUid;
use crate::record::Recorder;
use carrier::certificate::Certificates;
use carrier::limits::{
    BUFFERS_KEPT_FOR, BYTES_COUNTED_EVERY, BYTES_COUNTED_PAUSE, CONNECTIONS_PER_TURN,
    DUMPED_CONNECTIONS, POD_DRAIN,
};
use carrier::spread::Spread;

/// How long the tasks of connections that were accepted last have to begin.
const LAST_ACCEPTED: Duration = Duration::from_millis(20);

/// How long connections that were ended by force have to leave their records.
const DRAIN_RECORDS: Duration = Duration::from_millis(500);

/// How long a drain keeps one list of what is open.
const REMAINING_KEPT: Duration = Duration::from_secs(1);

/// What a worker is made of.
pub struct Inputs {
    /// Its place among the workers, from 0.
    pub number: usize,
    /// Which back end moves its bytes.
    pub backend: Backend,
    /// What the operator chose.
    pub config: DataPath,
    /// What is known of the mesh.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Whether connections are accepted.
    pub open: watch::Receiver<bool>,
    /// Certificates of this node's pods.
    pub certificates: Arc<Certificates>,
    /// What all workers have.
    pub spread: Arc<Spread>,
    /// Where all workers, this one too, take what others have accepted for them.
    pub neighbours: Arc<[mpsc::Sender<Handed>]>,
    /// What others have accepted for this one.
    pub handed: mpsc::Receiver<Handed>,
    /// Orders.
    pub commands: mpsc::Receiver<Command>,
    /// Where records go.
    pub recorder: Recorder,
    /// What is counted without a record.
    pub metrics: Metrics,
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
    worker.spawn(Rc::clone(&worker).take_handed(inputs.handed));
    worker.spawn(keep_house(Rc::clone(&worker)));
    worker.spawn(count_bytes(Rc::clone(&worker)));
    worker.spawn(relieve(Rc::clone(&worker)));
    let (deadline, deadlines) = watch::channel(None);
    let mut drained = std::pin::pin!(worker.drain(deadlines));
    let mut has_owner = true;
    loop {
        let command = tokio::select! {
            () = &mut drained => break,
            command = inputs.commands.recv(), if has_owner => command,
        };
        match command {
            Some(Command::Drain(within)) => shorten(&deadline, within),
            Some(command) => worker.obey(command),
            None => {
                has_owner = false;
                shorten(&deadline, worker.config.termination_deadline);
            }
        }
    }
    worker.scope.abort_all();
    worker.scope.join_all().await;
}

fn shorten(deadline: &watch::Sender<Option<Instant>>, within: Duration) {
    let new = Instant::now() + within;
    deadline.send_modify(|old| *old = Some(old.map_or(new, |old| old.min(new))));
}

async fn follow_pushes(worker: Rc<Worker>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        // First: what is let in while others are judged is let in by this one.
        *worker.snapshot.borrow_mut() = Arc::clone(&snapshot);
        worker.live.judge(&snapshot).await;
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Metrics of a connection that lasts for days must not wait for its end.
async fn count_bytes(worker: Rc<Worker>) {
    loop {
        sleep(BYTES_COUNTED_EVERY).await;
        let count = |connection: &Connection| {
            if let Some(record) = connection.moved() {
                worker.recorder.put(record);
            }
        };
        worker.live.each(BYTES_COUNTED_PAUSE, count).await;
    }
}

/// Tunnels that have nothing to do must hear too that they may hold more again.
async fn relieve(worker: Rc<Worker>) {
    loop {
        let again = worker.budget.relieved();
        for (number, tunnel) in worker.tunnels.of(None).iter().enumerate() {
            tunnel.settle();
            if number % CONNECTIONS_PER_TURN == 0 {
                yield_now().await;
            }
        }
        again.await;
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
        local.resident.loads.set_serves(self.number, false);
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

    fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::Add(_, done) if self.draining.get() => {
                let _ = done.send(Err("this proxy accepts no more".to_owned()));
            }
            Command::Add(pod, done) => {
                let accepting = self.accept_for(pod).map_err(|error| error.to_string());
                // The asker may have given up waiting.
                let _ = done.send(accepting);
            }
            Command::Remove(uid) => self.remove(&uid),
            Command::Dump(reply) => {
                let _ = reply.send(self.views());
            }
            // Seen to by the main loop.
            Command::Drain(_) => {}
        }
    }

    /// Begins when there is a deadline, and ends when all has ended or is ended by force.
    async fn drain(self: &Rc<Self>, mut deadlines: watch::Receiver<Option<Instant>>) {
        let ordered = deadlines.wait_for(Option::is_some).await.is_ok();
        if !ordered {
            return;
        }
        self.stop_accepting();
        // The tasks of what was accepted a moment ago have not begun yet.
        sleep(LAST_ACCEPTED).await;
        loop {
            let deadline = *deadlines.borrow_and_update();
            let Some(deadline) = deadline.filter(|deadline| Instant::now() < *deadline) else {
                break;
            };
            let remaining = self.remaining(None);
            if remaining.is_empty() {
                return;
            }
            // Looked at again now and then: what has ended shall not be held for an hour.
            let until = deadline.min(Instant::now() + REMAINING_KEPT);
            tokio::select! {
                () = remaining.ended(until) => {}
                _ = deadlines.changed() => {}
            }
        }
        let remaining = self.remaining(None);
        let closed = remaining.close_quiet(&Ended::DrainDeadline).await;
        let remaining = self.remaining(None);
        remaining.force(&Ended::DrainDeadline);
        let reset = remaining.connections();
        if closed + reset > 0 {
            tracing::warn!(closed, reset, "the drain deadline is over");
            self.metrics.count_cut(closed as u64, reset as u64);
        }
        remaining.ended(Instant::now() + DRAIN_RECORDS).await;
    }

    fn stop_accepting(&self) {
        self.draining.set(true);
        self.stopped.cancel();
        for local in self.pods.all() {
            local.stop.cancel();
            local.resident.loads.set_serves(self.number, false);
        }
        let tunnels = self.tunnels.of(None);
        tunnels
            .iter()
            .filter(|tunnel| tunnel.is_established())
            .for_each(|tunnel| tunnel.drain());
    }
}
