//! Two nodes with agents that run waypoints, a client and a server; what the agents and the control
//! plane say of waypoints, and what is really there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use cli::demo::manifest::Manifests;
use netio::cgroup::Cgroup;
use serde::Deserialize;
use serde_json::Value;
use world::stack::{Binaries, ControlPlane, get, wait_agent, wait_ztunnel};
use world::{Node, Pod, Process, World};

/// Where culvertd says what it knows, on its machine.
const STATUS: &str = "http://127.0.0.1:15014/debug/status";
/// Everything that is waited for: two busy cores, and reports of 5 s that wait for proxies.
const WITHIN: Duration = Duration::from_secs(90);
/// Between SIGTERM and SIGKILL; the scenarios' longest request takes a fraction of it.
const DRAIN: &str = "10s";

/// File of the Gateway in the manifests.
pub const GATEWAY: &str = "60-gate.yaml";

const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-1, serviceAccountName: client}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node-2, serviceAccountName: web}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: gate}}
spec:
  clusterIP: 10.96.0.80
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]
";

/// A node and its processes.
pub struct Part {
    pub node: Node,
    pub agent: Option<Process>,
    pub ztunnel: Process,
}

pub struct Bed {
    // In the order of dropping.
    pub servers: Vec<Process>,
    _culvertd: Process,
    pub parts: [Part; 2],
    pub client: Pod,
    pub web: Pod,
    pub control: ControlPlane,
    pub manifests: Manifests,
    pub world: World,
    pub binaries: Binaries,
}

/// A waypoint as culvertd knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    #[serde(default)]
    pub node: String,
    pub pod: String,
    pub ips: Vec<std::net::IpAddr>,
    pub enrolled: bool,
    pub waypoint: Option<Word>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Word {
    pub replica: u32,
    pub ready: bool,
    pub draining: bool,
    pub problem: String,
}

/// A waypoint as its node has it.
#[derive(Clone, Debug)]
pub struct Real {
    pub node: usize,
    pub name: String,
    pub sandbox: String,
    pub container_id: String,
    pub pids: Vec<u32>,
}

impl Told {
    pub fn serves(&self) -> bool {
        let word = self.waypoint.as_ref();
        word.is_some_and(|word| word.ready && !word.draining)
    }
}

impl Bed {
    pub fn up() -> anyhow::Result<Self> {
        world::remove_leftovers(world::Leftovers::Abandoned)?;
        let mut world = World::new()?;
        let logs = format!("culvert-waypoints-{}", std::process::id());
        world.save_logs_to(std::env::temp_dir().join(logs));
        let binaries = Binaries::of_this_build()?;
        let control = ControlPlane::prepare(&world.host("control")?, &binaries)?;
        let manifests = Manifests::empty(world.directory().join("manifests"))?;
        manifests.put("10-mesh.yaml", MESH)?;
        let culvertd = control.serve(manifests.directory(), &[])?;
        put_program(&program(&world), include_bytes!("stand_in.py"))?;
        let [one, two] = [world.node("node-1")?, world.node("node-2")?];
        let part = |node: Node| -> anyhow::Result<Part> {
            let agent = start_agent(&world, &control, &node)?;
            control.install_chain(&node)?;
            let ztunnel = control.start_ztunnel(&node, "auto", &[])?;
            Ok(Part {
                node,
                agent: Some(agent),
                ztunnel,
            })
        };
        let parts = [part(one)?, part(two)?];
        for part in &parts {
            wait_ztunnel(&part.node, &part.ztunnel)?;
        }
        Ok(Bed {
            servers: Vec::new(),
            _culvertd: culvertd,
            client: parts[0].node.pod("shop/client")?,
            web: parts[1].node.pod("shop/web")?,
            parts,
            control,
            manifests,
            world,
            binaries,
        })
    }

    /// Writes the Gateway with annotations.
    pub fn gateway(&self, annotations: &str) -> anyhow::Result<()> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
             metadata: {{name: gate, namespace: shop, annotations: {{{annotations}}}}}\n\
             spec:\n  gatewayClassName: culvert-waypoint\n  \
             listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]\n"
        );
        Ok(self.manifests.put(GATEWAY, &text)?)
    }

    /// The waypoints that culvertd knows.
    pub fn told(&self) -> anyhow::Result<Vec<Told>> {
        let page: Value = serde_json::from_str(&get(self.control.host().place(), STATUS)?)?;
        let nodes = page["reports"].as_object().context("reports by node")?;
        let mut told = Vec::new();
        for (node, pods) in nodes {
            for mut pod in Vec::<Told>::deserialize(pods)? {
                pod.node.clone_from(node);
                told.push(pod);
            }
        }
        told.retain(|pod| pod.waypoint.is_some());
        Ok(told)
    }

    /// Conditions of the Gateway.
    pub fn conditions(&self) -> anyhow::Result<String> {
        let page: Value = serde_json::from_str(&get(self.control.host().place(), STATUS)?)?;
        Ok(page["objects"]["Gateway shop/gate"].to_string())
    }

    /// The waypoints that the nodes keep a record of.
    pub fn real(&self) -> anyhow::Result<Vec<Real>> {
        let mut real = Vec::new();
        for (node, part) in self.parts.iter().enumerate() {
            let Ok(entries) = fs::read_dir(part.node.directory().join("waypoints")) else {
                continue;
            };
            for entry in entries {
                let path = entry?.path();
                // It may go between the list and the look.
                let Some(record) = fs::read(&path).ok().filter(|_| is_json(&path)) else {
                    continue;
                };
                let record: Value = serde_json::from_slice(&record)?;
                let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
                let sandbox = text("sandbox");
                let cgroup = Cgroup::open(self.cgroups(node).join(&sandbox));
                real.push(Real {
                    node,
                    name: format!(
                        "{}-{}",
                        text_of(&record["replica"]["gateway"]),
                        record["number"]
                    ),
                    container_id: text("container_id"),
                    pids: cgroup.and_then(|cgroup| cgroup.pids()).unwrap_or_default(),
                    sandbox,
                });
            }
        }
        Ok(real)
    }

    /// Where a node's waypoints have their cgroups.
    pub fn cgroups(&self, node: usize) -> PathBuf {
        self.parts[node]
            .node
            .place()
            .cgroup()
            .join("culvert-waypoints")
    }

    /// The pods that run, when exactly these serve and no other is there.
    pub fn wait_serving(&self, names: &[&str]) -> anyhow::Result<Vec<Told>> {
        let look = || {
            let told = self.told().ok()?;
            let mut serving: Vec<&str> = told
                .iter()
                .filter(|pod| pod.serves())
                .map(|pod| pod.pod.as_str())
                .collect();
            serving.sort_unstable();
            let right = serving == names && told.len() == names.len();
            right.then_some(told)
        };
        self.wait(&format!("{names:?} to serve, alone"), look)
    }

    /// The one record of a name.
    pub fn real_of(&self, name: &str) -> anyhow::Result<Real> {
        let real = self.real()?;
        let found = real.iter().find(|real| real.name == name);
        Ok(found
            .with_context(|| format!("{name} in {real:?}"))?
            .clone())
    }

    pub fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
        let waited = self.world.interrupt().wait_for(what, WITHIN, || Ok(look()));
        waited.with_context(|| format!("{:?}\n{:?}", self.told(), self.real()))
    }

    /// Kills a node's agent, as a crash would.
    pub fn kill_agent(&mut self, node: usize) {
        // Dropping the handle of a process kills it.
        self.parts[node].agent = None;
    }

    pub fn start_agent(&mut self, node: usize) -> anyhow::Result<()> {
        let agent = start_agent(&self.world, &self.control, &self.parts[node].node)?;
        self.parts[node].agent = Some(agent);
        Ok(())
    }

    /// Replaces the program of waypoints, as an upgrade would.
    pub fn put_program(&self, content: &[u8]) -> anyhow::Result<()> {
        put_program(&program(&self.world), content)
    }

    /// What a stand-in that starts from now on does.
    pub fn mode(&self, mode: &str) -> anyhow::Result<()> {
        let mut path = program(&self.world).into_os_string();
        path.push(".mode");
        Ok(fs::write(path, mode)?)
    }

    /// Puts the waypoint itself in the place of whatever program is there.
    pub fn put_waypoint(&self) -> anyhow::Result<()> {
        let path = self.binaries.path("waypoint");
        let content = fs::read(&path).with_context(|| format!("{}", path.display()))?;
        self.put_program(&content)
    }
}

fn start_agent(world: &World, control: &ControlPlane, node: &Node) -> anyhow::Result<Process> {
    let agent = control
        .agent_program(node)?
        .arg("--waypoint-binary")
        .arg(program(world))
        .args(["--waypoint-drain-deadline", DRAIN]);
    let process = node.place().with_cgroup("agent")?.start("agent", &agent)?;
    wait_agent(node, &process)?;
    Ok(process)
}

fn program(world: &World) -> PathBuf {
    world.directory().join("waypoint")
}

fn put_program(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, content)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(beside, path)?)
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "json")
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The leases of a node's IPAM, as files with the container's id in them.
pub fn leases(node: &Node) -> anyhow::Result<Vec<String>> {
    let mut leases = Vec::new();
    for entry in fs::read_dir(node.directory().join("ipam/pods"))? {
        let path = entry?.path();
        if path.is_file() {
            leases.push(fs::read_to_string(&path)?);
        }
    }
    ensure!(!leases.is_empty(), "the node's own pods have leases");
    Ok(leases)
}
