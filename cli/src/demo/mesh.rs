//! Bringing the demo's mesh up, and taking it down.

use std::net::IpAddr;
use std::time::Duration;

use world::stack::{Binaries, ControlPlane, READY_WITHIN, get, wait_ztunnel};
use world::{Host, Node, Place, Pod, Process, World};

use crate::demo::manifest::Manifests;
use crate::demo::servers::Programs;
use crate::demo::{DemoError, Progress, rulesets};

/// The address of Service `web`, IPv4.
pub const WEB_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10));
/// The address of Service `web`, IPv6: fd00:10:96::10.
pub const WEB_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(
    0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10,
));
/// Pods of the demo that the mesh captures.
const ENROLLED: usize = 4;

/// A node with the processes of the mesh on it.
#[derive(Debug)]
pub struct MeshNode {
    /// The node.
    pub node: Node,
    /// Its agent.
    pub agent: Process,
    /// Its proxy.
    pub ztunnel: Process,
}

/// The pods of the demo.
#[derive(Debug)]
pub struct Pods {
    /// On node-1, the client of everything.
    pub client: Pod,
    /// On node-1, another account.
    pub intruder: Pod,
    /// Behind the Service, with nginx, on the client's node.
    pub web_v1: Pod,
    /// Behind the Service, with a Python server, on node-2.
    pub web_v2: Pod,
    /// On node-1, not captured.
    pub legacy: Pod,
}

/// The whole demo, up. Dropping it ends everything and removes it.
#[derive(Debug)]
pub struct Mesh {
    // In the order of dropping: what runs in the world goes before the world.
    servers: Vec<Process>,
    /// The nodes node-1 and node-2.
    pub nodes: [MeshNode; 2],
    /// The control plane's process.
    pub culvertd: Process,
    /// The control plane.
    pub control: ControlPlane,
    /// The manifests that it watches.
    pub manifests: Manifests,
    /// The pods.
    pub pods: Pods,
    /// A machine outside the mesh.
    pub outside: Host,
    /// The programs in the pods.
    pub programs: Programs,
    /// Name and rules of every node and pod from before the mesh was there.
    pub rules_before: Vec<(String, String)>,
    /// The back end of the proxies.
    pub io: String,
    /// The world that all of it is in.
    pub world: World,
}

impl Mesh {
    /// Brings everything up in an empty world: when this returns, both proxies know all pods.
    pub fn up(mut world: World, io: &str, progress: &dyn Progress) -> Result<Self, DemoError> {
        progress.step("a router, two nodes, a machine outside");
        let binaries = Binaries::of_this_build()?;
        let host = world.host("control")?;
        let outside = world.host("outside")?;
        let [one, two] = [world.node("node-1")?, world.node("node-2")?];
        let mut rules_before = Vec::new();
        for place in [one.place(), two.place()] {
            rules_before.push(rules(place)?);
        }
        let manifests = Manifests::copy_to(world.directory().join("manifests"))?;
        let programs = Programs::write_to(world.directory())?;

        progress.step("culvertd, and on each node an agent, a ztunnel and the CNI chain");
        let control = ControlPlane::prepare(&host, &binaries)?;
        let culvertd = control.serve(manifests.directory(), &[])?;
        let nodes = [
            start_node(&control, one, io)?,
            start_node(&control, two, io)?,
        ];
        for node in &nodes {
            wait_ztunnel(&node.node, &node.ztunnel)?;
        }

        progress.step("pods through bridge, host-local and culvert-cni");
        let pods = Pods::add(&nodes, &mut rules_before)?;
        progress.step("nginx and Python servers in the pods");
        let servers = start_servers(&programs, &pods, &outside)?;
        let mesh = Mesh {
            servers,
            nodes,
            culvertd,
            control,
            manifests,
            pods,
            outside,
            programs,
            rules_before,
            io: io.to_owned(),
            world,
        };
        progress.step("both proxies learn all pods");
        mesh.wait_known()?;
        Ok(mesh)
    }

    /// The servers in the pods and outside.
    pub fn servers(&self) -> &[Process] {
        &self.servers
    }

    /// Leaves everything running; says how to look around.
    pub fn keep(self) -> Result<String, DemoError> {
        let Mesh {
            servers,
            nodes,
            culvertd,
            pods,
            world,
            ..
        } = self;
        let client = pods.client.place().name().to_owned();
        let kept = world.keep()?;
        // The handles' drop would end the processes.
        std::mem::forget((servers, nodes, culvertd));
        Ok(format!(
            "The world {id} stays up.\n\
             \x20 in the client:  {enter} {client} curl -s http://{WEB_V4}/\n\
             \x20 a shell there:  {enter} {client}\n\
             \x20 pods and nodes: {enter}\n\
             \x20 logs:           {directory}/logs\n\
             \x20 manifests:      {directory}/manifests (edit them)\n\
             \x20 remove it:      culvert demo --down",
            id = kept.id,
            enter = kept.enter.display(),
            directory = kept.directory.display(),
        ))
    }

    /// Takes it down in order: pods by DEL, proxies by SIGTERM, then the world.
    pub fn down(self, grace: Duration) -> Result<(), DemoError> {
        let Mesh {
            servers,
            nodes,
            culvertd,
            pods,
            world,
            ..
        } = self;
        drop(servers);
        for pod in pods.all() {
            pod.delete()?;
        }
        for node in &nodes {
            node.ztunnel.stop(grace)?;
            node.agent.stop(grace)?;
        }
        culvertd.stop(grace)?;
        world.close()?;
        Ok(())
    }

    /// Waits until both proxies know every enrolled pod as reachable through the tunnel.
    pub fn wait_known(&self) -> Result<(), DemoError> {
        for MeshNode { node, ztunnel, .. } in &self.nodes {
            let what = format!("the proxy of {} to know all enrolled pods", node.name());
            ztunnel.wait_until(&what, READY_WITHIN, || {
                (tunnelled(node).len() == ENROLLED).then_some(())
            })?;
        }
        Ok(())
    }
}

/// Names of the workloads that a node's proxy reaches through the tunnel.
pub fn tunnelled(node: &Node) -> Vec<String> {
    let dump = get(node.place(), "http://127.0.0.1:15000/config_dump").unwrap_or_default();
    let dump: serde_json::Value = serde_json::from_str(&dump).unwrap_or_default();
    let workloads = dump["workloads"].as_array().cloned().unwrap_or_default();
    workloads
        .iter()
        .filter(|workload| workload["protocol"] == "HBONE")
        .filter_map(|workload| workload["name"].as_str().map(str::to_owned))
        .collect()
}

impl Pods {
    fn add(nodes: &[MeshNode; 2], before: &mut Vec<(String, String)>) -> Result<Self, DemoError> {
        let [one, two] = nodes;
        let mut add = |node: &MeshNode, name: &str| {
            let pod = node.node.sandbox(name)?;
            before.push(rules(pod.place())?);
            pod.add().map_err(|source| DemoError::Pod {
                pod: name.to_owned(),
                source: Box::new(source),
            })?;
            Ok::<Pod, DemoError>(pod)
        };
        Ok(Pods {
            web_v1: add(one, "demo/web-v1")?,
            web_v2: add(two, "demo/web-v2")?,
            client: add(one, "demo/client")?,
            intruder: add(one, "demo/intruder")?,
            legacy: add(one, "demo/legacy")?,
        })
    }

    /// All of them.
    pub fn all(&self) -> [&Pod; 5] {
        [
            &self.client,
            &self.intruder,
            &self.web_v1,
            &self.web_v2,
            &self.legacy,
        ]
    }
}

fn rules(place: &Place) -> Result<(String, String), DemoError> {
    rulesets::add_owners_rules(place)?;
    Ok((place.name().to_owned(), rulesets::read(place)?))
}

fn start_node(control: &ControlPlane, node: Node, io: &str) -> Result<MeshNode, DemoError> {
    let agent = control.start_agent(&node)?;
    control.install_chain(&node)?;
    let ztunnel = control.start_ztunnel(&node, io, &[])?;
    Ok(MeshNode {
        node,
        agent,
        ztunnel,
    })
}

fn start_servers(
    programs: &Programs,
    pods: &Pods,
    outside: &Host,
) -> Result<Vec<Process>, DemoError> {
    Ok(vec![
        programs.start_nginx(pods.web_v1.place())?,
        programs.start_web(pods.web_v2.place())?,
        programs.start_web(outside.place())?,
        programs.start_echo(pods.web_v1.place())?,
        programs.start_echo(pods.web_v2.place())?,
        programs.start_echo(outside.place())?,
        programs.start_iperf(pods.web_v2.place())?,
    ])
}
