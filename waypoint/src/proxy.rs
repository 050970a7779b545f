//! The waypoint without its control plane: workers and recorder. Snapshots, routes and
//! certificates come from whoever starts it, so that tests need neither discovery nor a CA.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use carrier::certificate::Certificates;
use carrier::limits::{COMMANDS_QUEUED, HANDED_QUEUED};
use carrier::threads::Threads;
use mesh::route::Book;
use mesh::snapshot::Snapshot;
use netio::Backend;
use netio::netns::Netns;
use process::certs::CertManager;
use process::tasks::Tasks;
use tokio::sync::{mpsc, watch};

use crate::config::DataPath;
use crate::metrics::Metrics;
use crate::trace::Tracing;
use crate::worker::command::Workers;
use crate::worker::{self, Inputs};
use carrier::records;
use carrier::spread::Spread;
use carrier::tunnel::key::PodUid;

/// What a waypoint is made of.
pub struct Parts {
    /// Which back end moves the bytes.
    pub backend: Backend,
    /// Number of worker threads, at least 1.
    pub workers: usize,
    /// What the operator chose.
    pub config: DataPath,
    /// Where clients' proxies reach it.
    pub listener: TcpListener,
    /// Where its sockets are made.
    pub netns: Netns,
    /// What is known of the mesh.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Routes and targeted policies.
    pub books: watch::Receiver<Arc<Book>>,
    /// Whether connections are accepted; until it says so they wait in the listener.
    pub open: watch::Receiver<bool>,
    /// Where certificates come from.
    pub certificates: CertManager,
    /// What is counted.
    pub metrics: Metrics,
    /// What is traced; None: nothing.
    pub tracing: Option<Tracing>,
}

/// A running waypoint.
pub struct Proxy {
    /// Its workers.
    pub workers: Workers,
    /// Its certificates: one.
    pub certificates: Arc<Certificates>,
    /// The workers' threads.
    pub threads: Threads,
}

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or a descriptor cannot be had.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No certificate can be asked for.
    #[error(transparent)]
    Certificate(#[from] process::certs::CertificateError),
}

impl Proxy {
    /// Starts the workers, and the recorder as a task of `tasks`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(parts: Parts, tasks: &Tasks) -> Result<Self, StartError> {
        let Parts {
            backend,
            workers,
            config,
            listener,
            netns,
            snapshots,
            books,
            open,
            certificates,
            metrics,
            tracing,
        } = parts;
        let certificates = Certificates::new(certificates, config.trust_domain(), tasks);
        certificates.hold(&config.identity)?;
        let (recorder, records) = records::queue();
        let mut threads = Threads::new(workers);
        let mut queues = Vec::with_capacity(workers);
        let spread = Spread::new(workers, metrics.open_on_workers());
        let loads = spread.pod(&PodUid(Arc::clone(&config.workload.0)));
        let (neighbours, handed): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| mpsc::channel(HANDED_QUEUED)).unzip();
        let neighbours: Arc<[_]> = neighbours.into();
        for (number, handed) in handed.into_iter().enumerate() {
            let (queue, commands) = mpsc::channel(COMMANDS_QUEUED);
            queues.push(queue);
            let inputs = Inputs {
                number,
                backend,
                config: config.clone(),
                listener: listener.try_clone()?,
                netns: netns.clone(),
                snapshots: snapshots.clone(),
                books: books.clone(),
                open: open.clone(),
                certificates: Arc::clone(&certificates),
                loads: Arc::clone(&loads),
                neighbours: Arc::clone(&neighbours),
                handed,
                commands,
                recorder: recorder.clone(),
                metrics: metrics.clone(),
                tracing: tracing.clone(),
            };
            threads.start(number, move || worker::run(inputs))?;
        }
        // Ends by itself when the last worker has ended: its records are the last.
        tasks.spawn("recorder", records.run(metrics));
        Ok(Self {
            workers: Workers::new(queues),
            certificates,
            threads,
        })
    }
}
