//! The world of the waypoint's bench: a client's pod, a server's pod on another node, and between
//! their ztunnels one waypoint after the other, each a program in a pod of its own.
//!
//! Originator (the client's ztunnel) and terminator (the server's) are the same processes on every
//! way. It must not know what is measured.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use anyhow::Context;
use world::stack::{Binaries, ControlPlane, get, wait_ztunnel};
use world::{Node, Pod, Process, Program, World};

use super::envoy::{self, Plan};
use super::manifests::{self, Front};
use super::{H2_PORT, HTTP_PORT, Options};
use crate::bed::{Path, answers, nodes, pod};
use crate::peers::certificates::Certificates;
use crate::peers::envoy::install;

/// Values of our waypoint's `--io`.
const BACK_ENDS: [&str; 2] = ["io_uring", "epoll"];
/// Name of the way without a waypoint.
pub(super) const DIRECT: &str = manifests::DIRECT;
/// How long a waypoint may take to be ready, and to take a request.
const WITHIN: Duration = Duration::from_secs(60);
/// Grace of one that is ended.
const GRACE: Duration = Duration::from_secs(2);
/// Readiness of our waypoint, in its pod.
const READY: &str = "http://127.0.0.1:15021/healthz/ready";

/// Which program is the waypoint.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// Ours on a back end.
    Culvert(String),
    Envoy,
}

/// One waypoint in its pod.
pub(super) struct Waypoint {
    /// `culvert/io_uring`, `culvert/epoll`, `envoy`.
    pub(super) name: String,
    kind: Kind,
    /// Services with few and with many routes.
    pub(super) fronts: [Front; 2],
    /// Whether the many routes are given to it.
    many: bool,
    pod: Pod,
    process: Option<Process>,
}

/// The standing world.
pub(super) struct Bed {
    // In the order of dropping: what runs in the world goes before the world.
    pub(super) waypoints: Vec<Waypoint>,
    /// Those that could not be started, and why.
    pub(super) failed: Vec<(String, String)>,
    pub(super) client: Pod,
    server: Pod,
    _servers: Process,
    _others: Vec<Process>,
    nodes: [Node; 2],
    control: ControlPlane,
    options: Options,
    world: World,
}

impl Bed {
    /// Brings up the mesh and every waypoint that is wanted.
    pub(super) fn new(options: &Options) -> anyhow::Result<Self> {
        let mut world = World::new()?;
        let manifests = world.directory().join("manifests");
        fs::create_dir_all(&manifests)?;
        fs::write(manifests.join("base.yaml"), manifests::base())?;
        let control = ControlPlane::prepare(&world.host("control")?, &Binaries::of_this_build()?)?;
        let mut others = vec![control.serve(&manifests, &[])?];
        let nodes = nodes(&mut world)?;
        for node in &nodes {
            others.push(control.start_agent(node)?);
            control.install_chain(node)?;
            let ztunnel = control.start_ztunnel(node, "auto", &["--log", "warn"])?;
            wait_ztunnel(node, &ztunnel)?;
            others.push(ztunnel);
        }
        let client = pod(&nodes[0], &named("client"))?;
        let server = pod(&nodes[1], &named("server"))?;
        let servers = serve(&server, &world.directory().join("nginx"))?;
        let direct = SocketAddr::new(manifests::address(0, 2), HTTP_PORT);
        answers(client.place(), &servers, direct)?;
        let mut bed = Bed {
            waypoints: Vec::new(),
            failed: Vec::new(),
            client,
            server,
            _servers: servers,
            _others: others,
            nodes,
            control,
            options: options.clone(),
            world,
        };
        bed.add_waypoints();
        Ok(bed)
    }

    fn add_waypoints(&mut self) {
        let ours = BACK_ENDS.map(|io| Kind::Culvert(io.to_owned()));
        let mut kinds = ours.to_vec();
        kinds.push(Kind::Envoy);
        kinds.retain(|kind| self.options.wants(&kind.name()));
        for (index, kind) in (1..).zip(kinds) {
            let name = kind.name();
            match self.add(kind, index) {
                Ok(waypoint) => self.waypoints.push(waypoint),
                Err(why) => {
                    eprintln!("{name}: {why:#}");
                    self.failed.push((name, format!("{why:#}")));
                }
            }
        }
    }

    fn add(&self, kind: Kind, index: u8) -> anyhow::Result<Waypoint> {
        let name = kind.pod();
        let fronts = manifests::fronts(&name, index);
        let manifest = manifests::waypoint(&name, index) + "---\n" + &manifests::routes(&fronts[0]);
        self.put(&name, &manifest)?;
        self.put(&last(&fronts[0]), &manifests::last_route(&fronts[0], 1))?;
        let mut waypoint = Waypoint {
            name: kind.name(),
            kind,
            fronts,
            many: false,
            pod: self.nodes[0].pod(&named(&name))?,
            process: None,
        };
        self.start(&mut waypoint)?;
        Ok(waypoint)
    }

    /// A manifest that culvertd reads; whole at once.
    fn put(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let directory = self.world.directory().join("manifests");
        let draft = self.world.directory().join(format!("{name}.draft"));
        fs::write(&draft, text)?;
        Ok(fs::rename(draft, directory.join(format!("{name}.yaml")))?)
    }

    /// Starts a waypoint afresh, and waits until a request comes through.
    pub(super) fn start(&self, waypoint: &mut Waypoint) -> anyhow::Result<()> {
        if let Some(process) = waypoint.process.take() {
            process.stop(GRACE)?;
        }
        let program = match &waypoint.kind {
            Kind::Culvert(io) => self.culvert(&waypoint.pod, io)?,
            Kind::Envoy => self.envoy(waypoint)?,
        };
        let process = waypoint.pod.start("waypoint", &program)?;
        if waypoint.kind != Kind::Envoy {
            process.wait_until("readiness", WITHIN, || {
                get(waypoint.pod.place(), READY).ok()
            })?;
        }
        let address = waypoint.address(HTTP_PORT);
        process.wait_until(&format!("{address} through it"), WITHIN, || {
            answers(self.client.place(), &process, address).ok()
        })?;
        waypoint.process = Some(process);
        Ok(())
    }

    fn culvert(&self, pod: &Pod, io: &str) -> anyhow::Result<Program> {
        let token = self.nodes[0].directory().join("token");
        let (url, name) = (self.control.url(), &pod.name().name);
        Ok(Program::new(&self.options.waypoint)
            .args(["--gateway", &named(name), "--pod-name", name])
            .args([
                "--pod-namespace",
                manifests::NAMESPACE,
                "--pod-uid",
                pod.uid(),
            ])
            .args(["--service-account", name])
            .args(["--node-name", self.nodes[0].name()])
            .args(["--xds-address", &url, "--ca-address", &url, "--root-cert"])
            .arg(self.control.root_certificate())
            .arg("--token-file")
            .arg(token)
            .args(["--workers", "1", "--io", io, "--log", &self.options.log]))
    }

    fn envoy(&self, waypoint: &Waypoint) -> anyhow::Result<Program> {
        let directory = self.world.directory().join("envoy");
        let root = self.control.root_certificate();
        let state = root.parent().context("the state of culvertd")?;
        let id = format!(
            "spiffe://cluster.local/ns/{}/sa/{}",
            manifests::NAMESPACE,
            waypoint.kind.pod()
        );
        let certificates = Certificates::of_the_mesh(state, &id, &directory)?;
        let config = envoy::config(&Plan {
            fronts: &waypoint.fronts[..1 + usize::from(waypoint.many)],
            server: self.server.ipv4()?,
            certificates: &certificates,
        });
        let file = directory.join("envoy.json");
        fs::write(&file, serde_json::to_vec(&config)?)?;
        Ok(Program::new(install(&self.options.envoy)?)
            .args(["--concurrency", "1", "--disable-hot-restart"])
            .args(["--log-level", "error", "-c"])
            .arg(file))
    }

    /// Gives every waypoint the many routes, and waits until the last of them is in use.
    pub(super) fn give_many(&mut self) -> anyhow::Result<()> {
        let mut waypoints = std::mem::take(&mut self.waypoints);
        let mut given = Vec::new();
        for mut waypoint in waypoints.drain(..) {
            match self.give(&mut waypoint) {
                Ok(()) => given.push(waypoint),
                Err(why) => {
                    eprintln!("{}: {why:#}", waypoint.name);
                    self.failed.push((waypoint.name, format!("{why:#}")));
                }
            }
        }
        self.waypoints = given;
        Ok(())
    }

    fn give(&self, waypoint: &mut Waypoint) -> anyhow::Result<()> {
        let front = waypoint.fronts[1].clone();
        waypoint.many = true;
        if waypoint.kind == Kind::Envoy {
            return self.start(waypoint);
        }
        self.put(&front.name, &manifests::routes(&front))?;
        self.put_version(waypoint, 1)?;
        let last = manifests::paths(front.routes - 1)
            .next()
            .unwrap_or_default();
        let url = format!("http://{}{last}", SocketAddr::new(front.address, HTTP_PORT));
        let process = waypoint.process.as_ref().context("it runs")?;
        let asked = Program::line("curl -sS -o /dev/null -D - --max-time 2").arg(url);
        process.wait_until("the last route to be in use", WITHIN, || {
            let heads = self.client.place().text(&asked).ok()?;
            heads.contains(manifests::VERSION_HEADER).then_some(())
        })?;
        Ok(())
    }

    /// Changes the last of the many routes; it is in force some time after this returns.
    pub(super) fn put_version(&self, waypoint: &Waypoint, version: u64) -> anyhow::Result<()> {
        let front = &waypoint.fronts[1];
        self.put(&last(front), &manifests::last_route(front, version))
    }

    /// The way without a waypoint.
    pub(super) fn direct(&self) -> Path {
        self.way(DIRECT, manifests::address(0, 2), Vec::new())
    }

    /// The way through a waypoint, by its service with few or many routes.
    pub(super) fn through(&self, waypoint: &Waypoint, front: &Front) -> Path {
        let pid = waypoint.process.iter().map(Process::pid).collect();
        self.way(&waypoint.name, front.address, pid)
    }

    fn way(&self, name: &str, address: IpAddr, proxies: Vec<i32>) -> Path {
        let places = [self.client.place(), self.world.router()];
        let mut way = Path::to_service(name, places, address);
        way.proxies = proxies;
        // The client's ztunnel alone: behind a waypoint connections are shared.
        way.counted_by = vec![self.nodes[0].place().clone()];
        way
    }
}

impl Waypoint {
    /// Its service with few routes.
    pub(super) fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.fronts[0].address, port)
    }

    /// Whether it is one of ours.
    pub(super) fn is_culvert(&self) -> bool {
        self.kind != Kind::Envoy
    }

    /// Resident memory of its process in bytes.
    pub(super) fn rss_bytes(&self) -> anyhow::Result<u64> {
        let process = self.process.as_ref().context("it runs")?;
        crate::usage::rss_bytes(process.pid())
    }
}

impl Kind {
    fn name(&self) -> String {
        match self {
            Kind::Culvert(io) => format!("culvert/{io}"),
            Kind::Envoy => "envoy".to_owned(),
        }
    }

    /// Name of pod, service account and gateway.
    fn pod(&self) -> String {
        match self {
            Kind::Culvert(io) => format!("waypoint-{}", io.replace('_', "-")),
            Kind::Envoy => "waypoint-envoy".to_owned(),
        }
    }
}

fn named(name: &str) -> String {
    format!("{}/{name}", manifests::NAMESPACE)
}

/// File of a front's last route.
fn last(front: &Front) -> String {
    format!("{}-last", front.name)
}

/// nginx with one worker: HTTP/1.1 on one port, HTTP/2 without TLS on another, a body of 1 KB.
fn serve(server: &Pod, directory: &FilePath) -> anyhow::Result<Process> {
    fs::create_dir_all(directory)?;
    let here = directory.display();
    let body = "x".repeat(1024);
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {here}/{what};\n"))
        .concat();
    let text = format!(
        "daemon off; worker_processes 1; pid {here}/pid; error_log stderr crit;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s;\n\
         {temporary}\
         server {{ listen {HTTP_PORT} backlog=4096; listen {H2_PORT} http2 backlog=4096;\n\
         location / {{ return 200 '{body}'; }} }} }}\n"
    );
    let file: PathBuf = directory.join("nginx.conf");
    fs::write(&file, text)?;
    let program = Program::new("nginx")
        .arg("-c")
        .arg(&file)
        .arg("-p")
        .arg(directory);
    Ok(server.start("nginx", &program)?)
}
