//! The program: the waypoint, fed by the control plane, until it is told to stop.
//!
//! ```text
//!   start ──> ready, accepting ── SIGTERM ──> GOAWAY, workers drain ──> joined ──> end, code 0
//!                └────── a task or a worker fails ──> end, code 1
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use carrier::certificate::Certificates;
use carrier::limits::{Limits, READY_LOOK};
use carrier::threads::{ThreadError, Threads};
use carrier::{files, memory};
use mesh::Identity;
use mesh::identity::IdentityError;
use netio::ProbeError;
use netio::netns::{Netns, NetnsError};
use process::admin::{self, BindError, Condition, Readiness};
use process::grpc::AddressError;
use process::metrics::{XdsMetrics, register_build};
use process::tasks::{TaskFailure, Tasks, terminated};
use process::telemetry::LogControl;
use process::xds::{self, Feed, Node, Scope};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::config::Config;
use crate::dump;
use crate::metrics::Metrics;
use crate::proxy::{Parts, Proxy, StartError};
use crate::trace::{Tracing, TracingError};
use crate::worker::command::Workers;

/// What the workers may take beyond their drain deadline: 0.2 s to see what is quiet, 1 s to close
/// that, 0.5 s to reset the rest.
const WORKER_GRACE: Duration = Duration::from_secs(3);

/// What the control side's tasks may take to end, the recorder's last records included.
const TASK_GRACE: Duration = Duration::from_secs(2);

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The back end that was asked for does not work here.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// It cannot be who it shall be.
    #[error("the waypoint's own identity: {0}")]
    Identity(#[from] IdentityError),
    /// Its own network namespace cannot be opened.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// An address of the control plane cannot be used.
    #[error(transparent)]
    ControlPlane(#[from] AddressError),
    /// A port of the control side cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Clients' proxies cannot be listened for.
    #[error("cannot listen on {0} for HBONE: {1}")]
    Listen(SocketAddr, io::Error),
    /// The workers do not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It cannot trace as it is told to.
    #[error("tracing: {0}")]
    Tracing(#[from] TracingError),
    /// Signals cannot be had.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A task of the control side failed.
    #[error(transparent)]
    Task(TaskFailure),
    /// A worker failed.
    #[error(transparent)]
    Worker(#[from] ThreadError),
    /// A worker ended though nobody told it to.
    #[error("a worker ended by itself")]
    WorkerEnded,
}

/// A waypoint that serves, and what must be told when it ends.
struct Serving {
    workers: Workers,
    threads: Threads,
    tasks: Tasks,
    workers_up: Condition,
}

/// Runs until SIGTERM or SIGINT, and drains.
///
/// # Errors
/// It cannot start, or something in it failed.
pub async fn run(config: Config, limits: Limits, logging: LogControl) -> Result<(), AppError> {
    let mut terminated = Box::pin(terminated()?);
    files::ask_for(limits.open_files);
    netio::executor::set_spin(config.spin.time());
    let mut serving = start(&config, limits, logging)?;
    let signal = tokio::select! {
        signal = &mut terminated => signal,
        failure = serving.tasks.failed() => return Err(AppError::Task(failure)),
        ended = serving.threads.next() => {
            ended.transpose()?;
            return Err(AppError::WorkerEnded);
        }
    };
    let deadline = config.drain_deadline;
    tracing::info!(signal, ?deadline, "draining");
    serving.workers_up.missing("draining");
    serving.workers.drain(deadline).await;
    serving.threads.join(deadline + WORKER_GRACE).await?;
    drop(serving.workers);
    serving.tasks.shutdown(TASK_GRACE).await;
    tracing::info!("drained");
    Ok(())
}

fn start(config: &Config, limits: Limits, logging: LogControl) -> Result<Serving, AppError> {
    let (backend, why) = netio::probe(config.io)?;
    tracing::info!(%backend, %why, "io back end");
    let tasks = Tasks::new();
    let readiness = Readiness::new();
    let workers_up = readiness.condition("workers", "not started");
    let certified = readiness.condition("certificate", "not asked for yet");
    let data_path = config.data_path(limits)?;
    let identity = data_path.identity.clone();
    let page = admin::readiness(readiness.clone());
    admin::serve(&tasks, "readiness", config.flags.ready_addr, page)?;
    let (metrics, xds_metrics) = serve_metrics(&tasks, config)?;
    let listener = TcpListener::bind(config.listen_addr)
        .map_err(|error| AppError::Listen(config.listen_addr, error))?;
    let feed = feed(&tasks, config, xds_metrics, &readiness)?;
    let (open, opened) = watch::channel(false);
    let parts = Parts {
        backend,
        workers: config.flags.worker_count(),
        config: data_path,
        listener,
        netns: Netns::current()?,
        snapshots: feed.subscribe(),
        books: feed.subscribe_book(),
        open: opened,
        certificates: config.flags.certificates(&tasks)?,
        tracing: Tracing::start(&tasks, config, &metrics.spans)?,
        metrics,
    };
    let Proxy {
        workers,
        certificates,
        threads,
    } = Proxy::start(parts, &tasks)?;
    workers_up.met();
    let sources = dump::Sources {
        snapshots: feed.subscribe(),
        books: feed.subscribe_book(),
        certificates: Arc::clone(&certificates),
        workers: workers.clone(),
        config: Arc::new(config.clone()),
        limits,
    };
    let page = dump::routes(sources).merge(admin::logging(logging));
    admin::serve(&tasks, "admin", config.flags.admin_addr, page)?;
    tasks.spawn("memory", memory::release_when_idle(tasks.stop()));
    let gate = Gate {
        readiness,
        certified,
        certificates,
        identity,
        open,
    };
    let stop = tasks.stop();
    tasks.spawn("gate", async move {
        stop.run_until_cancelled(gate.opened()).await;
    });
    Ok(Serving {
        workers,
        threads,
        tasks,
        workers_up,
    })
}

/// When it begins to accept: not before it can serve. Once open it stays open.
struct Gate {
    readiness: Readiness,
    certified: Condition,
    certificates: Arc<Certificates>,
    identity: Identity,
    open: watch::Sender<bool>,
}

impl Gate {
    async fn opened(self) {
        let mut book = self.certificates.book();
        let has_one = book.wait_for(|book| book.contains_key(&self.identity));
        if has_one.await.is_err() {
            return;
        }
        self.certified.met();
        while !self.readiness.is_ready() {
            sleep(READY_LOOK).await;
        }
        tracing::info!("ready, connections are accepted");
        self.open.send_replace(true);
        // Held, so that nobody takes its end for a failure.
        std::future::pending().await
    }
}

fn serve_metrics(tasks: &Tasks, config: &Config) -> Result<(Metrics, XdsMetrics), BindError> {
    let mut registry = Registry::default();
    register_build(&mut registry, "waypoint", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::default();
    metrics.register(&mut registry);
    let xds_metrics = XdsMetrics::register(&mut registry);
    let page = admin::metrics(Arc::new(registry));
    admin::serve(tasks, "metrics", config.flags.metrics_addr, page)?;
    Ok((metrics, xds_metrics))
}

fn feed(
    tasks: &Tasks,
    config: &Config,
    metrics: XdsMetrics,
    readiness: &Readiness,
) -> Result<Feed, AddressError> {
    let control_plane = config.flags.discovery()?;
    let mut node = Node::ztunnel(&config.flags.node_name, &config.flags.cluster_id);
    "waypoint".clone_into(&mut node.role);
    node.name.clone_from(&config.pod_name);
    node.namespace.clone_from(&config.pod_namespace);
    let wanted = xds::Config {
        node,
        scope: Scope::Wildcard,
        carried: None,
        routes: true,
    };
    Ok(xds::start(tasks, control_plane, wanted, metrics, readiness))
}
