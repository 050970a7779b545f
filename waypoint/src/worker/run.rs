//! The main loop of a worker: orders, pushes, housekeeping, drain.

use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;

use carrier::certificate::Certificates;
use carrier::limits::{
    BUFFERS_KEPT_FOR, BYTES_COUNTED_EVERY, BYTES_COUNTED_PAUSE, CONNECTIONS_PER_TURN,
    DUMPED_CONNECTIONS,
};
use carrier::spread::Loads;
use mesh::route::Book;
use mesh::snapshot::Snapshot;
use netio::executor::yield_now;
use netio::netns::Netns;
use netio::time::{Duration, Instant, sleep};
use netio::{Backend, TcpListener, executor};
use tokio::sync::{mpsc, watch};

use super::Worker;
use super::accept::Handed;
use super::command::Command;
use crate::config::DataPath;
use crate::connection::Connection;
use crate::dump::ConnectionView;
use crate::metrics::Metrics;
use crate::record::{Record, Recorder};
use crate::trace::Tracing;

/// What a worker is made of.
pub struct Inputs {
    /// Its place among the workers, from 0.
    pub number: usize,
    /// Which back end moves its bytes.
    pub backend: Backend,
    /// What the operator chose.
    pub config: DataPath,
    /// A descriptor of its own for the one listener.
    pub listener: StdListener,
    /// Where its sockets are made.
    pub netns: Netns,
    /// What is known of the mesh.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Routes and targeted policies.
    pub books: watch::Receiver<Arc<Book>>,
    /// Whether connections are accepted.
    pub open: watch::Receiver<bool>,
    /// The waypoint's certificate.
    pub certificates: Arc<Certificates>,
    /// What each worker has.
    pub loads: Arc<Loads>,
    /// Where all workers, this one too, take what others have accepted for them.
    pub neighbours: Arc<[mpsc::Sender<Handed>]>,
    /// What others have accepted for this one.
    pub handed: mpsc::Receiver<Handed>,
    /// Orders.
    pub commands: mpsc::Receiver<Command>,
    /// Where records go.
    pub recorder: Recorder,
    /// What is traced; None: nothing.
    pub tracing: Option<Tracing>,
    /// What is counted without a record.
    pub metrics: Metrics,
}

/// Runs a worker on the calling thread, until a [`Command::Drain`] is done, or the orders' queue
/// closes.
///
/// # Errors
/// The executor cannot be made, or the listener not be used.
pub fn run(inputs: Inputs) -> io::Result<()> {
    executor::run(inputs.backend, serve(inputs))?
}

async fn serve(inputs: Inputs) -> io::Result<()> {
    let netns = inputs.netns.clone();
    let worker = Worker::new(&inputs, netns);
    let listener = TcpListener::from_std(inputs.listener)?;
    worker.spawn(Rc::clone(&worker).accept_all(listener, inputs.open));
    worker.spawn(Rc::clone(&worker).take_handed(inputs.handed));
    worker.spawn(follow_snapshots(Rc::clone(&worker), inputs.snapshots));
    worker.spawn(follow_books(Rc::clone(&worker), inputs.books));
    worker.spawn(keep_house(Rc::clone(&worker)));
    worker.spawn(count_bytes(Rc::clone(&worker)));
    worker.spawn(relieve(Rc::clone(&worker)));
    let (deadline, deadlines) = watch::channel(None);
    let mut commands = inputs.commands;
    let mut drained = std::pin::pin!(worker.drain(deadlines));
    let mut has_owner = true;
    loop {
        let command = tokio::select! {
            () = &mut drained => break,
            command = commands.recv(), if has_owner => command,
        };
        match command {
            Some(Command::Drain(within)) => shorten(&deadline, within),
            Some(Command::Dump(reply)) => {
                let _ = reply.send(worker.views());
            }
            None => {
                has_owner = false;
                shorten(&deadline, worker.config.drain_deadline);
            }
        }
    }
    worker.scope.abort_all();
    worker.scope.join_all().await;
    Ok(())
}

fn shorten(deadline: &watch::Sender<Option<Instant>>, within: Duration) {
    let new = Instant::now() + within;
    deadline.send_modify(|old| *old = Some(old.map_or(new, |old| old.min(new))));
}

async fn follow_snapshots(worker: Rc<Worker>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        worker.endpoints.renew(&snapshot);
        // First: what is let in while others are judged is let in by this one.
        *worker.snapshot.borrow_mut() = Arc::clone(&snapshot);
        // Without itself in the mesh nothing new is taken; what is open is not judged by that.
        if let Some(own) = worker.own() {
            worker.bindings.judge(&snapshot, &own).await;
        }
    }
}

async fn follow_books(worker: Rc<Worker>, mut books: watch::Receiver<Arc<Book>>) {
    while books.changed().await.is_ok() {
        let book = books.borrow_and_update().clone();
        // First: what is let in while others are judged is let in by this one.
        *worker.book.borrow_mut() = Arc::clone(&book);
        worker.live.judge(&book, &worker.config.gateway).await;
    }
}

/// Metrics of a connection that lasts for days must not wait for its end.
async fn count_bytes(worker: Rc<Worker>) {
    loop {
        sleep(BYTES_COUNTED_EVERY).await;
        let count = |connection: &Connection| {
            if let Some(record) = connection.moved() {
                worker.recorder.put(Record::from(record));
            }
        };
        worker.live.each(BYTES_COUNTED_PAUSE, count).await;
    }
}

/// Tunnels that have nothing to do must hear too that they may hold more again.
async fn relieve(worker: Rc<Worker>) {
    loop {
        let again = worker.budget.relieved();
        let ours = worker.upstream_tunnels.all();
        let all = worker.tunnels.all().into_iter().chain(ours);
        for (number, tunnel) in all.enumerate() {
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
    fn views(&self) -> Vec<ConnectionView> {
        let connections = self.live.all();
        let shown = connections.iter().take(DUMPED_CONNECTIONS);
        shown
            .map(|connection| ConnectionView::of(connection))
            .collect()
    }
}
