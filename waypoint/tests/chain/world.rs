//! A waypoint, a client's proxy, and proxies of endpoints; both back ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use carrier::limits::Limits;
use mesh::address::HBONE_PORT;
use mesh::route::{Book, GatewayKey};
use mesh::service::{
    AppProtocol, GatewayAddress, GatewayDestination, LoadBalancing, PortMapping, ServiceKey,
};
use mesh::snapshot::Snapshot;
use mesh::workload::{Common, Health, Locality, TunnelProtocol, WorkloadUid};
use mesh::{Identity, NetworkCidr, Service, Workload};
use netio::Backend;
use netio::netns::Netns;
use process::certs::{CertManager, DEFAULT_TTL};
use process::clock::SystemClock;
use process::tasks::Tasks;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use waypoint::config::DataPath;
use waypoint::metrics::Metrics;
use waypoint::proxy::{Parts, Proxy};

use crate::ca::Ca;
use crate::net::{PORT, ip, listen, namespace};
use crate::peer::{Client, Server};
use crate::{journal, net};

/// Everything of one test.
pub struct World {
    pub runtime: Runtime,
    pub backend: Backend,
    pub netns: Netns,
    pub ca: Ca,
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    pub books: watch::Sender<Arc<Book>>,
    pub client: Client,
    pub proxy: Proxy,
    metrics: Metrics,
    tasks: Tasks,
}

/// Runs a test on both back ends.
pub fn on_both_back_ends(test: impl Fn(&mut World)) {
    with_limits(&Limits::default(), test);
}

/// The same with a waypoint of these limits.
pub fn with_limits(limits: &Limits, test: impl Fn(&mut World)) {
    for backend in [Backend::Epoll, Backend::IoUring] {
        eprintln!("back end {backend}");
        let mut world = World::new(backend, limits);
        test(&mut world);
        world.end();
    }
}

impl World {
    fn new(backend: Backend, limits: &Limits) -> Self {
        journal::open();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (netns, ca, tasks) = (namespace(), Ca::new(), Tasks::new());
        let snapshots = watch::Sender::new(Arc::new(shop()));
        let books = watch::Sender::new(Arc::new(Book::default()));
        let authority = Arc::new(ca.clone());
        let _context = runtime.enter();
        let config = DataPath {
            gateway: gateway_key(),
            workload: uid("waypoint"),
            identity: identity("waypoint"),
            drain_deadline: net::PATIENCE,
            tunnel_idle: Duration::from_secs(300),
            limits: *limits,
        };
        let metrics = Metrics::default();
        let parts = Parts {
            backend,
            workers: 2,
            config,
            listener: listen(&netns, SocketAddr::new(ip(9), HBONE_PORT)),
            netns: netns.clone(),
            snapshots: snapshots.subscribe(),
            books: books.subscribe(),
            open: watch::Sender::new(true).subscribe(),
            certificates: CertManager::start(&tasks, authority, Arc::new(SystemClock), DEFAULT_TTL),
            tracing: None,
            metrics: metrics.clone(),
        };
        let proxy = Proxy::start(parts, &tasks).unwrap();
        drop(_context);
        let client = Client::start(backend, &netns, &ca, "client");
        Self {
            runtime,
            backend,
            netns,
            ca,
            snapshots,
            books,
            client,
            metrics,
            proxy,
            tasks,
        }
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

    /// The proxy of the endpoint with that name and address.
    pub fn server(&self, name: &str, host: u8) -> Server {
        Server::start(self.backend, &self.netns, &self.ca, (name, host))
    }

    /// Changes what discovery says.
    pub fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots
            .send_modify(|snapshot| change(Arc::make_mut(snapshot)));
        self.settle();
    }

    /// Changes routes and policies.
    pub fn write(&self, change: impl FnOnce(&mut Book)) {
        self.books.send_modify(|book| change(Arc::make_mut(book)));
    }

    /// Workers take a change at their next turn. One that was asked after it may answer first in
    /// that turn; by its next answers it has taken the change.
    pub fn settle(&self) {
        self.runtime.block_on(async {
            for _ in 0..3 {
                self.proxy.workers.dump().await;
            }
        });
    }

    /// Drains, and fails unless the workers end.
    pub fn end(mut self) {
        self.runtime.block_on(async {
            self.proxy.workers.drain(Duration::ZERO).await;
            while let Some(ended) = self.proxy.threads.next().await {
                ended.unwrap();
            }
            self.tasks.shutdown(Duration::from_secs(5)).await;
        });
    }
}

pub fn gateway_key() -> GatewayKey {
    GatewayKey {
        namespace: "shop".into(),
        name: "waypoint".into(),
    }
}

pub fn identity(name: &str) -> Identity {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    Identity::new("cluster.local", namespace, name).unwrap()
}

pub fn uid(name: &str) -> WorkloadUid {
    WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into())
}

pub fn key(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: "shop".into(),
        hostname: format!("{name}.shop.svc.cluster.local").into(),
    }
}

/// A service `shop/<name>` behind the waypoint: port 80 leads to the applications.
pub fn service(name: &str, host: u8, protocol: AppProtocol) -> Service {
    let vip = NetworkCidr::new("", [10, 96, 0, host].into(), 32);
    Service {
        key: key(name),
        name: name.into(),
        addresses: vec![vip.unwrap()],
        ports: vec![PortMapping {
            service_port: 80,
            target_port: PORT,
            protocol,
        }],
        subject_alt_names: vec![],
        waypoint: Some(GatewayAddress {
            destination: GatewayDestination::Hostname(key("waypoint")),
            hbone_mtls_port: HBONE_PORT,
        }),
        weighted_waypoints: vec![],
        load_balancing: LoadBalancing::default(),
        ip_families: mesh::service::IpFamilies::Automatic,
        canonical: false,
        ingress_use_waypoint: false,
        visibility: mesh::service::Visibility::Public,
    }
}

/// A pod of these services.
pub fn pod(name: &str, host: u8, services: &[&str]) -> Workload {
    let services = services.iter().map(|name| (key(name), vec![]));
    Workload {
        uid: uid(name),
        name: name.into(),
        addresses: vec![ip(host)].into(),
        node: "n1".into(),
        health: Health::Healthy,
        common: Arc::new(Common {
            namespace: "shop".into(),
            hostname: "".into(),
            network: "".into(),
            tunnel: TunnelProtocol::Hbone,
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
            services: services.collect::<BTreeMap<_, _>>(),
            policies: vec![],
            cluster: "Kubernetes".into(),
            locality: Locality::default(),
            network_mode: mesh::workload::NetworkMode::Standard,
            capacity: 1,
            derived: Default::default(),
        }),
    }
}

/// `tcp`, `http` and `any` by what their ports say, all of the pods v1 and v2; and a service that
/// has no waypoint.
fn shop() -> Snapshot {
    let mut snapshot = Snapshot::new();
    let mut bare = service("bare", 9, AppProtocol::Unknown);
    bare.waypoint = None;
    for service in [
        service("tcp", 1, AppProtocol::Tcp),
        service("http", 2, AppProtocol::Http11),
        service("any", 3, AppProtocol::Unknown),
        service("v2", 4, AppProtocol::Tcp),
        bare,
    ] {
        snapshot.insert_service(service);
    }
    for workload in [
        pod("waypoint", 9, &["waypoint"]),
        pod("client", 1, &[]),
        pod("v1", 2, &["tcp", "http", "any", "bare"]),
        pod("v2", 3, &["v2"]),
    ] {
        snapshot.insert_workload(workload);
    }
    snapshot.set_addresses_synced();
    snapshot.set_policies_synced();
    snapshot
}

/// What the tests' services are addressed by.
pub const TCP: &str = "10.96.0.1:80";
pub const HTTP: &str = "10.96.0.2:80";
pub const ANY: &str = "10.96.0.3:80";
