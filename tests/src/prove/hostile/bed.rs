//! A mesh with an attacked node: a pod that is attacked, its neighbour, a hostile pod, and places
//! that attacks come from.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cli::demo::Silent;
use cli::demo::access_log::{self, Record};
use cli::demo::mesh::{Mesh, MeshNode, tunnelled};
use world::stack::{Binaries, READY_WITHIN};
use world::{Interrupt, Place, Pod, Process, Program, World};

use super::gauge;
use super::neighbours::{Latencies, Neighbours};
use super::{Attack, Figures, Plan, Rate};
use crate::attack::Report;
use crate::stranger::{Issuers, Validity};

/// Where the servers in the pods echo; no port of a Service.
pub const ECHO_PORT: u16 = 9300;
/// Where they send all that is taken.
pub const POUR_PORT: u16 = 9301;
/// The tunnel's port.
pub const HBONE_PORT: u16 = 15008;
/// The servers listen within this.
const LISTENS_WITHIN: Duration = Duration::from_secs(60);
/// The recorder writes a connection's line within this.
const LOGGED_WITHIN: Duration = Duration::from_secs(60);
/// Longest that one attack may run.
const ATTACK_WITHIN: Duration = Duration::from_secs(300);

/// Two more pods on the attacked node.
const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: neighbour
  namespace: demo
spec:
  nodeName: node-2
  serviceAccountName: web
---
apiVersion: v1
kind: Pod
metadata:
  name: mallory
  namespace: demo
spec:
  nodeName: node-2
  serviceAccountName: intruder
";

/// The mesh. Dropping it removes everything.
pub struct Bed {
    // In the order of dropping: what runs in the world goes before the world.
    servers: Vec<Process>,
    /// On the attacked node, honest.
    pub neighbour: Pod,
    /// On the attacked node, enrolled, and hostile.
    pub mallory: Pod,
    /// The demo's mesh.
    pub mesh: Mesh,
    /// PEM file of an honest peer.
    pub honest: PathBuf,
    /// PEM file of a compromised one.
    pub stolen: PathBuf,
    program: PathBuf,
    quiet: Latencies,
    started: Cell<usize>,
}

/// An address with a port.
pub fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

impl Bed {
    /// Brings the mesh up with its servers.
    pub fn up(interrupt: &Interrupt, logs: PathBuf) -> anyhow::Result<Self> {
        world::remove_leftovers(world::Leftovers::Abandoned)?;
        let mut world = World::with_interrupt(interrupt.clone())?;
        world.save_logs_to(logs);
        let program = Binaries::of_this_build()?.path("attacker");
        ensure!(program.is_file(), "{} is not built", program.display());
        let mesh = Mesh::up(world, "auto", &Silent)?;
        mesh.manifests.put("80-hostile.yaml", PODS)?;
        let neighbour = mesh.nodes[1].node.pod("demo/neighbour")?;
        let mallory = mesh.nodes[1].node.pod("demo/mallory")?;
        let [honest, stolen] = ["honest", "stolen"].map(|name| mesh.world.directory().join(name));
        let mut bed = Bed {
            servers: Vec::new(),
            neighbour,
            mallory,
            mesh,
            honest,
            stolen,
            program,
            quiet: Latencies::default(),
            started: Cell::new(0),
        };
        bed.issue()?;
        bed.serve()?;
        bed.wait_known()?;
        Ok(bed)
    }

    fn issue(&self) -> anyhow::Result<()> {
        let node = &self.mesh.nodes[0].node;
        let issuers = Issuers {
            place: node.place().clone(),
            token: node.directory().join("token"),
        };
        for (account, file) in [("client", &self.honest), ("intruder", &self.stolen)] {
            let identity = format!("spiffe://cluster.local/ns/demo/sa/{account}");
            let issued = issuers.issue(&self.mesh.control, &identity, Validity::Day)?;
            issued.shown.save(file)?;
        }
        Ok(())
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let pods = &self.mesh.pods;
        let (echo, pour) = (ECHO_PORT.to_string(), POUR_PORT.to_string());
        let program = Program::new(&self.program).args(["serve", "--echo", &echo, "--pour", &pour]);
        for pod in [&pods.web_v1, &pods.web_v2, &self.neighbour, &self.mallory] {
            let server = pod.start("servers", &program)?;
            server.wait_for_line(&["listening"], LISTENS_WITHIN)?;
            self.servers.push(server);
        }
        Ok(())
    }

    fn wait_known(&self) -> anyhow::Result<()> {
        for MeshNode { node, ztunnel, .. } in &self.mesh.nodes {
            let what = format!("the proxy of {} to know the pods", node.name());
            ztunnel.wait_until(&what, READY_WITHIN, || {
                let known = tunnelled(node);
                let all = ["neighbour", "mallory"].map(|name| known.iter().any(|k| k == name));
                (all == [true, true]).then_some(())
            })?;
        }
        Ok(())
    }

    /// The node under attack.
    pub fn node(&self) -> &MeshNode {
        &self.mesh.nodes[1]
    }

    /// The pod under attack.
    pub fn victim(&self) -> &Pod {
        &self.mesh.pods.web_v2
    }

    /// The victim's tunnel port.
    pub fn target(&self) -> anyhow::Result<SocketAddr> {
        Ok(at(self.victim().ipv4()?, HBONE_PORT))
    }

    /// The victim's echo server.
    pub fn echo(&self) -> anyhow::Result<SocketAddr> {
        Ok(at(self.victim().ipv4()?, ECHO_PORT))
    }

    /// The program `attacker`, to be given its words.
    pub fn attacker(&self) -> Program {
        Program::new(&self.program).limit(ATTACK_WITHIN)
    }

    /// The words of an attack by the compromised peer.
    pub fn as_peer(&self, verb: &str) -> anyhow::Result<Program> {
        let program =
            self.attacker()
                .args([verb, "--to", &self.target()?.to_string(), "--credentials"]);
        Ok(program.arg(&self.stolen))
    }

    /// Where peers attack from: a pod on another node that nothing captures.
    pub fn outlaw(&self) -> &Place {
        self.mesh.pods.legacy.place()
    }

    /// Runs the attacker in a place to its end.
    pub fn run(&self, place: &Place, program: &Program) -> anyhow::Result<Report> {
        Ok(self.run_and_tell(place, program)?.0)
    }

    /// The same, with the other lines that it printed.
    pub fn run_and_tell(
        &self,
        place: &Place,
        program: &Program,
    ) -> anyhow::Result<(Report, Vec<String>)> {
        let text = place.run(program)?.success()?.text();
        let (report, told) = split(&text).with_context(|| format!("the attacker says {text}"))?;
        Ok((report, told))
    }

    /// Starts the attacker in a place.
    pub fn start(&self, place: &Place, program: &Program) -> anyhow::Result<Process> {
        self.started.set(self.started.get() + 1);
        let name = format!("attacker-{}", self.started.get());
        Ok(place.start(&name, program)?)
    }

    /// Waits until a started attacker has ended; what it says.
    pub fn result(&self, process: &Process) -> anyhow::Result<Report> {
        process.wait_end(ATTACK_WITHIN)?;
        let log = process.log();
        let (report, _) = split(&log).with_context(|| format!("{}: {log}", process.name()))?;
        Ok(report)
    }

    /// The neighbours without an attack.
    pub fn calm(&mut self, plan: &Plan) -> anyhow::Result<Figures> {
        let before = gauge::look(&self.node().ztunnel)?;
        let neighbours = Neighbours::start(self)?;
        self.mesh.world.interrupt().sleep(plan.quiet)?;
        let seen = neighbours.finish()?;
        ensure!(
            seen.failures() == 0,
            "already without an attack: {:?}",
            seen.failed
        );
        self.quiet = Latencies::of(&seen, &Latencies::default());
        Ok(Figures {
            quiet: self.quiet,
            rss_mib: [before.rss_mib; 2],
            ..Figures::default()
        })
    }

    /// Waits, after the last attack, until the proxy is about as small as before the first.
    pub fn settle(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let process = &self.node().ztunnel;
        let mut usage = gauge::Usage {
            rss_mib: [figures.rss_mib[0]; 3],
            fds: [gauge::look(process)?.fds; 3],
            ..gauge::Usage::default()
        };
        usage.settle(process)?;
        figures.rss_mib[1] = usage.rss_mib[2];
        Ok(())
    }

    /// Runs an attack while the neighbours ask. `peak_mib`: how much the proxy's memory may grow
    /// meanwhile; `judge`: why what the attackers saw is not bounded as it should be.
    pub fn under(
        &self,
        name: &str,
        peak_mib: f64,
        attack: impl FnOnce() -> anyhow::Result<Report>,
        judge: impl FnOnce(&Report) -> Vec<String>,
    ) -> anyhow::Result<Attack> {
        let neighbours = Neighbours::start(self)?;
        let (seen, mut proxy) = gauge::around(&self.node().ztunnel, attack)?;
        let answered = neighbours.finish()?;
        proxy.settle(&self.node().ztunnel)?;
        let mut wrong = judge(&seen);
        wrong.extend(proxy.wrong(peak_mib));
        // The handles are those of the first processes: nothing starts others.
        let ended = self
            .mesh
            .nodes
            .iter()
            .filter(|node| node.ztunnel.ended().is_some());
        wrong.extend(ended.map(|node| format!("the proxy of {} has ended", node.node.name())));
        let per_second = |count: u64| count as f64 / seen.seconds.max(0.001);
        Ok(Attack {
            name: name.to_owned(),
            rate: Rate {
                connections: per_second(seen.connections),
                units: per_second(seen.sent),
            },
            neighbours: Latencies::of(&answered, &self.quiet),
            failed: answered.failed,
            seen,
            proxy,
            wrong,
        })
    }

    /// How much the attacked node's proxy has logged.
    pub fn mark(&self) -> usize {
        self.node().ztunnel.log().len()
    }

    /// Access records since a mark, once `enough` of them fit, or after a while.
    pub fn records(
        &self,
        mark: usize,
        enough: usize,
        fit: impl Fn(&Record) -> bool,
    ) -> Vec<Record> {
        let start = Instant::now();
        loop {
            let log = self.node().ztunnel.log();
            let mut records = access_log::records(log.get(mark..).unwrap_or_default());
            records.retain(&fit);
            if records.len() >= enough || start.elapsed() > LOGGED_WITHIN {
                return records;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Takes everything down.
    pub fn down(mut self) -> anyhow::Result<()> {
        self.servers.clear();
        let Bed {
            mesh,
            neighbour,
            mallory,
            ..
        } = self;
        neighbour.delete()?;
        mallory.delete()?;
        mesh.down(Duration::from_secs(10))?;
        Ok(())
    }
}

/// The report and the lines before it.
fn split(text: &str) -> Option<(Report, Vec<String>)> {
    let (reports, told): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with('{'));
    let report = serde_json::from_str(reports.last()?).ok()?;
    Some((report, told.into_iter().map(str::to_owned).collect()))
}
