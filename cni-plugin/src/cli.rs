//! The command line: the agent, and what is asked of a running one.
//!
//! Parses, starts, prints; decides nothing.

mod verdict;
mod waypoint;

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use process::admin;
use process::config::duration;
use process::grpc::agent::AgentClient;
use process::grpc::{ControlPlane, Settings};
use process::tasks::{Tasks, terminated};
use process::telemetry::{self, Format};
use prometheus_client::registry::Registry;

use crate::agent;
use crate::agent::metrics::Metrics;
use crate::client;
use crate::install::{self, Change, Target};
use crate::message::{Answer, PodName, Request};
use crate::plugin::netconf::DEFAULT_AGENT_SOCKET;

/// Threads of the agent's runtime: it waits nearly always.
const AGENT_THREADS: usize = 2;
/// How long the agent's tasks may take to end. Pods stay captured without them.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// How much longer than the agent a command waits.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// CNI plugin and node agent of the Culvert mesh.
///
/// Called with CNI_COMMAND set, as runtimes do, it is the plugin.
#[derive(Debug, Parser)]
#[command(name = "culvert-cni", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node agent.
    Agent(Box<AgentArgs>),
    /// Capture a running pod.
    Enrol(EnrolArgs),
    /// Let a running pod go; its captured connections stay.
    Unenrol(PodArgs),
    /// What the agent knows, as JSON.
    Status(SocketArgs),
    /// Try whether the connections of enrolled pods are captured; exit code 1 when any is not.
    Verify(VerifyArgs),
    /// Put the plugin into the node's CNI configuration.
    Install(InstallArgs),
    /// Take the plugin out of the node's CNI configuration.
    Uninstall(InstallArgs),
}

#[derive(Debug, Args)]
struct AgentArgs {
    /// Name of this node.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// The control plane: https://IP:PORT.
    #[arg(long, env = "CONTROL_PLANE_ADDRESS")]
    control_plane: String,
    /// Root certificates that the control plane is checked against.
    #[arg(long, default_value = "/var/run/secrets/culvert/root.pem")]
    root_cert: PathBuf,
    /// File with this node's token.
    #[arg(long, default_value = "/var/run/secrets/culvert/token")]
    token_file: PathBuf,
    /// Socket for the plugin and for commands.
    #[arg(long, default_value = DEFAULT_AGENT_SOCKET)]
    cni_socket: PathBuf,
    /// Socket for ztunnel.
    #[arg(long, default_value = "/var/run/ztunnel/ztunnel.sock")]
    zds_socket: PathBuf,
    /// Directory on a mounted bpffs.
    #[arg(long, default_value = "/sys/fs/bpf/culvert")]
    bpffs: PathBuf,
    /// Directory of cgroup2 above all pods and the ztunnel.
    #[arg(long, default_value = "/sys/fs/cgroup")]
    cgroup_root: PathBuf,
    /// Directory of the pods' records [default: `pods` beside the CNI socket].
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Pause between two verifications of all captured pods.
    #[arg(long, default_value = "5m", value_parser = duration)]
    verify_interval: Duration,
    /// Serve a ztunnel whose cgroup has other processes too, or is the root: these can then escape
    /// outbound capture.
    #[arg(long)]
    allow_shared_cgroup: bool,
    #[command(flatten)]
    waypoints: waypoint::WaypointArgs,
    /// Where metrics, readiness and the log level are served.
    #[arg(long, default_value = "127.0.0.1:15010")]
    admin_addr: SocketAddr,
    /// Log level, or tracing directives.
    #[arg(long, default_value = "info", env = "RUST_LOG")]
    log: String,
    /// Log format.
    #[arg(long, value_enum, default_value = "plain", env = "LOG_FORMAT")]
    log_format: Format,
}

#[derive(Debug, Args)]
struct SocketArgs {
    /// The agent's socket.
    #[arg(long, default_value = DEFAULT_AGENT_SOCKET)]
    socket: PathBuf,
    /// How long to wait for the agent.
    #[arg(long, default_value = "30s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    #[command(flatten)]
    agent: SocketArgs,
    /// Kubernetes UID of the only pod to verify [default: all that are enrolled].
    #[arg(long)]
    pod: Option<String>,
    /// Put right what is broken, as the agent does by itself at its next round.
    #[arg(long)]
    repair: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct PodArgs {
    #[command(flatten)]
    agent: SocketArgs,
    /// Namespace of the pod.
    #[arg(long)]
    namespace: String,
    /// Name of the pod.
    #[arg(long)]
    name: String,
    /// Kubernetes UID of the pod.
    #[arg(long)]
    uid: String,
    /// Path of its network namespace (enrol only).
    #[arg(long)]
    netns: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct EnrolArgs {
    #[command(flatten)]
    pod: PodArgs,
    /// Close the connections that the pod has with other hosts; without this they go on past the
    /// proxy, in plaintext, until they end.
    #[arg(long)]
    close_existing: bool,
}

#[derive(Debug, Args)]
struct InstallArgs {
    /// The runtime's configuration directory.
    #[arg(long, default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// The configuration in it [default: the first by name, as runtimes choose].
    #[arg(long)]
    conf_name: Option<String>,
    /// The runtime's plugin directory.
    #[arg(long, default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The agent's socket.
    #[arg(long, default_value = DEFAULT_AGENT_SOCKET)]
    agent_socket: PathBuf,
    /// Namespace whose pods never ask the agent; may be repeated.
    #[arg(long = "exclude-namespace")]
    exclude_namespaces: Vec<String>,
}

/// Runs the command line of this process; gives the exit code.
pub fn main() -> i32 {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Agent(args) => run_agent(*args),
        Command::Enrol(args) => enrol(&args),
        Command::Unenrol(args) => unenrol(&args),
        Command::Status(args) => status(&args),
        Command::Verify(args) => verify(args),
        Command::Install(args) => args.target().and_then(|target| {
            let change = install::install(&target)?;
            tell(&describe(change, "installed", &target))
        }),
        Command::Uninstall(args) => args.target().and_then(|target| {
            let change = install::uninstall(&target)?;
            tell(&describe(change, "uninstalled", &target))
        }),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            // A closed stderr leaves the exit code.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("culvert-cni: {error:#}\n").as_bytes(),
            );
            1
        }
    }
}

fn tell(text: &str) -> anyhow::Result<()> {
    std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes())
        .context("stdout")
}

fn describe(change: Change, done: &str, target: &Target) -> String {
    let dir = target.conf_dir.display();
    match change {
        Change::Done => format!("{done}: {dir}"),
        Change::Nothing => format!("nothing to do: {dir}"),
        Change::EntryRemoved => {
            format!("{dir} was changed since the installation: only our entry was taken out")
        }
    }
}

impl InstallArgs {
    fn target(self) -> anyhow::Result<Target> {
        Ok(Target {
            conf_dir: self.conf_dir,
            conf_name: self.conf_name,
            bin_dir: self.bin_dir,
            agent_socket: self.agent_socket,
            exclude_namespaces: self.exclude_namespaces,
            program: std::env::current_exe().context("the running program")?,
        })
    }
}

impl PodArgs {
    fn pod(&self) -> PodName {
        PodName {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    fn ask(&self, request: &Request, netns: Option<&File>) -> anyhow::Result<()> {
        let fd = netns.map(AsFd::as_fd);
        let wait = self.agent.timeout + ANSWER_MARGIN;
        let answer = client::ask(&self.agent.socket, request, fd, wait)
            .with_context(|| format!("the agent at {}", self.agent.socket.display()))?;
        match answer {
            Answer::Done { enrolled, reason } => {
                let state = if enrolled { "enrolled" } else { "not enrolled" };
                tell(&format!(
                    "{}/{}: {state} ({reason})",
                    self.namespace, self.name
                ))
            }
            Answer::Failed(failure) => {
                anyhow::bail!(
                    "{} [code {}] {}",
                    failure.msg,
                    failure.code,
                    failure.details
                )
            }
            other => anyhow::bail!("unexpected answer {other:?}"),
        }
    }
}

fn enrol(args: &EnrolArgs) -> anyhow::Result<()> {
    let close_existing = args.close_existing;
    let args = &args.pod;
    let path = args.netns.as_ref().context("--netns is needed")?;
    let netns = File::open(path).with_context(|| path.display().to_string())?;
    let request = Request::Enrol {
        pod: args.pod(),
        netns: path.display().to_string(),
        timeout_ms: u64::try_from(args.agent.timeout.as_millis()).unwrap_or(u64::MAX),
        close_existing,
    };
    args.ask(&request, Some(&netns))
}

fn unenrol(args: &PodArgs) -> anyhow::Result<()> {
    args.ask(&Request::Unenrol { pod: args.pod() }, None)
}

fn status(args: &SocketArgs) -> anyhow::Result<()> {
    let status = client::status(&args.socket, args.timeout)
        .with_context(|| format!("the agent at {}", args.socket.display()))?;
    tell(&serde_json::to_string_pretty(&status)?)
}

fn verify(args: VerifyArgs) -> anyhow::Result<()> {
    let verdicts = client::verify(
        &args.agent.socket,
        args.pod,
        args.repair,
        args.agent.timeout,
    )
    .with_context(|| format!("the agent at {}", args.agent.socket.display()))?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&verdicts)?,
        false => verdict::table(&verdicts),
    };
    tell(&text)?;
    let broken = verdicts.iter().filter(|verdict| !verdict.captured).count();
    anyhow::ensure!(
        broken == 0,
        "{broken} of {} pods not captured",
        verdicts.len()
    );
    Ok(())
}

fn run_agent(args: AgentArgs) -> anyhow::Result<()> {
    let log = telemetry::init(&args.log, args.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(AGENT_THREADS)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(agent_until_signal(args, log))
}

async fn agent_until_signal(args: AgentArgs, log: telemetry::LogControl) -> anyhow::Result<()> {
    let signalled = terminated().context("signal handlers")?;
    let tasks = Tasks::new();
    let mut registry = Registry::default();
    process::metrics::register_build(&mut registry, "culvert-cni", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(&mut registry);
    let readiness = admin::Readiness::new();
    let started = readiness.condition("agent", "taking over what is pinned");
    let routes = admin::metrics(Arc::new(registry))
        .merge(admin::readiness(readiness))
        .merge(admin::logging(log));
    admin::serve(&tasks, "admin", args.admin_addr, routes)?;
    let settings = Settings::new(
        &args.control_plane,
        &args.root_cert,
        Some(args.token_file.as_path()),
    );
    let control = AgentClient::new(ControlPlane::new(settings)?);
    let node = args.node_name.clone();
    agent::start(args.settings(), Box::new(control), metrics, &tasks).await?;
    started.met();
    tracing::info!(node, "the agent serves; pods stay captured when it stops");
    let result = tokio::select! {
        signal = signalled => {
            tracing::info!(signal, "stopping; captured pods stay captured");
            Ok(())
        }
        failure = tasks.failed() => Err(failure.into()),
    };
    tasks.shutdown(STOP_GRACE).await;
    result
}

impl AgentArgs {
    fn settings(self) -> agent::Settings {
        let beside = self
            .cni_socket
            .parent()
            .unwrap_or(std::path::Path::new("/"))
            .join("pods");
        let waypoints = Some(self.waypoints.settings(&self));
        agent::Settings {
            node_name: self.node_name,
            cni_socket: self.cni_socket,
            zds_socket: self.zds_socket,
            bpffs: self.bpffs,
            cgroup_root: self.cgroup_root,
            state_dir: self.state_dir.unwrap_or(beside),
            verify_interval: self.verify_interval,
            allow_shared_cgroup: self.allow_shared_cgroup,
            waypoints,
        }
    }
}
