//! An agent in this process, with a stand-in for the control plane, over the ground of a test.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cni_plugin::agent::control::{Asked, Control};
use cni_plugin::agent::metrics::Metrics;
use cni_plugin::agent::{self, Settings};
use cni_plugin::client::{self, Status};
use cni_plugin::message::{Answer, Failure, PodName, PodStatus, PodVerdict, Request};
use process::grpc::agent::{Described, PodDescription, PodReport};
use process::tasks::{Drained, Tasks};
use prometheus_client::registry::Registry;

use crate::app::App;
use crate::ground::{Bpffs, Network, Space, Tree, unique};

/// Answers as a test wants it, and remembers what it was told.
pub struct FakeControl {
    pub answer: Mutex<Result<Described, String>>,
    pub reports: Mutex<Vec<(Vec<PodReport>, bool)>>,
}

impl FakeControl {
    pub fn enrolling(enrol: bool) -> Described {
        Described::Pod(PodDescription {
            enrol,
            reason: "as the test wants it".into(),
            service_account: "web".into(),
            trust_domain: "cluster.local".into(),
            labels: Default::default(),
        })
    }

    pub fn last_report(&self) -> Vec<PodReport> {
        self.reports
            .lock()
            .unwrap()
            .last()
            .map(|(pods, _)| pods.clone())
            .unwrap_or_default()
    }
}

struct SharedControl(Arc<FakeControl>);

impl Control for SharedControl {
    fn describe<'a>(&'a self, _: &'a PodName) -> Asked<'a, Described> {
        Box::pin(async { self.0.answer.lock().unwrap().clone() })
    }

    fn report<'a>(&'a self, pods: &'a [PodReport], wait: bool) -> Asked<'a, bool> {
        self.0.reports.lock().unwrap().push((pods.to_vec(), wait));
        Box::pin(async { Ok(true) })
    }
}

/// Fields are dropped in this order.
pub struct Rig {
    tasks: Tasks,
    pub control: Arc<FakeControl>,
    pub bpffs: Bpffs,
    pub network: Network,
    pub run: tempfile::TempDir,
    pub tree: Tree,
    pub pod: PodName,
    cgroup_root: PathBuf,
    pub verify_interval: Duration,
    /// This process is the ztunnel, and the other tests of it start programs in its cgroup.
    pub allow_shared_cgroup: bool,
    registry: Registry,
    metrics: Metrics,
}

impl Rig {
    pub async fn start() -> Self {
        // No round but that of the start, which is over.
        Self::verifying(Duration::from_secs(3600)).await
    }

    /// With a connect hook that sees the applications, but not the agent.
    pub async fn start_apart() -> Self {
        let apart = |tree: &Tree| tree.apps.clone();
        Self::build(Duration::from_secs(3600), apart).await
    }

    /// With a connect hook on the very cgroup of the ztunnel.
    pub async fn start_at_ztunnel() -> Self {
        Self::build(Duration::from_secs(3600), Tree::ztunnel).await
    }

    /// With an agent that verifies as often as this.
    pub async fn verifying(verify_interval: Duration) -> Self {
        Self::build(verify_interval, |tree| tree.root().to_owned()).await
    }

    async fn build(verify_interval: Duration, hooked: impl Fn(&Tree) -> PathBuf) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let control = Arc::new(FakeControl {
            answer: Mutex::new(Ok(FakeControl::enrolling(true))),
            reports: Mutex::default(),
        });
        // First: the last user of a tree kills what runs in it, helpers of this test too.
        let tree = Tree::get();
        let rig = Self {
            tasks: Tasks::new(),
            control,
            cgroup_root: hooked(&tree),
            bpffs: Bpffs::mount(),
            network: Network::new(),
            run: tempfile::tempdir().unwrap(),
            tree,
            pod: PodName {
                uid: unique(),
                namespace: "shop".into(),
                name: "web".into(),
            },
            verify_interval,
            allow_shared_cgroup: true,
            registry,
            metrics,
        };
        rig.start_agent().await;
        rig
    }

    async fn start_agent(&self) {
        let settings = Settings {
            node_name: "node-1".into(),
            cni_socket: self.cni_socket(),
            zds_socket: self.zds_socket(),
            bpffs: self.bpffs.path(),
            cgroup_root: self.cgroup_root.clone(),
            state_dir: self.state_dir(),
            verify_interval: self.verify_interval,
            allow_shared_cgroup: self.allow_shared_cgroup,
            waypoints: None,
        };
        let control = Box::new(SharedControl(self.control.clone()));
        let rounds = self.rounds();
        agent::start(settings, control, self.metrics.clone(), &self.tasks)
            .await
            .unwrap();
        // Its first round would repair what a test breaks.
        self.until("the round of the start", |rig| rig.rounds() > rounds)
            .await;
    }

    /// Verifications of all pods that are over, of all agents of this rig.
    fn rounds(&self) -> u64 {
        self.metric("culvert_agent_verification_rounds_total ")
    }

    /// A metric, by all that is before its value; 0 while it is not there.
    pub fn metric(&self, name: &str) -> u64 {
        let metrics = self.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.parse().unwrap())
    }

    pub async fn stop_agent(&mut self) {
        // No longer than it needs.
        let drained = self.tasks.shutdown(Duration::from_secs(60)).await;
        assert_eq!(drained, Drained::default());
        self.tasks = Tasks::new();
    }

    pub async fn restart_agent(&mut self) {
        self.stop_agent().await;
        self.start_agent().await;
    }

    pub fn cni_socket(&self) -> PathBuf {
        self.run.path().join("cni/cni.sock")
    }

    pub fn zds_socket(&self) -> PathBuf {
        self.run.path().join("zds/zds.sock")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.run.path().join("state")
    }

    pub fn pins(&self) -> PathBuf {
        self.bpffs.path().join(&self.pod.uid)
    }

    /// Cookies of the sockets in the pod's slots.
    pub fn slots(&self) -> Vec<Option<u64>> {
        let slots = netio::bpf::SockMap::open(&self.pins().join("listeners")).unwrap();
        (0..6).map(|slot| slots.cookie(slot).unwrap()).collect()
    }

    pub fn ask(&self, request: &Request, space: Option<&Space>) -> Result<(bool, String), Failure> {
        let fd = space.map(|space| std::os::fd::AsFd::as_fd(&space.netns));
        let answer = client::ask(&self.cni_socket(), request, fd, Duration::from_secs(90));
        match answer.unwrap() {
            Answer::Done { enrolled, reason } => Ok((enrolled, reason)),
            Answer::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    pub fn add_request(&self, ips: &[&str]) -> Request {
        Request::Add {
            pod: self.pod.clone(),
            container_id: "sandbox-1".into(),
            netns: self.network.pod.path().display().to_string(),
            ips: ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect(),
            timeout_ms: 30_000,
        }
    }

    /// CNI ADD of the pod.
    pub fn add(&self) -> Result<(bool, String), Failure> {
        let ips = [crate::ground::POD_V4, crate::ground::POD_V6];
        self.ask(&self.add_request(&ips), Some(&self.network.pod))
    }

    pub fn del(&self) {
        self.ask(
            &Request::Del {
                container_id: "sandbox-1".into(),
            },
            None,
        )
        .unwrap();
    }

    pub fn check(&self) -> Result<(bool, String), Failure> {
        self.ask(
            &Request::Check {
                container_id: "sandbox-1".into(),
            },
            None,
        )
    }

    pub fn unenrol(&self) -> Result<(bool, String), Failure> {
        self.ask(
            &Request::Unenrol {
                pod: self.pod.clone(),
            },
            None,
        )
    }

    /// The verdict on the pod.
    pub fn verify(&self, repair: bool) -> PodVerdict {
        let uid = Some(self.pod.uid.clone());
        let wait = Duration::from_secs(90);
        let mut verdicts = client::verify(&self.cni_socket(), uid, repair, wait).unwrap();
        assert_eq!(verdicts.len(), 1);
        verdicts.remove(0)
    }

    /// All metrics as text.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    pub fn status(&self) -> Status {
        client::status(&self.cni_socket(), Duration::from_secs(90)).unwrap()
    }

    pub fn pod_status(&self) -> Option<PodStatus> {
        self.status()
            .pods
            .into_iter()
            .find(|pod| pod.pod == self.pod)
    }

    pub fn phase(&self) -> String {
        self.pod_status().map(|pod| pod.phase).unwrap_or_default()
    }

    /// Waits until a condition holds, a minute at most.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        for _ in 0..3000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{what}: never");
    }

    /// A program in the pod.
    pub fn app(&self) -> App {
        App::start(&self.network.pod.netns, &self.tree.apps)
    }

    /// A program outside of the node.
    pub fn outsider(&self) -> App {
        App::start(&self.network.outside.netns, &self.tree.apps)
    }
}
