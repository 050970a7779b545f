//! A client pod and a server pod on two nodes, with the servers that every path ends at.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path as FilePath;
use std::time::Duration;

use world::{Node, Place, Pod, Process, Program, World};

use super::{ECHO_PORT, ECHO_PORTS, HTTP_PORT, IPERF_PORT, Path};

/// How long a server in a pod may take to answer first.
const SERVER_WITHIN: Duration = Duration::from_secs(10);
/// The kernels of some machines have another default; the same for all.
const CONGESTION_CONTROL: &str = "cubic";
/// Sets it on every route of the pod, loopback's too: the sysctl of a namespace takes only what the
/// host allows to everybody, and the host is not ours. `reno`, which every host allows, is for what
/// goes by routes that are made later, as a capture's to loopback: a default of `bbr` would pace
/// there with a timer for each 64 KiB.
const ROUTES: &str = "echo reno > /proc/sys/net/ipv4/tcp_congestion_control
ip -4 route show table main | while read -r route; do
    ip route replace $route congctl $1
done
ip -4 route show table local type local | while read -r route; do
    ip route replace table local $route congctl $1
done";

/// A client pod on node 1 and a server pod on node 2.
pub(crate) struct Pair {
    pub(super) client: Pod,
    pub(super) server: Pod,
    servers: Vec<Process>,
    outside: Place,
}

/// The two nodes of a world.
pub(crate) fn nodes(world: &mut World) -> anyhow::Result<[Node; 2]> {
    Ok([world.node("node-1")?, world.node("node-2")?])
}

impl Pair {
    /// Pods `client` and `server` of a namespace.
    pub(super) fn new(
        [client_node, server_node]: &[Node; 2],
        namespace: &str,
        world: &World,
    ) -> anyhow::Result<Self> {
        let client = pod(client_node, &format!("{namespace}/client"))?;
        let server = pod(server_node, &format!("{namespace}/server"))?;
        let mut pair = Pair {
            client,
            server,
            servers: Vec::new(),
            outside: world.router().clone(),
        };
        pair.serve(&world.directory().join("nginx"))?;
        Ok(pair)
    }

    /// The way straight to the servers, past proxies that a load does not see.
    pub(super) fn path(&self, name: &str, proxies: Vec<i32>) -> Path {
        Path {
            name: name.to_owned(),
            client: self.client.place().clone(),
            server: self.address(),
            near: None,
            proxies,
            outside: self.outside.clone(),
            tunnels: None,
            counted_by: Vec::new(),
        }
    }

    /// The server's IPv4 address.
    pub(super) fn address(&self) -> IpAddr {
        self.server
            .ipv4()
            .expect("a pod that was added has an address")
    }

    fn serve(&mut self, directory: &FilePath) -> anyhow::Result<()> {
        let iperf = Program::line("iperf3 --server --port").arg(IPERF_PORT.to_string());
        self.servers.push(self.server.start("iperf3", &iperf)?);
        let address = self.address();
        let ports = (0..ECHO_PORTS).map(|index| ECHO_PORT + index);
        let echo = Program::new(std::env::current_exe()?)
            .args(["serve-echo"])
            .args(ports.map(|port| SocketAddr::new(address, port).to_string()));
        self.servers.push(self.server.start("echo", &echo)?);
        fs::create_dir_all(directory)?;
        let config = directory.join("nginx.conf");
        fs::write(&config, nginx(&directory.display().to_string()))?;
        let program = Program::new("nginx")
            .arg("-c")
            .arg(&config)
            .arg("-p")
            .arg(directory);
        let nginx = self.server.start("nginx", &program)?;
        answers(
            self.client.place(),
            &nginx,
            SocketAddr::new(address, HTTP_PORT),
        )?;
        self.servers.push(nginx);
        Ok(())
    }
}

/// Waits until an HTTP server answers a client there; fails when `process` ends.
pub(crate) fn answers(client: &Place, process: &Process, server: SocketAddr) -> anyhow::Result<()> {
    let asked =
        Program::line("curl -sS -o /dev/null -f --max-time 2").arg(format!("http://{server}/"));
    let what = format!("{server} to answer");
    process.wait_until(&what, SERVER_WITHIN, || {
        client.run(&asked).ok().filter(|output| output.ok())
    })?;
    Ok(())
}

/// A pod all of whose connections use [`CONGESTION_CONTROL`].
pub(crate) fn pod(node: &Node, name: &str) -> anyhow::Result<Pod> {
    let pod = node.pod(name)?;
    let program = Program::new("sh").args(["-euc", ROUTES, "sh", CONGESTION_CONTROL]);
    pod.run(&program)?.success()?;
    Ok(pod)
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
