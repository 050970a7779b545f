//! A small mesh for fault scenarios: two nodes, a client, an intruder and a server, and what can be
//! done to the processes.
//!
//! The promise that every scenario asks about is [`Bed::right`]: the client is served through the
//! tunnel and the intruder is refused by policy. It must not know which fault is at work.

pub mod look;
pub mod start;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cli::demo::manifest::{Manifests, NO_INTRUDER, NO_INTRUDER_NAME};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use world::capture::Capture;
use world::stack::{Binaries, ControlPlane, READY_WITHIN};
use world::{Node, Place, Pod, Process, Program, World};

use crate::traffic::LoadReport;
pub use look::Mark;
pub use start::Start;

/// Where `traffic server` listens; no port of a Service.
pub const PORT: u16 = 9100;
/// The only port that the mesh opens between pods.
const HBONE_PORT: u16 = 15008;
/// Seed of all traffic: a run can be repeated.
const SEED: u64 = 20_261_123;
/// A server listens, and a holder holds, within this.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Longer than any stream or round of `traffic` may take.
const ENDS_WITHIN: Duration = Duration::from_secs(150);
/// A log line comes within this after what it is about: two busy cores.
pub const LOGGED_WITHIN: Duration = Duration::from_secs(60);
/// Short exchanges that a look makes: both address families, and more than one worker.
const EXCHANGES: u64 = 6;

/// A node with the processes of the mesh on it.
#[derive(Debug)]
pub struct Part {
    /// The node.
    pub node: Node,
    /// Its agent, while one runs.
    pub agent: Option<Process>,
    /// Its proxy, while one runs.
    pub ztunnel: Option<Process>,
}

/// The mesh. Dropping it removes everything.
pub struct Bed {
    // In the order of dropping: what runs in the world goes before the world.
    servers: Vec<Process>,
    wire: Option<Capture>,
    /// The control plane's process, while one runs.
    pub culvertd: Option<Process>,
    /// node-1 and node-2.
    pub parts: [Part; 2],
    /// On node-1; is served.
    pub client: Pod,
    /// On node-1; refused by the policy demo/no-intruder.
    pub intruder: Pod,
    /// On node-2, with `traffic server`.
    pub server: Pod,
    /// The control plane.
    pub control: ControlPlane,
    /// The manifests that it watches.
    pub manifests: Manifests,
    /// The world that all of it is in.
    pub world: World,
    binaries: Binaries,
    clients: AtomicU32,
}

impl Bed {
    /// Brings the mesh up; when this returns, client and intruder are treated as they should be.
    /// The logs of its processes are kept below the temporary directory under `name`.
    pub fn up(name: &str) -> anyhow::Result<Self> {
        world::remove_leftovers(world::Leftovers::Abandoned)?;
        let mut world = World::new()?;
        let logs = format!("culvert-faults-{name}-{}", std::process::id());
        world.save_logs_to(std::env::temp_dir().join(logs));
        let binaries = Binaries::of_this_build()?;
        let traffic = binaries.path("traffic");
        ensure!(traffic.is_file(), "{} is not built", traffic.display());
        let control = ControlPlane::prepare(&world.host("control")?, &binaries)?;
        let manifests = Manifests::copy_to(world.directory().join("manifests"))?;
        manifests.put("70-no-intruder.yaml", NO_INTRUDER)?;
        let culvertd = control.serve(manifests.directory(), &[])?;
        let [one, two] = [world.node("node-1")?, world.node("node-2")?];
        let file = world.directory().join("wire.pcap");
        let wire = Capture::start(world.router(), &World::link_to(two.name()), &file)?;
        let mut parts = [one, two].map(|node| Part {
            node,
            agent: None,
            ztunnel: None,
        });
        for part in &mut parts {
            part.agent = Some(control.start_agent(&part.node)?);
            control.install_chain(&part.node)?;
            let program = start::ztunnel(&binaries, (&control, &part.node), &Start::default())?;
            part.ztunnel = Some(start::in_its_cgroup(&part.node, &program)?);
        }
        for part in &parts {
            start::ready(part)?;
        }
        let mut bed = Bed {
            servers: Vec::new(),
            wire: Some(wire),
            culvertd: Some(culvertd),
            client: parts[0].node.pod("demo/client")?,
            intruder: parts[0].node.pod("demo/intruder")?,
            server: parts[1].node.pod("demo/web-v2")?,
            parts,
            control,
            manifests,
            world,
            binaries,
            clients: AtomicU32::new(0),
        };
        let server = bed.serve_traffic(bed.server.place())?;
        bed.servers.push(server);
        bed.until_right(READY_WITHIN)?;
        Ok(bed)
    }

    /// Starts `traffic server` somewhere.
    pub fn serve_traffic(&self, place: &Place) -> anyhow::Result<Process> {
        let program = Program::new(self.binaries.path("traffic"))
            .args(["server", "--port"])
            .arg(PORT.to_string());
        let server = place.start("traffic", &program)?;
        server.wait_for_line(&["listening"], STARTS_WITHIN)?;
        Ok(server)
    }

    /// Short exchanges with the server, IPv4 and IPv6 chosen by the seed, every byte checked.
    pub fn connect(&self, from: &Pod, count: u64) -> anyhow::Result<LoadReport> {
        let words = format!("--workers 2 --pause 0 --count {count}");
        let program = self
            .client_of("load", &self.server.addresses())
            .args(words.split_whitespace())
            .limit(ENDS_WITHIN);
        let said = from.place().run(&program)?.success()?.text();
        Ok(serde_json::from_str(&said)?)
    }

    /// The pod's exchanges all come through, and its node's proxy logs them as tunnelled.
    pub fn served(&self, from: &Pod) -> anyhow::Result<()> {
        let node = self.node_of(from)?;
        let mark = self.mark(node);
        let report = self.connect(from, EXCHANGES)?;
        let name = &from.name().name;
        ensure!(
            report.streams == EXCHANGES && report.failed.is_empty(),
            "{name} is not served: {report:?}"
        );
        self.eventually("the exchanges in the access log", LOGGED_WITHIN, || {
            let records = self.records(&mark);
            let tunnelled = records.iter().filter(|record| {
                look::is_from(record, from)
                    && record.message == "connection complete"
                    && record.get("dst.addr").ends_with(":15008")
                    && !record.get("dst.hbone_addr").is_empty()
            });
            tunnelled.count() as u64 >= EXCHANGES
        })
    }

    /// Not one exchange of the pod comes through, and its node's proxy says why in all these
    /// words; the reason.
    pub fn refused(&self, from: &Pod, words: &[&str]) -> anyhow::Result<String> {
        let mark = self.mark(self.node_of(from)?);
        let report = self.connect(from, 2)?;
        ensure!(
            report.streams == 0 && report.failures() == 2,
            "{} is served: {report:?}",
            from.name().name
        );
        self.reason(from, &mark, words)
    }

    /// The reason of a refusal of the pod since `mark` that has all these words.
    pub fn reason(&self, from: &Pod, mark: &Mark, words: &[&str]) -> anyhow::Result<String> {
        let found = || {
            let records = self.records(mark);
            let refusals = records.iter().filter(|record| {
                look::is_from(record, from) && record.message == "connection failed"
            });
            let mut reasons = refusals.map(|record| record.get("error").to_owned());
            reasons.find(|reason| words.iter().all(|word| reason.contains(word)))
        };
        let what = format!("a refusal of {} with {words:?}", from.name().name);
        let waited = self.eventually(&what, LOGGED_WITHIN, || found().is_some());
        let records = || self.records(mark);
        waited.with_context(|| format!("{:#?}", records()))?;
        found().context("it was there a moment ago")
    }

    /// The mesh works, with the right policy: the client is served, the intruder is not.
    pub fn right(&self) -> anyhow::Result<()> {
        self.served(&self.client)?;
        let mark = self.mark(1);
        self.refused(&self.intruder, &["401"])?;
        self.eventually("the policy in the access log", LOGGED_WITHIN, || {
            let records = self.records(&mark);
            let mut errors = records.iter().map(|record| record.get("error"));
            errors.any(|error| error.contains("denied") && error.contains(NO_INTRUDER_NAME))
        })
    }

    /// Waits until [`Bed::right`] is true.
    pub fn until_right(&self, within: Duration) -> anyhow::Result<()> {
        self.until_served(&self.client, within)?;
        self.until_judged(within)?;
        self.right()
    }

    /// Waits until the intruder is refused by policy, and not for want of a certificate: that one
    /// is asked for by itself, and may come later than the client's.
    fn until_judged(&self, within: Duration) -> anyhow::Result<()> {
        let mark = self.mark(0);
        self.eventually("the intruder to be judged", within, || {
            let refused = self.connect(&self.intruder, 1);
            let records = self.records(&mark);
            let mut own = records
                .iter()
                .filter(|it| look::is_from(it, &self.intruder));
            refused.is_ok() && own.any(|record| record.get("error").contains("401"))
        })
    }

    /// Waits until the pod is served.
    pub fn until_served(&self, from: &Pod, within: Duration) -> anyhow::Result<()> {
        let what = format!("{} to be served", from.name().name);
        self.eventually(&what, within, || {
            self.connect(from, 2)
                .is_ok_and(|report| report.streams == 2)
        })?;
        self.served(from)
    }

    /// Starts a client that opens connections until [`Bed::finish`]; `words` are its arguments.
    pub fn load(&self, from: &Pod, words: &str) -> anyhow::Result<Process> {
        let to = self.server.addresses();
        let program = self.client_of("load", &to).args(words.split_whitespace());
        Ok(from.place().start(&self.name("load"), &program)?)
    }

    /// Starts a client that holds `each` connections to each address of the server.
    pub fn hold(&self, from: &Pod, each: usize) -> anyhow::Result<Process> {
        let program = self
            .client_of("hold", &self.server.addresses())
            .args(["--each".into(), each.to_string()]);
        let client = from.place().start(&self.name("hold"), &program)?;
        client.wait_for_line(&["holding"], STARTS_WITHIN)?;
        Ok(client)
    }

    /// Lets a client finish, and reads what it says.
    pub fn finish<R: DeserializeOwned>(&self, client: &Process) -> anyhow::Result<R> {
        client.signal(Signal::SIGTERM)?;
        client.wait_end(ENDS_WITHIN)?;
        let log = client.log();
        let line = log.lines().rfind(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("{} says nothing: {log}", client.name()))?;
        Ok(serde_json::from_str(line)?)
    }

    /// Sleeps, less when interrupted.
    pub fn sleep(&self, time: Duration) -> anyhow::Result<()> {
        Ok(self.world.interrupt().sleep(time)?)
    }

    /// Looks every now and then until `look` is true; an error when it is not in time.
    pub fn eventually(
        &self,
        what: &str,
        within: Duration,
        look: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while !look() {
            ensure!(start.elapsed() < within, "{what}: not within {within:?}");
            self.sleep(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// Ends the capture: the pods of node-1 opened nothing towards the server but tunnels, whatever
    /// failed meanwhile.
    pub fn only_tunnels(&mut self) -> anyhow::Result<()> {
        let wire = self.wire.take().context("the capture was ended before")?;
        let clients = [self.client.addresses(), self.intruder.addresses()].concat();
        let recording = wire.finish()?.between(&clients, &self.server.addresses());
        let ports = recording.opened_ports();
        ensure!(ports.iter().eq([&HBONE_PORT]), "opened: {ports:?}");
        Ok(())
    }

    fn node_of(&self, pod: &Pod) -> anyhow::Result<usize> {
        let address = pod.ipv4()?;
        let own = |part: &Part| {
            let (subnet, _) = part.node.pod_subnets();
            let prefix = subnet.trim_end_matches("0/24");
            address.to_string().starts_with(prefix)
        };
        let node = self.parts.iter().position(own);
        node.with_context(|| format!("{address} is on no node"))
    }

    fn name(&self, verb: &str) -> String {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        format!("{verb}-{number}")
    }

    fn client_of(&self, verb: &str, to: &[IpAddr]) -> Program {
        let addresses = to.iter().map(|ip| SocketAddr::new(*ip, PORT).to_string());
        let words = addresses.flat_map(|address| ["--to".to_owned(), address]);
        let program = Program::new(self.binaries.path("traffic")).arg(verb);
        let program = program.args(words);
        if verb == "load" {
            let seed = SEED + u64::from(self.clients.load(Ordering::Relaxed));
            return program.args(["--seed".to_owned(), seed.to_string()]);
        }
        program
    }
}
