//! Two nodes, each with a proxy; the pod `client` on one and `server` on the other; both back ends.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use carrier::limits::Limits;
use mesh::policy::PolicyKey;
use mesh::service::{LoadBalancing, PortMapping, ServiceKey};
use mesh::snapshot::Snapshot;
use mesh::workload::{TunnelProtocol, WorkloadUid};
use mesh::{Identity, NetworkCidr, Policy, Service, Workload};
use netio::Backend;
use netio::socket::Family;
use process::certs::{CertManager, DEFAULT_TTL};
use process::clock::SystemClock;
use process::tasks::Tasks;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use ztunnel::config::DataPath;
use ztunnel::metrics::Metrics;
use ztunnel::pod::{self, Pod, PodUid, Role};
use ztunnel::proxy::{Parts, Proxy};

use crate::ca::Ca;
use crate::journal;
use crate::net::{Net, PATIENCE, PORT, PodNet, Side};

/// Roles and families in the order of the listeners.
pub const PLACES: [(Role, Family); 6] = [
    (Role::Outbound, Family::V4),
    (Role::Outbound, Family::V6),
    (Role::Inbound, Family::V4),
    (Role::Inbound, Family::V6),
    (Role::Hbone, Family::V4),
    (Role::Hbone, Family::V6),
];

/// A node: one proxy.
pub struct Node {
    /// Listeners of the pod that was added last, as its agent keeps them.
    pub handed: Vec<OwnedFd>,
    pub proxy: Proxy,
    metrics: Metrics,
    tasks: Tasks,
}

/// Everything of one test.
pub struct World {
    pub runtime: Runtime,
    pub backend: Backend,
    pub net: Net,
    pub ca: Ca,
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    pub client: PodNet,
    pub server: PodNet,
    /// Serves the client pods.
    pub near: Node,
    /// Serves the server pods.
    pub far: Node,
}

/// Runs a test on both back ends.
pub fn on_both_back_ends(test: impl Fn(World)) {
    for backend in [Backend::Epoll, Backend::IoUring] {
        eprintln!("back end {backend}");
        test(World::new(backend));
    }
}

/// Runs a test on both back ends, with one worker a node and these limits on both.
pub fn limited_on_both_back_ends(limits: Limits, test: impl Fn(World)) {
    for backend in [Backend::Epoll, Backend::IoUring] {
        eprintln!("back end {backend}");
        test(World::with(backend, 1, limits));
    }
}

/// Runs a test on both back ends, with proxies that give applications all the time of a test to
/// close what they close at their deadline.
pub fn patiently_on_both_back_ends(test: impl Fn(World)) {
    for backend in [Backend::Epoll, Backend::IoUring] {
        eprintln!("back end {backend}");
        let close_wait = PATIENCE;
        let config = DataPath {
            close_wait,
            ..config()
        };
        test(World::under(Ca::new(), backend, 2, config));
    }
}

impl World {
    pub fn new(backend: Backend) -> Self {
        Self::with(backend, 2, Limits::default())
    }

    pub fn with(backend: Backend, workers: usize, limits: Limits) -> Self {
        let config = DataPath { limits, ..config() };
        Self::under(Ca::new(), backend, workers, config)
    }

    /// With that authority and configuration.
    pub fn under(ca: Ca, backend: Backend, workers: usize, config: DataPath) -> Self {
        journal::open();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut net = Net::new();
        let (client, server) = (net.pod("client", 1), net.pod("server", 2));
        let mut snapshot = Snapshot::new();
        snapshot.insert_workload(workload("client", &client, TunnelProtocol::Hbone));
        snapshot.insert_workload(workload("server", &server, TunnelProtocol::Hbone));
        snapshot.set_addresses_synced();
        snapshot.set_policies_synced();
        let snapshots = watch::Sender::new(Arc::new(snapshot));
        let _context = runtime.enter();
        let node = || {
            let at = (backend, workers);
            Node::start(at, config.clone(), snapshots.subscribe(), &ca)
        };
        let (mut near, mut far) = (node(), node());
        runtime.block_on(async {
            near.add("client", &client).await;
            far.add("server", &server).await;
        });
        drop(_context);
        Self {
            runtime,
            backend,
            net,
            ca,
            snapshots,
            client,
            server,
            near,
            far,
        }
    }

    /// One pod more on the client's node.
    pub fn near_pod(&mut self, name: &str, host: u8) -> PodNet {
        let pod = self.net.pod(name, host);
        self.push(|s| s.insert_workload(workload(name, &pod, TunnelProtocol::Hbone)));
        self.runtime.block_on(self.near.add(name, &pod));
        pod
    }

    /// Pushes a changed snapshot to both nodes.
    pub fn push(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots
            .send_modify(|snapshot| change(Arc::make_mut(snapshot)));
        self.settle();
    }

    /// Workers take a push at their next turn. One that was asked after the push, and has answered,
    /// may answer first in that turn; by its next answers it has taken the push.
    pub fn settle(&self) {
        self.runtime.block_on(async {
            for node in [&self.near, &self.far] {
                for _ in 0..3 {
                    node.proxy.workers.dump().await;
                }
            }
        });
    }

    /// Pushes a policy.
    pub fn push_policy(&self, policy: Policy) {
        self.push(|snapshot| snapshot.insert_policy(policy));
    }

    /// Drains both proxies, one after the other.
    pub fn stop(self) {
        let Self {
            runtime, near, far, ..
        } = self;
        runtime.block_on(async {
            near.stop().await;
            far.stop().await;
        });
    }
}

impl Node {
    pub fn start(
        (backend, workers): (Backend, usize),
        config: DataPath,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        ca: &Ca,
    ) -> Self {
        let tasks = Tasks::new();
        let authority = Arc::new(ca.clone());
        let certificates =
            CertManager::start(&tasks, authority, Arc::new(SystemClock), DEFAULT_TTL);
        let metrics = Metrics::default();
        let parts = Parts {
            backend,
            workers,
            config,
            snapshots,
            open: watch::channel(true).1,
            certificates,
            metrics: metrics.clone(),
        };
        Self {
            handed: Vec::new(),
            metrics,
            proxy: Proxy::start(parts, &tasks).unwrap(),
            tasks,
        }
    }

    pub async fn add(&mut self, name: &str, net: &PodNet) {
        self.add_with(name, net, listeners(net)).await;
    }

    pub async fn add_with(&mut self, name: &str, net: &PodNet, listeners: Vec<OwnedFd>) {
        let copy = |listener: &OwnedFd| listener.try_clone().unwrap();
        self.handed = listeners.iter().map(copy).collect();
        self.proxy
            .pods
            .add(pod(name, net, listeners))
            .await
            .unwrap();
    }

    /// Sum of all counters whose line begins like that.
    pub fn counted(&self, line: &str) -> u64 {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let values = text.lines().filter(|it| it.starts_with(line));
        let value = |it: &str| it.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        values.map(value).sum()
    }

    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Drains.
    pub async fn stop(self) {
        self.stop_within(config().termination_deadline).await;
    }

    /// Drains, for that long at most.
    pub async fn stop_within(self, deadline: Duration) {
        let Self { proxy, tasks, .. } = self;
        let Proxy {
            pods,
            workers,
            mut threads,
            ..
        } = proxy;
        workers.drain(deadline).await;
        while let Some(ended) = threads.next().await {
            ended.unwrap();
        }
        drop(pods);
        let drained = tasks.shutdown(PATIENCE).await;
        assert!(drained.stuck.is_empty(), "{drained:?}");
    }
}

pub fn config() -> DataPath {
    DataPath {
        network: "".into(),
        cluster: "Kubernetes".into(),
        trust_domain: "cluster.local".into(),
        termination_deadline: Duration::from_millis(500),
        close_wait: Duration::from_secs(1),
        tunnel_idle: Duration::from_secs(300),
        limits: Limits::default(),
    }
}

/// Six listeners as an agent would hand them, and the server's own port left free.
pub fn listeners(net: &PodNet) -> Vec<OwnedFd> {
    let listen = |(role, family)| {
        let ipv6 = family == Family::V6;
        let (port, side) = match role {
            // The tests' clients connect to PORT everywhere; a server pod makes no connections.
            Role::Outbound if net.is_captured_inbound() => (PORT + 1, Side::Any),
            Role::Outbound => (PORT, Side::Any),
            Role::Inbound => (PORT, Side::Eth0),
            Role::Hbone => (15008, Side::Any),
        };
        net.listen(ipv6, port, side).into()
    };
    PLACES.into_iter().map(listen).collect()
}

fn pod(name: &str, net: &PodNet, listeners: Vec<OwnedFd>) -> Pod {
    Pod {
        uid: PodUid(format!("uid-{name}").into()),
        name: name.into(),
        namespace: "shop".into(),
        identity: identity(name),
        workload: uid(name),
        netns: net.netns.clone(),
        listeners: pod::check_listeners(&net.netns, &PLACES, listeners).unwrap(),
    }
}

/// Each pod has a service account of its name.
pub fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name).unwrap()
}

pub fn uid(name: &str) -> WorkloadUid {
    WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into())
}

pub fn workload(name: &str, net: &PodNet, tunnel: TunnelProtocol) -> Workload {
    workload_at(name, &[net.v4.into(), net.v6.into()], tunnel)
}

pub fn workload_at(name: &str, addresses: &[IpAddr], tunnel: TunnelProtocol) -> Workload {
    let empty: Arc<str> = "".into();
    Workload {
        uid: uid(name),
        name: name.into(),
        addresses: addresses.to_vec().into(),
        node: empty.clone(),
        health: mesh::workload::Health::Healthy,
        common: Arc::new(mesh::workload::Common {
            namespace: "shop".into(),
            hostname: empty.clone(),
            network: empty.clone(),
            tunnel,
            trust_domain: "cluster.local".into(),
            service_account: name.into(),
            waypoint: None,
            network_gateway: None,
            canonical_name: name.into(),
            canonical_revision: "latest".into(),
            kind: mesh::workload::WorkloadKind::Pod,
            workload_name: name.into(),
            native_tunnel: false,
            application_tunnel: None,
            services: BTreeMap::new(),
            policies: Vec::new(),
            cluster: "Kubernetes".into(),
            locality: mesh::workload::Locality::default(),
            network_mode: mesh::workload::NetworkMode::Standard,
            capacity: 1,
            derived: Default::default(),
        }),
    }
}

/// The service `web` at 10.96.0.10.
pub fn service() -> (Service, SocketAddr) {
    let address = SocketAddr::new([10, 96, 0, 10].into(), PORT);
    let port = PortMapping {
        service_port: PORT,
        target_port: PORT,
        protocol: mesh::service::AppProtocol::Unknown,
    };
    let service = Service {
        key: service_key(),
        name: "web".into(),
        addresses: vec![NetworkCidr::new("", address.ip(), 32).unwrap()],
        ports: vec![port],
        subject_alt_names: Vec::new(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
        load_balancing: LoadBalancing::default(),
        ip_families: mesh::service::IpFamilies::Automatic,
        canonical: false,
        ingress_use_waypoint: false,
        visibility: mesh::service::Visibility::Public,
    };
    (service, address)
}

pub fn service_key() -> ServiceKey {
    ServiceKey {
        namespace: "shop".into(),
        hostname: "web.shop.svc.cluster.local".into(),
    }
}

/// An endpoint of [`service`].
pub fn endpoint_of_service(mut workload: Workload) -> Workload {
    let (service, _) = service();
    workload.services.insert(service.key, service.ports);
    workload
}

pub fn policy_key(name: &str) -> PolicyKey {
    PolicyKey {
        namespace: "shop".into(),
        name: name.into(),
    }
}
