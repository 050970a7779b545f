//! The node agent: captures the pods that the plugin brings, keeps them captured, hands their
//! listeners to ztunnel, tells the control plane about them, and runs the node's waypoints.
//!
//! What runs here: the calls' socket, the ZDS server, the reporter, one address follower a
//! captured pod, the verification, the sweep for vanished pods, the admin server. All of it is
//! owned by one `Tasks`.

mod call;
pub mod control;
mod describe;
mod enrol;
mod existing;
mod follow;
pub mod metrics;
mod proxies;
pub mod record;
mod recover;
mod release;
mod report;
mod server;
mod slots;
mod table;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netio::cgroup::Cgroup;
use netio::netns::Netns;
use netio::seqpacket::Listener;
use process::tasks::Tasks;
use tokio::time::Instant;

use crate::steering::BpfError;
use crate::steering::hook::Hook;
use crate::waypoint::{self, Waypoints};
use crate::zds::Zds;
use call::Calls;
use control::Control;
use metrics::Metrics;
use proxies::Proxies;
use record::StateDir;
pub(crate) use report::Reporter;
use table::Table;
use verify::Verdicts;

/// How long a socket may be in use: an agent that is just ending still holds it.
const BIND_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two attempts.
const BIND_PAUSE: Duration = Duration::from_millis(50);

/// Where things are.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the node.
    pub node_name: String,
    /// Socket of the plugin and of commands.
    pub cni_socket: PathBuf,
    /// Socket of ztunnel.
    pub zds_socket: PathBuf,
    /// Directory on a bpffs.
    pub bpffs: PathBuf,
    /// Directory of cgroup2 above all pods.
    pub cgroup_root: PathBuf,
    /// Directory of the pods' records.
    pub state_dir: PathBuf,
    /// Pause between two verifications of all captured pods, at least a second.
    pub verify_interval: Duration,
    /// Serve a ztunnel that shares its cgroup: who else is there can escape outbound capture.
    pub allow_shared_cgroup: bool,
    /// How to run waypoints; None: this node runs none.
    pub waypoints: Option<waypoint::Settings>,
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// BPF is not to be had.
    #[error("the connect hook: {0}")]
    Hook(#[from] BpfError),
    /// A socket is not to be had.
    #[error("listening at {0}: {1}")]
    Bind(PathBuf, #[source] io::Error),
    /// State, namespaces or cgroups cannot be read.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

/// The agent's parts.
pub struct Agent {
    settings: Settings,
    hook: Arc<Mutex<Hook>>,
    zds: Zds,
    control: Arc<dyn Control>,
    /// The waypoints that the node runs.
    waypoints: Option<Waypoints>,
    table: Table,
    /// The calls that are capturing a pod.
    calls: Calls,
    state: StateDir,
    reporter: Reporter,
    metrics: Metrics,
    verdicts: Verdicts,
    /// Whether the connect hook sees this process' own sockets.
    hooked: bool,
    tasks: Tasks,
    /// The agent's own namespace.
    home: Netns,
    /// That of process 1, if it can be seen.
    init: Option<Netns>,
}

/// Takes over what is pinned, then serves. Returns when both sockets listen; everything runs in
/// `tasks` until their stop. Pods stay captured after that.
///
/// # Errors
/// [`StartError`]; nothing is served then.
pub async fn start(
    settings: Settings,
    control: Box<dyn Control>,
    metrics: Metrics,
    tasks: &Tasks,
) -> Result<(), StartError> {
    let hook = Hook::attach(
        &settings.bpffs.join(recover::NODE_DIR),
        &settings.cgroup_root,
    )?;
    let hook = Arc::new(Mutex::new(hook));
    let state = StateDir::open(&settings.state_dir)
        .map_err(|e| StartError::Io("the state directory", e))?;
    let (root, shared) = (&settings.cgroup_root, settings.allow_shared_cgroup);
    let proxies = Proxies::new(hook.clone(), root, shared)
        .map_err(|error| StartError::Io("cgroup2", error))?;
    let zds = Zds::new(Box::new(move |pid| proxies.admit(pid)));
    let home = Netns::current()
        .map_err(|error| StartError::Io("the own network namespace", error.into()))?;
    let hooked = is_below(&settings.cgroup_root);
    let (reporter, requests) = Reporter::new();
    let waypoints = settings.waypoints.clone().map(Waypoints::open).transpose();
    let waypoints = waypoints.map_err(|e| StartError::Io("the records of waypoints", e))?;
    let control: Arc<dyn Control> = control.into();
    let agent = Arc::new(Agent {
        settings,
        hook,
        zds,
        control,
        waypoints,
        table: Table::default(),
        calls: Calls::default(),
        state,
        reporter,
        metrics,
        verdicts: Verdicts::default(),
        hooked,
        tasks: tasks.clone(),
        home,
        init: init_netns(),
    });
    recover::all(&agent)
        .await
        .map_err(|error| StartError::Io("what is pinned", error))?;
    let zds_listener = bind(&agent.settings.zds_socket).await?;
    let cni_listener = bind(&agent.settings.cni_socket).await?;
    let stop = tasks.stop();
    tasks.spawn(
        "zds server",
        agent.zds.clone().serve(zds_listener, tasks.clone()),
    );
    tasks.spawn(
        "reports",
        report::run(agent.clone(), requests, stop.clone()),
    );
    let interval = agent.settings.verify_interval;
    tasks.spawn(
        "verification",
        verify::run(agent.clone(), interval, stop.clone()),
    );
    tasks.spawn("listeners' slots", slots::run(agent.clone(), stop.clone()));
    if let Some(waypoints) = &agent.waypoints {
        waypoints.start(agent.control.clone(), agent.reporter.clone(), tasks);
    }
    tasks.spawn("sweep", release::sweep(agent.clone(), stop.clone()));
    tasks.spawn("ztunnel metric", count_ztunnels(agent.clone()));
    tasks.spawn("calls", server::run(agent, cni_listener));
    Ok(())
}

/// A socket that only root may use (directory 0700, socket 0600); who connects is checked again by
/// SO_PEERCRED where the connection is served.
async fn bind(path: &Path) -> Result<Listener, StartError> {
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        match Listener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(BIND_PAUSE).await;
            }
            result => {
                return result.map_err(|error| StartError::Bind(path.to_owned(), error));
            }
        }
    }
}

/// Whether this process runs below the cgroup directory that the hook is attached to.
fn is_below(root: &Path) -> bool {
    let own = Cgroup::mount_point().and_then(|mount| Cgroup::of_pid(&mount, std::process::id()));
    let below = own.is_ok_and(|own| own.path().starts_with(root));
    if !below {
        tracing::warn!(
            root = %root.display(),
            "the agent does not run below --cgroup-root: verification cannot try the connect hook \
             itself, only look at its parts"
        );
    }
    below
}

fn init_netns() -> Option<Netns> {
    match Netns::of_init() {
        Ok(netns) => Some(netns),
        Err(error) => {
            tracing::warn!(%error, "cannot tell the namespace of process 1 from a pod's");
            None
        }
    }
}

async fn count_ztunnels(agent: Arc<Agent>) {
    let mut ready = agent.zds.watch_ready();
    let stop = agent.tasks.stop();
    loop {
        let count = *ready.borrow_and_update();
        agent
            .metrics
            .ztunnels
            .set(i64::try_from(count).unwrap_or(i64::MAX));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = ready.changed() => if changed.is_err() { return },
        }
    }
}

impl Agent {
    fn hook(&self) -> MutexGuard<'_, Hook> {
        // A panic under this lock leaves maps, which are always whole.
        self.hook.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.settings.bpffs.join(uid)
    }

    /// Stops outbound capture of a namespace; a failure is logged and met again by the sweep of
    /// the next start.
    fn withdraw(&self, cookie: u64) {
        if let Err(error) = self.hook().withdraw(cookie) {
            tracing::error!(cookie, %error, "the connect hook still captures a namespace");
        }
    }
}
