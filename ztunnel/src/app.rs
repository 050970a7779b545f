//! The program: the proxy, fed by the control plane and the node agent, until it is told to stop.
//!
//! ```text
//!   start ──> serving ── SIGTERM ──> agent left, workers drain ──> joined ──> end, code 0
//!                └────── a task or a worker fails ──> end, code 1
//! ```

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use netio::{Choice, ProbeError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use process::admin::{self, BindError, Readiness};
use process::certs::{CertManager, DEFAULT_TTL, GrpcAuthority};
use process::clock::SystemClock;
use process::grpc::{AddressError, ControlPlane, Settings};
use process::metrics::{XdsMetrics, register_build};
use process::tasks::{TaskFailure, Tasks, terminated};
use process::telemetry::LogControl;
use process::xds::{self, Feed, Node, Scope};
use prometheus_client::registry::Registry;

use crate::config::{Config, Io};
use crate::dump;
use crate::memory;
use crate::metrics::Metrics;
use crate::proxy::{Parts, Proxy};
use crate::worker::threads::{ThreadError, Threads};
use crate::zds;

/// What the workers may take beyond their drain deadline to end what they force.
const WORKER_GRACE: Duration = Duration::from_secs(2);

/// What the control side's tasks may take to end, the recorder's last records included.
const TASK_GRACE: Duration = Duration::from_secs(2);

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The back end that was asked for does not work here.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// An address of the control plane cannot be used.
    #[error(transparent)]
    ControlPlane(#[from] AddressError),
    /// A port cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Threads or signals cannot be had.
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

/// Runs until SIGTERM or SIGINT, and drains.
///
/// # Errors
/// It cannot start, or something in it failed.
pub async fn run(config: Config, logging: LogControl) -> Result<(), AppError> {
    let terminated = terminated()?;
    match raise_open_files() {
        Ok(files) => tracing::info!(files, "open files allowed"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
    let (backend, why) = netio::probe(choice(config.io))?;
    tracing::info!(%backend, %why, "io back end");
    let tasks = Tasks::new();
    let readiness = Readiness::new();
    let workers_up = readiness.condition("workers", "not started");
    let zds_ready = readiness.condition("zds", "not connected to the node agent");
    let (registry, metrics, xds_metrics) = metrics();
    serve_http(&tasks, &config, &readiness, registry)?;
    let feed = feed(&tasks, &config, xds_metrics, &readiness)?;
    let parts = Parts {
        backend,
        workers: workers(&config),
        config: config.data_path(),
        snapshots: feed.subscribe(),
        certificates: certificates(&tasks, &config)?,
        metrics,
    };
    let Proxy {
        pods,
        workers,
        certificates,
        mut threads,
    } = Proxy::start(parts, &tasks)?;
    workers_up.met();
    let sources = dump::Sources {
        snapshots: feed.subscribe(),
        certificates,
        pods: pods.watch(),
        workers: workers.clone(),
        config: Arc::new(config.clone()),
    };
    let router = dump::routes(sources).merge(admin::logging(logging));
    admin::serve(&tasks, "admin", config.admin_addr, router)?;
    let agent = zds::Client {
        socket: config.zds_socket.clone(),
        config: config.data_path(),
        ready: zds_ready,
    };
    tasks.spawn("memory", memory::release_when_idle(tasks.stop()));
    let leave_agent = tasks.stop().child_token();
    tasks.spawn("zds", agent.run(pods, leave_agent.clone()));
    let signal = tokio::select! {
        signal = terminated => signal,
        failure = tasks.failed() => return Err(AppError::Task(failure)),
        ended = threads.next() => {
            ended.transpose()?;
            return Err(AppError::WorkerEnded);
        }
    };
    tracing::info!(signal, deadline = ?config.drain_deadline, "draining");
    workers_up.missing("draining");
    leave_agent.cancel();
    workers.drain().await;
    drop(workers);
    join(&mut threads, config.drain_deadline + WORKER_GRACE).await?;
    tasks.shutdown(TASK_GRACE).await;
    tracing::info!("drained");
    Ok(())
}

/// As many descriptors as the operator lets us have: each connection takes one or two.
fn raise_open_files() -> nix::Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}

async fn join(threads: &mut Threads, within: Duration) -> Result<(), AppError> {
    let all = async {
        while let Some(ended) = threads.next().await {
            ended?;
        }
        Ok(())
    };
    match tokio::time::timeout(within, all).await {
        Ok(joined) => joined,
        Err(_) => {
            // The process ends anyway, and its sockets with it.
            tracing::warn!("a worker did not end in time");
            Ok(())
        }
    }
}

fn choice(io: Io) -> Choice {
    match io {
        Io::Auto => Choice::Auto,
        Io::IoUring => Choice::IoUring,
        Io::Epoll => Choice::Epoll,
    }
}

fn workers(config: &Config) -> usize {
    let cores = || available_parallelism().map_or(1, NonZero::get);
    config.workers.map_or_else(cores, usize::from)
}

fn metrics() -> (Arc<Registry>, Metrics, XdsMetrics) {
    let mut registry = Registry::default();
    register_build(&mut registry, "ztunnel", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::default();
    metrics.register(&mut registry);
    let xds_metrics = XdsMetrics::register(&mut registry);
    (Arc::new(registry), metrics, xds_metrics)
}

fn serve_http(
    tasks: &Tasks,
    config: &Config,
    readiness: &Readiness,
    registry: Arc<Registry>,
) -> Result<(), BindError> {
    admin::serve(
        tasks,
        "metrics",
        config.metrics_addr,
        admin::metrics(registry),
    )?;
    admin::serve(
        tasks,
        "readiness",
        config.ready_addr,
        admin::readiness(readiness.clone()),
    )?;
    Ok(())
}

fn feed(
    tasks: &Tasks,
    config: &Config,
    metrics: XdsMetrics,
    readiness: &Readiness,
) -> Result<Feed, AddressError> {
    let control_plane = control_plane(config, &config.xds_address)?;
    let node = Node::ztunnel(&config.node_name, &config.cluster_id);
    let wanted = xds::Config {
        node,
        scope: Scope::Wildcard,
    };
    Ok(xds::start(tasks, control_plane, wanted, metrics, readiness))
}

fn certificates(tasks: &Tasks, config: &Config) -> Result<CertManager, AddressError> {
    let authority = GrpcAuthority::new(control_plane(config, &config.ca_address)?);
    Ok(CertManager::start(
        tasks,
        Arc::new(authority),
        Arc::new(SystemClock),
        DEFAULT_TTL,
    ))
}

fn control_plane(config: &Config, address: &str) -> Result<ControlPlane, AddressError> {
    let mut settings = Settings::new(address, &config.root_cert, Some(&config.token_file));
    settings.cluster_id.clone_from(&config.cluster_id);
    ControlPlane::new(settings)
}
