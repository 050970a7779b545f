//! The test bed: two nodes with a mesh, and on them an enrolled pair of pods and one that is not.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use world::stack::{Binaries, ControlPlane, wait_ztunnel};
use world::{Node, Pod, Process, Program, World};

use crate::usage;

/// Port of iperf3 in the server pods.
pub(crate) const IPERF_PORT: u16 = 5201;
/// Port of nginx in the server pods.
pub(crate) const HTTP_PORT: u16 = 8080;
/// How long a server in a pod may take to answer first.
const SERVER_WITHIN: Duration = Duration::from_secs(10);

/// Namespace `mesh` is enrolled, `plain` is not.
const MANIFESTS: &str = include_str!("bed.yaml");

/// A client pod on node 1 and a server pod on node 2.
pub(crate) struct Pair {
    client: Pod,
    server: Pod,
    servers: Vec<Process>,
}

/// The whole bed. Dropping it ends all processes and removes the world.
pub struct Bed {
    // In the order of dropping: what runs in the world goes before the world.
    mesh: Pair,
    direct: Pair,
    proxies: Vec<Process>,
    _others: Vec<Process>,
    io: String,
    _world: World,
}

impl Bed {
    /// Brings it up with proxies on the back end `io`.
    ///
    /// # Errors
    /// When a program is missing or does not become ready; the world is removed.
    pub fn new(io: &str) -> anyhow::Result<Self> {
        let mut world = World::new()?;
        let binaries = Binaries::of_this_build()?;
        let manifests = world.directory().join("manifests");
        fs::create_dir_all(&manifests)?;
        fs::write(manifests.join("bed.yaml"), MANIFESTS)?;
        let control = ControlPlane::prepare(&world.host("control")?, &binaries)?;
        let mut others = vec![control.serve(&manifests, &[])?];
        let mut proxies = Vec::new();
        let nodes = [world.node("node-1")?, world.node("node-2")?];
        for node in &nodes {
            others.push(control.start_agent(node)?);
            control.install_chain(node)?;
            let proxy = control.start_ztunnel(node, io, &["--log", "warn"])?;
            wait_ztunnel(node, &proxy)?;
            proxies.push(proxy);
        }
        let mesh = Pair::new(&nodes, "mesh", world.directory())?;
        let direct = Pair::new(&nodes, "plain", world.directory())?;
        Ok(Bed {
            mesh,
            direct,
            proxies,
            _others: others,
            io: io.to_owned(),
            _world: world,
        })
    }

    /// Back end of the proxies, as asked for.
    pub fn io(&self) -> &str {
        &self.io
    }

    pub(crate) fn mesh(&self) -> &Pair {
        &self.mesh
    }

    pub(crate) fn direct(&self) -> &Pair {
        &self.direct
    }

    pub(crate) fn proxies(&self) -> impl Iterator<Item = i32> {
        self.proxies.iter().map(Process::pid)
    }

    /// CPU time that both proxies have used so far.
    pub(crate) fn proxy_cpu(&self) -> anyhow::Result<Duration> {
        self.proxies().map(usage::cpu).sum()
    }
}

impl Pair {
    fn new(nodes: &[Node; 2], namespace: &str, files: &Path) -> anyhow::Result<Self> {
        let [client_node, server_node] = nodes;
        let client = client_node.pod(&format!("{namespace}/client-{namespace}"))?;
        let server = server_node.pod(&format!("{namespace}/server-{namespace}"))?;
        let mut pair = Pair {
            client,
            server,
            servers: Vec::new(),
        };
        pair.serve(&files.join(format!("nginx-{namespace}")))?;
        Ok(pair)
    }

    pub(crate) fn client(&self) -> &Pod {
        &self.client
    }

    /// Text form of the server's IPv4 address.
    pub(crate) fn server_address(&self) -> String {
        self.server
            .ipv4()
            .as_ref()
            .map(IpAddr::to_string)
            .unwrap_or_default()
    }

    fn serve(&mut self, directory: &Path) -> anyhow::Result<()> {
        let iperf = Program::line("iperf3 --server --port").arg(IPERF_PORT.to_string());
        self.servers.push(self.server.start("iperf3", &iperf)?);
        fs::create_dir_all(directory)?;
        let config = directory.join("nginx.conf");
        fs::write(&config, nginx(&directory.display().to_string()))?;
        let program = Program::new("nginx")
            .arg("-c")
            .arg(&config)
            .arg("-p")
            .arg(directory);
        self.servers.push(self.server.start("nginx", &program)?);
        let url = format!("http://{}:{HTTP_PORT}/", self.server_address());
        let asked = Program::line("curl -sS -o /dev/null -f --max-time 2").arg(&url);
        let client = &self.client;
        self.servers[1].wait_until("nginx to answer the client", SERVER_WITHIN, || {
            client.run(&asked).ok().filter(|output| output.ok())
        })?;
        Ok(())
    }
}

/// One worker process, no logs, a body of 1 KB.
fn nginx(directory: &str) -> String {
    let body = "x".repeat(1024);
    format!(
        "daemon off; worker_processes 1; pid {directory}/pid; error_log stderr crit;\n\
         events {{ worker_connections 2048; }}\n\
         http {{ access_log off; keepalive_requests 100000000;\n\
         client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;\n\
         fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;\n\
         scgi_temp_path {directory}/s;\n\
         server {{ listen {HTTP_PORT} backlog=4096; location / {{ return 200 '{body}'; }} }} }}\n"
    )
}
