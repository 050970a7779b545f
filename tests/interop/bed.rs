//! The world of the scenarios: two nodes of ours, a client and a server, Envoy as one waypoint and
//! ours as the other, and a pod in which Envoy stands where ztunnel would.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use cli::demo::manifest::Manifests;
use scenarios::stranger::{Issuers, Validity};
use serde_json::Value;
use world::stack::{Binaries, ControlPlane, wait_waypoint, wait_ztunnel};
use world::{Node, Pod, Process, Program, World};

use crate::envoy::{self, Files, HBONE_PORT};

/// The service whose waypoint is Envoy, and the one whose waypoint is ours.
pub const BEHIND_ENVOY: &str = "10.96.0.11:80";
pub const BEHIND_OURS: &str = "10.96.0.21:80";
/// Ports of Envoy in the stranger's pod: to the service, and to what our waypoint must not serve.
pub const TO_OURS: u16 = 8000;
pub const TO_UNBOUND: u16 = 8001;
/// Port of the server in its pod.
const SERVER_PORT: u16 = 8080;
/// What was started or applied is in force within this, beside other builds too.
const WITHIN: Duration = Duration::from_secs(60);

/// The world. Dropping it removes everything.
pub struct Bed {
    // In the order of dropping: what runs in the world goes before the world.
    _processes: Vec<Process>,
    pub client: Pod,
    pub stranger: Pod,
    pub server: Pod,
    pub envoy: Pod,
    _ours: Pod,
    _nodes: [Node; 2],
    world: World,
}

impl Bed {
    /// Brings it up and waits until both ways answer.
    pub fn up() -> anyhow::Result<Self> {
        let binary = envoy::binary()?;
        let mut world = World::new()?;
        world.save_logs_to(std::env::temp_dir().join("culvert-interop"));
        let binaries = Binaries::of_this_build()?;
        for name in ["waypoint", "echo"] {
            let path = binaries.path(name);
            ensure!(path.is_file(), "{} is not built", path.display());
        }
        let host = world.host("control")?;
        let nodes = [world.node("node-1")?, world.node("node-2")?];
        let manifests = Manifests::empty(world.directory().join("manifests"))?;
        manifests.put("mesh.yaml", include_str!("mesh.yaml"))?;
        let control = ControlPlane::prepare(&host, &binaries)?;
        let mut processes = vec![control.serve(manifests.directory(), &[])?];
        for node in &nodes {
            processes.push(control.start_agent(node)?);
            control.install_chain(node)?;
            let ztunnel = control.start_ztunnel(node, "auto", &[])?;
            wait_ztunnel(node, &ztunnel)?;
            processes.push(ztunnel);
        }
        let pod = |node: usize, name: &str| nodes[node].pod(&format!("shop/{name}"));
        let (client, stranger, envoy) =
            (pod(0, "client")?, pod(0, "stranger")?, pod(0, "envoy-0")?);
        let (server, ours) = (pod(1, "server")?, pod(1, "ours-0")?);
        let echo = Program::new(binaries.path("echo")).arg("server");
        let echo = server.start("echo", &echo)?;
        echo.wait_for_line(&["listening"], WITHIN)?;
        let waypoint = control.start_waypoint(&nodes[1], &ours, "ours", &[])?;
        wait_waypoint(&ours, &waypoint)?;
        processes.extend([echo, waypoint]);
        let mut bed = Bed {
            _processes: processes,
            client,
            stranger,
            server,
            envoy,
            _ours: ours,
            _nodes: nodes,
            world,
        };
        bed.start_envoys(&binary, &control)?;
        Ok(bed)
    }

    fn start_envoys(&mut self, binary: &Path, control: &ControlPlane) -> anyhow::Result<()> {
        let server = SocketAddr::new(self.server.ipv4()?, SERVER_PORT);
        let files = self.files(control, "envoy")?;
        let config = envoy::waypoint(BEHIND_ENVOY.parse()?, server, &files);
        let envoy = self.start_envoy(binary, (&self.envoy, "envoy"), &config)?;
        let files = self.files(control, "stranger")?;
        let ours = SocketAddr::new(self._ours.ipv4()?, HBONE_PORT);
        // The server itself is bound to no waypoint: `istio.io/waypoint-for` is services.
        let ports = [(TO_OURS, BEHIND_OURS.parse()?), (TO_UNBOUND, server)];
        let config = envoy::client(&ports, ours, &files);
        let stranger = self.start_envoy(binary, (&self.stranger, "stranger"), &config)?;
        let ways = [
            (&self.client, format!("http://{BEHIND_ENVOY}/"), &envoy),
            (
                &self.stranger,
                format!("http://127.0.0.1:{TO_OURS}/"),
                &stranger,
            ),
        ];
        for (from, url, process) in ways {
            let asked = Program::line("curl -sS -f -o /dev/null --max-time 5").arg(&url);
            process.wait_until(&format!("{url} to answer"), WITHIN, || {
                from.run(&asked).ok().filter(|output| output.ok())
            })?;
        }
        self._processes.extend([envoy, stranger]);
        Ok(())
    }

    /// A certificate of a service account, as the node of its pod gets it.
    fn files(&self, control: &ControlPlane, account: &str) -> anyhow::Result<Files> {
        let issuers = Issuers {
            place: self._nodes[0].place().clone(),
            token: self._nodes[0].directory().join("token"),
        };
        let identity = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        let own = self.file(&format!("{account}.pem"));
        let issued = issuers.issue(control, &identity, Validity::Day)?;
        issued.shown.save(&own)?;
        let root = control.root_certificate();
        Ok(Files { own, root })
    }

    fn start_envoy(
        &self,
        binary: &Path,
        (pod, name): (&Pod, &str),
        config: &Value,
    ) -> anyhow::Result<Process> {
        let file = self.file(&format!("{name}.json"));
        std::fs::write(&file, serde_json::to_vec_pretty(config)?)?;
        let program = Program::new(binary)
            .args(["--concurrency", "1", "--disable-hot-restart"])
            .args(["--log-level", "warning", "-c"])
            .arg(file);
        Ok(pod.start("envoy", &program)?)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.world.directory().join(name)
    }
}
