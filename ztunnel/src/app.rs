//! The program: the proxy, fed by the control plane and the node agent, until it is told to stop.
//!
//! ```text
//!   start ──> ready, accepting ── SIGTERM ──> agent left, workers drain ──> joined ──> end, code 0
//!                │    └────────── a successor serves ──┘
//!                └────── a task or a worker fails ──> end, code 1
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use netio::ProbeError;
use process::admin::{self, BindError, Condition, Readiness};
use process::grpc::AddressError;
use process::metrics::{XdsMetrics, register_build};
use process::tasks::{TaskFailure, Tasks, terminated};
use process::telemetry::LogControl;
use process::xds::{self, Carried, Feed, Node, Scope};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::dump;
use crate::gate::Gate;
use crate::handover::predecessor::{Predecessor, take_over};
use crate::handover::server::{Replaced, Server};
use crate::metrics::Metrics;
use crate::proxy::{Parts, Proxy};
use crate::worker::command::Workers;
use crate::zds;
use carrier::limits::Limits;
use carrier::threads::{ThreadError, Threads};
use carrier::{files, memory};

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

/// What is waited for while the proxy serves.
enum Told {
    /// SIGTERM or SIGINT.
    Terminated(&'static str),
    /// A successor accepts connections; it waits for our word that we do no more.
    Replaced(Replaced),
}

/// A proxy that serves, and what must be told when it ends.
struct Serving {
    workers: Workers,
    threads: Threads,
    tasks: Tasks,
    /// Serves the readiness: a successor in the same network namespace must not share its port
    /// with a process that is not ready any more.
    probes: Tasks,
    workers_up: Condition,
    leave_agent: CancellationToken,
    replaced: mpsc::Receiver<Replaced>,
}

/// Runs until SIGTERM or SIGINT, or until a successor serves, and drains.
///
/// # Errors
/// It cannot start, or something in it failed.
pub async fn run(config: Config, limits: Limits, logging: LogControl) -> Result<(), AppError> {
    let mut terminated = Box::pin(terminated()?);
    files::ask_for(limits.open_files);
    netio::executor::set_spin(config.spin.time());
    let mut serving = start(&config, limits, logging).await?;
    let told = tokio::select! {
        signal = &mut terminated => Told::Terminated(signal),
        Some(replaced) = serving.replaced.recv() => Told::Replaced(replaced),
        failure = serving.tasks.failed() => return Err(AppError::Task(failure)),
        ended = serving.threads.next() => {
            ended.transpose()?;
            return Err(AppError::WorkerEnded);
        }
    };
    serving.workers_up.missing("draining");
    serving.leave_agent.cancel();
    let workers = serving.workers.clone();
    match told {
        Told::Terminated(signal) => {
            let deadline = config.termination_deadline;
            tracing::info!(signal, ?deadline, "draining");
            workers.drain(deadline).await;
            serving.threads.join(deadline + WORKER_GRACE).await?;
        }
        Told::Replaced(replaced) => {
            let deadline = config.drain_deadline;
            tracing::info!(?deadline, "a successor serves, draining");
            workers.drain(deadline).await;
            // It may have died since: then its successor finds our socket free.
            let _ = replaced.send(());
            serving.probes.shutdown(TASK_GRACE).await;
            let threads = &mut serving.threads;
            let signal = tokio::select! {
                joined = threads.join(deadline + WORKER_GRACE) => {
                    joined?;
                    None
                }
                signal = &mut terminated => Some(signal),
            };
            if let Some(signal) = signal {
                let deadline = config.termination_deadline;
                tracing::info!(signal, ?deadline, "the drain is shortened");
                workers.drain(deadline).await;
                serving.threads.join(deadline + WORKER_GRACE).await?;
            }
        }
    }
    drop(workers);
    serving.probes.shutdown(TASK_GRACE).await;
    serving.tasks.shutdown(TASK_GRACE).await;
    tracing::info!("drained");
    Ok(())
}

async fn start(config: &Config, limits: Limits, logging: LogControl) -> Result<Serving, AppError> {
    let (backend, why) = netio::probe(config.io)?;
    tracing::info!(%backend, %why, "io back end");
    let (tasks, probes) = (Tasks::new(), Tasks::new());
    let readiness = Readiness::new();
    let workers_up = readiness.condition("workers", "not started");
    let zds_ready = readiness.condition("zds", "not connected to the node agent");
    let (registry, metrics, xds_metrics) = metrics();
    serve_probes(&probes, config, &readiness)?;
    serve_metrics(&tasks, config, registry)?;
    let (predecessor, state) = take_over(&config.handover_socket).await;
    let feed = feed(&tasks, config, (xds_metrics, state.carried), &readiness)?;
    let manager = config.flags.certificates(&tasks)?;
    manager.adopt(state.certificates);
    let (open, opened) = watch::channel(false);
    let parts = Parts {
        backend,
        workers: config.flags.worker_count(),
        config: config.data_path(limits),
        snapshots: feed.subscribe(),
        open: opened,
        certificates: manager.clone(),
        metrics,
    };
    let Proxy {
        pods,
        workers,
        certificates,
        threads,
    } = Proxy::start(parts, &tasks)?;
    workers_up.met();
    let gate = Gate::new(&readiness, Arc::clone(&certificates), open);
    let sources = dump::Sources {
        snapshots: feed.subscribe(),
        certificates,
        pods: pods.watch(),
        workers: workers.clone(),
        config: Arc::new(config.clone()),
        limits,
    };
    serve_admin(&tasks, config.flags.admin_addr, sources, logging)?;
    tasks.spawn("memory", memory::release_when_idle(tasks.stop()));
    let (replaced_by, replaced) = mpsc::channel(1);
    let server = Server {
        socket: config.handover_socket.clone(),
        feed,
        certificates: manager,
        replaced: replaced_by,
    };
    tasks.spawn(
        "handover",
        hand_over(gate, server, predecessor, tasks.stop()),
    );
    let leave_agent = tasks.stop().child_token();
    let agent = zds::Client {
        socket: config.zds_socket.clone(),
        config: config.data_path(limits),
        ready: zds_ready,
    };
    tasks.spawn("zds", agent.run(pods, leave_agent.clone()));
    Ok(Serving {
        workers,
        threads,
        tasks,
        probes,
        workers_up,
        leave_agent,
        replaced,
    })
}

/// Once this process can serve: it accepts, and whoever did until now stops.
async fn hand_over(
    gate: Gate,
    server: Server,
    predecessor: Option<Predecessor>,
    stop: CancellationToken,
) {
    let serve = async {
        gate.opened().await;
        server.certificates.drop_unwanted();
        if server.socket.as_os_str().is_empty() {
            // Held, so that nobody takes its end for a failure.
            return std::future::pending().await;
        }
        server.run(predecessor).await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = serve => {}
    }
}

fn metrics() -> (Arc<Registry>, Metrics, XdsMetrics) {
    let mut registry = Registry::default();
    register_build(&mut registry, "ztunnel", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::default();
    metrics.register(&mut registry);
    let xds_metrics = XdsMetrics::register(&mut registry);
    (Arc::new(registry), metrics, xds_metrics)
}

fn serve_admin(
    tasks: &Tasks,
    address: SocketAddr,
    sources: dump::Sources,
    logging: LogControl,
) -> Result<(), BindError> {
    let page = dump::routes(sources).merge(admin::logging(logging));
    admin::serve(tasks, "admin", address, page).map(drop)
}

fn serve_probes(probes: &Tasks, config: &Config, readiness: &Readiness) -> Result<(), BindError> {
    let page = admin::readiness(readiness.clone());
    admin::serve(probes, "readiness", config.flags.ready_addr, page).map(drop)
}

fn serve_metrics(tasks: &Tasks, config: &Config, registry: Arc<Registry>) -> Result<(), BindError> {
    let page = admin::metrics(registry);
    admin::serve(tasks, "metrics", config.flags.metrics_addr, page).map(drop)
}

fn feed(
    tasks: &Tasks,
    config: &Config,
    (metrics, carried): (XdsMetrics, Option<Carried>),
    readiness: &Readiness,
) -> Result<Feed, AddressError> {
    let control_plane = config.flags.discovery()?;
    let node = Node::ztunnel(&config.flags.node_name, &config.flags.cluster_id);
    let wanted = xds::Config {
        routes: false,
        node,
        scope: Scope::Wildcard,
        carried,
    };
    Ok(xds::start(tasks, control_plane, wanted, metrics, readiness))
}
