//! The proxy without its control plane: workers, recorder, pods. Snapshots and certificates come
//! from whoever starts it, so that tests need neither discovery nor a CA.

use std::io;
use std::sync::Arc;

use mesh::snapshot::Snapshot;
use netio::Backend;
use process::certs::CertManager;
use process::tasks::Tasks;
use tokio::sync::{mpsc, watch};

use crate::config::DataPath;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::worker::command::Workers;
use crate::worker::{self, Inputs};
use carrier::certificate::Certificates;
use carrier::limits::{COMMANDS_QUEUED, HANDED_QUEUED};
use carrier::records;
use carrier::spread::Spread;
use carrier::threads::Threads;

/// What a proxy is made of.
pub struct Parts {
    /// Which back end moves the bytes.
    pub backend: Backend,
    /// Number of worker threads, at least 1.
    pub workers: usize,
    /// What the operator chose.
    pub config: DataPath,
    /// What is known of the mesh.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Whether connections are accepted; until it says so they wait in the listeners.
    pub open: watch::Receiver<bool>,
    /// Where certificates come from.
    pub certificates: CertManager,
    /// What is counted.
    pub metrics: Metrics,
}

/// A running proxy.
pub struct Proxy {
    /// Its pods; whoever knows of pods tells it.
    pub pods: Pods,
    /// Its workers.
    pub workers: Workers,
    /// Its certificates.
    pub certificates: Arc<Certificates>,
    /// The workers' threads.
    pub threads: Threads,
}

impl Proxy {
    /// Starts the workers, and the recorder as a task of `tasks`.
    ///
    /// # Errors
    /// A thread cannot be made.
    pub fn start(parts: Parts, tasks: &Tasks) -> io::Result<Self> {
        let Parts {
            backend,
            workers,
            config,
            snapshots,
            open,
            certificates,
            metrics,
        } = parts;
        let certificates = Certificates::new(certificates, config.trust_domain.clone(), tasks);
        let (recorder, records) = records::queue();
        let mut threads = Threads::new(workers);
        let mut queues = Vec::with_capacity(workers);
        let spread = Spread::new(workers, metrics.open_on_workers());
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
                snapshots: snapshots.clone(),
                open: open.clone(),
                certificates: Arc::clone(&certificates),
                spread: Arc::clone(&spread),
                neighbours: Arc::clone(&neighbours),
                handed,
                commands,
                recorder: recorder.clone(),
                metrics: metrics.clone(),
            };
            threads.start(number, move || worker::run(inputs))?;
        }
        // Ends by itself when the last worker has ended: its records are the last.
        tasks.spawn("recorder", records.run(metrics.clone()));
        let workers = Workers::new(queues);
        let pods = Pods::new(workers.clone(), Arc::clone(&certificates), metrics);
        Ok(Self {
            pods,
            workers,
            certificates,
            threads,
        })
    }
}
