//! The demo's mesh with `traffic` in its pods, and what can be done to its processes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cli::demo::mesh::{Mesh, tunnelled};
use cli::demo::{Silent, access_log};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use world::stack::{Binaries, READY_WITHIN, agent_socket};
use world::{Interrupt, Output, Place, Pod, Process, Program, World};

use super::proxy::{Started, Swap};

/// Where `traffic server` listens; no port of a Service.
pub const PORT: u16 = 9100;
/// A server listens, and a holder holds, within this.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Longer than any stream or round of `traffic` may take.
const ENDS_WITHIN: Duration = Duration::from_secs(150);
/// A killed process is gone within this; with 20 others at work on two cores 5 s were not enough.
pub(super) const GONE_WITHIN: Duration = Duration::from_secs(60);
/// A mesh whose parts can be killed and replaced. Dropping it removes everything.
pub struct Bed {
    // In the order of dropping: what runs in the world goes before the world.
    servers: Vec<Process>,
    pub(super) draining: Vec<Process>,
    /// The demo's mesh.
    pub mesh: Mesh,
    traffic: PathBuf,
    pub(super) started: Started,
    clients: u32,
}

impl Bed {
    /// Brings the mesh up, with `traffic` listening in all pods and outside.
    pub fn up(interrupt: &Interrupt, logs: PathBuf) -> anyhow::Result<Self> {
        world::remove_leftovers(world::Leftovers::Abandoned)?;
        let mut world = World::with_interrupt(interrupt.clone())?;
        world.save_logs_to(logs);
        Self::up_in(world)
    }

    /// The same in a world that its caller has prepared.
    pub fn up_in(world: World) -> anyhow::Result<Self> {
        let traffic = Binaries::of_this_build()?.path("traffic");
        ensure!(traffic.is_file(), "{} is not built", traffic.display());
        let mut bed = Bed {
            servers: Vec::new(),
            draining: Vec::new(),
            mesh: Mesh::up(world, "auto", &Silent)?,
            traffic,
            started: Started::default(),
            clients: 0,
        };
        let pods = bed.mesh.pods.all();
        let places = pods.iter().map(|pod| pod.place());
        for place in places.chain([bed.mesh.outside.place()]) {
            let program = Program::new(&bed.traffic)
                .args(["server", "--port"])
                .arg(PORT.to_string());
            let server = place.start("traffic", &program)?;
            server.wait_for_line(&["listening"], STARTS_WITHIN)?;
            bed.servers.push(server);
        }
        // The demo's proxies cut what lives after 5 s.
        for node in 0..bed.mesh.nodes.len() {
            bed.swap(Swap::by_signal(node))?;
        }
        bed.drained()?;
        Ok(bed)
    }

    /// Starts a client that holds connections; returns when all are held.
    pub fn hold(&mut self, place: &Place, to: &[IpAddr], each: usize) -> anyhow::Result<Process> {
        let program = self
            .client("hold", to)
            .args(["--each".into(), each.to_string()]);
        let client = place.start(&self.name("hold"), &program)?;
        client.wait_for_line(&["holding"], STARTS_WITHIN)?;
        Ok(client)
    }

    /// Starts a client that opens connections; `words` are its other arguments.
    pub fn load(&mut self, place: &Place, to: &[IpAddr], words: &str) -> anyhow::Result<Process> {
        let program = self.client("load", to).args(words.split_whitespace());
        Ok(place.start(&self.name("load"), &program)?)
    }

    /// Lets a client finish, and reads what it says.
    pub fn finish<R: DeserializeOwned>(&self, client: &Process) -> anyhow::Result<R> {
        client.signal(Signal::SIGTERM)?;
        self.result(client)
    }

    /// Waits until a client with a count has finished, and reads what it says.
    pub fn result<R: DeserializeOwned>(&self, client: &Process) -> anyhow::Result<R> {
        client.wait_end(ENDS_WITHIN)?;
        let log = client.log();
        let line = log.lines().rfind(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("{} says nothing: {log}", client.name()))?;
        Ok(serde_json::from_str(line)?)
    }

    /// Captures the pod `client` (`enrol`), or lets it go (`unenrol`), by command.
    pub fn steer(&self, verb: &str, pod: &Pod) -> anyhow::Result<()> {
        let netns = pod.place().netns().to_string_lossy();
        let name = pod.name();
        let mut words = vec![verb, "--namespace", &name.namespace, "--name", &name.name];
        words.extend(["--uid", pod.uid(), "--netns", &netns]);
        let node = &self.mesh.nodes[0].node;
        self.mesh.control.agent_command(node, &words)?;
        Ok(())
    }

    /// Runs a command of `culvert-cni` to the first node's agent, whatever its exit code is.
    pub fn ask_agent(&self, words: &[&str]) -> anyhow::Result<Output> {
        let node = &self.mesh.nodes[0].node;
        let (verb, rest) = words.split_first().context("a verb")?;
        let program = Program::new(Binaries::of_this_build()?.path("culvert-cni"))
            .args([*verb, "--socket"])
            .arg(agent_socket(node)?)
            .args(rest.iter().copied());
        Ok(node.run(&program)?)
    }

    /// Waits until both proxies reach a pod through the tunnel, or do not.
    pub fn wait_tunnelled(&self, pod: &Pod, wanted: bool) -> anyhow::Result<()> {
        for (index, part) in self.mesh.nodes.iter().enumerate() {
            let what = format!("the proxy of node {index}: tunnelled {wanted}");
            part.ztunnel.wait_until(&what, READY_WITHIN, || {
                let known = tunnelled(&part.node).contains(&pod.name().name);
                (known == wanted).then_some(())
            })?;
        }
        Ok(())
    }

    /// Connections of a pod that its node's proxy has logged: opened by it, and to it.
    pub fn captured(&self, pod: &Pod) -> (usize, usize) {
        let addresses = pod.addresses();
        let records = access_log::records(&self.mesh.nodes[0].ztunnel.log());
        let socket = |text: &str| text.parse::<SocketAddr>().ok();
        let to_server = |field: &str| socket(field).is_some_and(|to| to.port() == PORT);
        let ours = records.iter().filter(|record| {
            to_server(record.get("dst.addr")) || to_server(record.get("dst.hbone_addr"))
        });
        let (mut from, mut to) = (0, 0);
        for record in ours.filter(|record| record.message == "connection complete") {
            let source = record.source_ip();
            let target = socket(record.get("dst.addr")).map(|address| address.ip());
            if record.is_outbound() {
                from += usize::from(source.is_some_and(|ip| addresses.contains(&ip)));
            } else {
                to += usize::from(target.is_some_and(|ip| addresses.contains(&ip)));
            }
        }
        (from, to)
    }

    /// SIGKILL to a node's agent; nothing is started.
    pub fn kill_agent(&self, node: usize) -> anyhow::Result<()> {
        let agent = &self.mesh.nodes[node].agent;
        agent.signal(Signal::SIGKILL)?;
        agent.wait_end(GONE_WITHIN)?;
        Ok(())
    }

    /// Starts a node's agent after its end; returns when it is ready.
    pub fn start_agent(&mut self, node: usize) -> anyhow::Result<()> {
        let part = &mut self.mesh.nodes[node];
        part.agent = self.mesh.control.start_agent(&part.node)?;
        Ok(())
    }

    /// SIGKILL to the control plane; nothing is started.
    pub fn kill_control(&self) -> anyhow::Result<()> {
        self.mesh.culvertd.signal(Signal::SIGKILL)?;
        self.mesh.culvertd.wait_end(GONE_WITHIN)?;
        Ok(())
    }

    /// Starts the control plane again over the same state; returns when it is ready.
    pub fn start_control(&mut self) -> anyhow::Result<()> {
        let manifests = self.mesh.manifests.directory().to_owned();
        self.mesh.culvertd = self.mesh.control.serve(&manifests, &[])?;
        Ok(())
    }

    /// Sleeps, less when interrupted.
    pub fn sleep(&self, time: Duration) -> anyhow::Result<()> {
        Ok(self.mesh.world.interrupt().sleep(time)?)
    }

    /// Looks every now and then until `look` is true or the time is over; whether it was true.
    pub fn eventually(&self, within: Duration, look: impl Fn() -> bool) -> anyhow::Result<bool> {
        let start = Instant::now();
        while start.elapsed() < within {
            if look() {
                return Ok(true);
            }
            self.sleep(Duration::from_millis(50))?;
        }
        Ok(look())
    }

    /// Takes everything down in order, and says what does not go.
    pub fn down(mut self) -> anyhow::Result<()> {
        self.drained()?;
        self.servers.clear();
        self.mesh.down(Duration::from_secs(10))?;
        Ok(())
    }

    fn client(&self, verb: &str, to: &[IpAddr]) -> Program {
        let addresses = to.iter().map(|ip| SocketAddr::new(*ip, PORT).to_string());
        let words = addresses.flat_map(|address| ["--to".to_owned(), address]);
        Program::new(&self.traffic).arg(verb).args(words)
    }

    fn name(&mut self, verb: &str) -> String {
        self.clients += 1;
        format!("{verb}-{}", self.clients)
    }
}

/// The addresses of some pods, both families.
pub fn addresses(pods: &[&Pod]) -> Vec<IpAddr> {
    pods.iter().flat_map(|pod| pod.addresses()).collect()
}
