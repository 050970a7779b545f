//! The waypoints of this node: the agent starts the replicas that the control plane gives to it,
//! each in a sandbox of the node's own CNI chain, keeps them running, tells how they are, replaces
//! them one after another, and takes them away again. They outlive the agent, which finds them
//! again by their records.
//!
//! Knows no route and no policy: what a waypoint does is its own affair. It must not capture its
//! sandboxes; the chain's call for one of them is answered without asking who it is.

mod decide;
mod instance;
mod made;
mod manage;
mod orphans;
mod probe;
mod process;
pub mod record;
mod sandbox;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::process::grpc::agent::{PodReport, WaypointReport};
use ::process::tasks::Tasks;
use tokio::sync::watch;

use crate::agent::Reporter;
use crate::agent::control::Control;
use process::Process;
use record::{Record, Store};

/// Where things are, and how a waypoint is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program; None: `waypoint` beside the running one, or in PATH.
    pub binary: Option<PathBuf>,
    /// What every waypoint of the node is told: node, control plane, files.
    pub arguments: Vec<String>,
    /// Directory of the records; made with the first one.
    pub state_dir: PathBuf,
    /// Directory of the node's CNI configuration.
    pub cni_conf_dir: PathBuf,
    /// Directories of CNI plugins, in the order in which they are looked for.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// What the names of network namespaces begin with.
    pub netns_prefix: String,
    /// Directory of cgroup2 below which each gets one of its own.
    pub cgroup: PathBuf,
    /// Directory of log files, one a pod; None: they write where the agent does.
    pub log_dir: Option<PathBuf>,
    /// Time between SIGTERM and SIGKILL.
    pub drain_deadline: Duration,
}

/// The waypoints of the node. Clones are handles.
#[derive(Clone)]
pub struct Waypoints {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    store: Store,
    /// What was found without a record: to be taken away.
    orphans: Vec<Record>,
    shown: Mutex<BTreeMap<String, Shown>>,
}

/// What an instance lets others see of it.
struct Shown {
    record: Record,
    /// Where it is told that it shall end.
    drain: watch::Sender<bool>,
    ips: Vec<IpAddr>,
    /// The proxies were told that it is ready.
    advertised: bool,
    problem: String,
}

/// What instances need of the agent.
#[derive(Clone)]
struct Surroundings {
    waypoints: Waypoints,
    reporter: Reporter,
    tasks: Tasks,
}

impl Waypoints {
    /// With the records that another agent left.
    ///
    /// # Errors
    /// The directory of records is there and cannot be read, or those of cgroups and namespaces.
    pub fn open(settings: Settings) -> io::Result<Self> {
        let store = Store::new(&settings.state_dir);
        let loaded = store.load()?;
        let orphans = orphans::find(&settings, &loaded)?;
        let waypoints = Self {
            inner: Arc::new(Inner {
                settings,
                store,
                orphans,
                shown: Mutex::default(),
            }),
        };
        for mut record in loaded.records {
            // Nobody must be sent to one that ended while no agent ran, as all do in a reboot.
            let cgroup = waypoints.inner.settings.cgroup.join(&record.sandbox);
            let runs = sandbox::netns(&record).is_some() && Process::adopt(&cgroup).is_some();
            record.ready &= runs;
            waypoints.show(record);
        }
        Ok(waypoints)
    }

    /// Takes care of what there is, and follows what there shall be.
    pub fn start(&self, control: Arc<dyn Control>, reporter: Reporter, tasks: &Tasks) {
        let surroundings = Surroundings {
            waypoints: self.clone(),
            reporter,
            tasks: tasks.clone(),
        };
        let (wanted, follows) = watch::channel(None);
        tasks.spawn(
            "waypoint lists",
            manage::follow(control, wanted, tasks.stop()),
        );
        tasks.spawn("waypoints", manage::run(surroundings, follows));
    }

    /// Whether a sandbox is one of a waypoint of ours.
    pub fn owns(&self, container_id: &str) -> bool {
        let shown = self.shown();
        let mut records = shown.values().map(|shown| &shown.record);
        records.any(|record| record.container_id == container_id)
    }

    /// All of them, as the control plane is told.
    pub fn report(&self) -> Vec<PodReport> {
        let report = |shown: &Shown| {
            let record = &shown.record;
            PodReport {
                uid: record.uid.clone(),
                namespace: record.replica.namespace.clone(),
                name: record.name(),
                ips: shown.ips.clone(),
                enrolled: false,
                waypoint: Some(WaypointReport {
                    gateway: record.replica.gateway.clone(),
                    replica: record.replica.replica,
                    revision: record.replica.revision.clone(),
                    ready: record.ready,
                    draining: record.draining,
                    problem: shown.problem.clone(),
                }),
            }
        };
        self.shown().values().map(report).collect()
    }

    /// Makes an instance visible; gives where it is told to end.
    fn show(&self, record: Record) -> watch::Receiver<bool> {
        let (drain, told) = watch::channel(record.draining);
        let shown = Shown {
            ips: sandbox::addresses(&record),
            drain,
            advertised: false,
            problem: String::new(),
            record,
        };
        self.shown().insert(shown.record.uid.clone(), shown);
        told
    }

    fn shown(&self) -> MutexGuard<'_, BTreeMap<String, Shown>> {
        // Nothing that can panic runs under this lock.
        let shown = &self.inner.shown;
        shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
