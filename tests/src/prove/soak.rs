//! Mixed load for minutes, with enrolments, swaps and restarts at random from a seed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use world::{Interrupt, Process};

use super::bed::{Bed, addresses};
use crate::traffic::{HoldReport, LoadReport};

/// Same load before the first measurement, so that caches, tunnels and pools are what a load makes.
const WARM_UP: Duration = Duration::from_secs(10);
/// The same in the short form.
const SHORT_WARM_UP: Duration = Duration::from_secs(3);
/// Without load before each measurement: connections end and buffers go back.
const SETTLE: Duration = Duration::from_secs(15);
/// The same in the short form.
const SHORT_SETTLE: Duration = Duration::from_secs(3);
/// Idle tunnels keep their sockets for 300 s (ztunnel's `TUNNEL_IDLE`); the last measurement waits
/// for no more descriptors than at the start, and no longer than that and a little.
const TUNNELS_END_WITHIN: Duration = Duration::from_secs(330);
/// Longest pause between two events in milliseconds.
const EVENT_EVERY_MS: u64 = 4000;
/// How long a node is without its agent at most, in milliseconds.
const WITHOUT_AGENT_MS: u64 = 2000;
/// Seconds of the short form.
const SHORT_SECONDS: u64 = 15;

/// How long, and from which seed.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    time: Duration,
    seed: u64,
    warm_up: Duration,
    settle: Duration,
    tunnels_end: Duration,
}

/// `target/soak/report.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The only part.
    pub soak: Figures,
}

/// What became of the streams, and what the mesh's processes took.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Minutes under load with events.
    pub minutes: f64,
    /// The seed.
    pub seed: u64,
    /// Streams that carried all their bytes, checked by SHA-256 in both directions.
    pub streams: u64,
    /// Connections tried, with the aborted ones.
    pub connections: u64,
    /// Those that the clients reset on purpose.
    pub aborted: u64,
    /// Streams with other bytes than were sent.
    pub mismatched: u64,
    /// Bytes of the checked streams, both directions.
    pub bytes: u64,
    /// Connections that failed, by cause.
    pub failures: BTreeMap<String, u64>,
    /// Connections held from the beginning ...
    pub long_lived: u64,
    /// ... to the end with every byte right.
    pub long_lived_kept: u64,
    /// Held ones that were lost, by cause.
    pub long_lived_lost: BTreeMap<String, u64>,
    /// What happened: swaps, restarts of agents, enrolments.
    pub events: BTreeMap<String, u64>,
    /// Resident memory of all processes of the mesh, end minus start, in MiB.
    pub rss_growth_mib: f64,
    /// Open descriptors, end minus start; never below zero.
    pub leaked_fds: u64,
    /// Pinned BPF objects, end minus start; never below zero.
    pub leaked_bpf: u64,
    /// At the start, after a first load.
    pub start: Usage,
    /// At the end, after the last load.
    pub end: Usage,
}

/// What the processes of the mesh take.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    /// Resident MiB by process.
    pub rss_mib: BTreeMap<String, f64>,
    /// Open descriptors by process.
    pub fds: BTreeMap<String, u64>,
    /// Pinned BPF objects by node.
    pub bpf: BTreeMap<String, u64>,
}

impl Plan {
    /// A plan of minutes, or the short form.
    pub fn new(minutes: u64, seed: u64, short: bool) -> Self {
        Plan {
            time: Duration::from_secs(if short { SHORT_SECONDS } else { 60 * minutes }),
            seed,
            warm_up: if short { SHORT_WARM_UP } else { WARM_UP },
            settle: if short { SHORT_SETTLE } else { SETTLE },
            tunnels_end: if short {
                SHORT_SETTLE
            } else {
                TUNNELS_END_WITHIN
            },
        }
    }
}

impl Figures {
    /// What is not as promised.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.mismatched > 0 {
            wrong.push(format!("soak: {} mismatched", self.mismatched));
        }
        if !self.failures.is_empty() {
            wrong.push(format!("soak: failures {:?}", self.failures));
        }
        if self.long_lived_kept != self.long_lived {
            wrong.push(format!("soak: long-lived lost {:?}", self.long_lived_lost));
        }
        if self.leaked_bpf > 0 {
            wrong.push(format!("soak: {} BPF objects leaked", self.leaked_bpf));
        }
        wrong
    }
}

/// Runs the soak on a mesh of its own.
pub fn soak(
    plan: &Plan,
    interrupt: &Interrupt,
    logs: std::path::PathBuf,
) -> anyhow::Result<Report> {
    let mut bed = Bed::up(interrupt, logs)?;
    let warm = Load::start(&mut bed, plan.seed)?;
    // An agent that took pods over holds other descriptors than one that added them.
    for node in 0..bed.mesh.nodes.len() {
        bed.kill_agent(node)?;
        bed.start_agent(node)?;
    }
    bed.sleep(plan.warm_up)?;
    warm.finish(&bed)?;
    bed.sleep(plan.settle)?;
    let mut figures = Figures {
        seed: plan.seed,
        start: usage(&bed),
        ..Figures::default()
    };
    let start = Instant::now();
    let load = Load::start(&mut bed, plan.seed + 1)?;
    let mut random = SmallRng::seed_from_u64(plan.seed);
    while start.elapsed() < plan.time {
        let event = event(&mut bed, &mut random)?;
        *figures.events.entry(event.to_owned()).or_default() += 1;
        bed.sleep(Duration::from_millis(
            random.random_range(200..EVENT_EVERY_MS),
        ))?;
    }
    // The last proxies get the load that the first ones had before they were measured.
    bed.sleep(plan.warm_up)?;
    figures.minutes = start.elapsed().as_secs_f64() / 60.0;
    let (loads, holds) = load.finish(&bed)?;
    bed.drained()?;
    bed.sleep(plan.settle)?;
    let at_start = sum(&figures.start.fds);
    bed.eventually(plan.tunnels_end, || sum(&usage(&bed).fds) <= at_start)?;
    figures.end = usage(&bed);
    figures.take(loads, holds);
    bed.down()?;
    Ok(Report { soak: figures })
}

impl Figures {
    fn take(&mut self, loads: LoadReport, holds: HoldReport) {
        self.streams = loads.streams;
        self.connections = loads.connections;
        self.aborted = loads.aborted;
        self.mismatched = loads.mismatched;
        self.bytes = loads.bytes_up + loads.bytes_down;
        self.failures = loads.failed;
        self.long_lived = holds.tried;
        self.long_lived_kept = holds.kept;
        self.long_lived_lost = holds.lost;
        let rss = |usage: &Usage| usage.rss_mib.values().sum::<f64>();
        self.rss_growth_mib = rss(&self.end) - rss(&self.start);
        self.leaked_fds = sum(&self.end.fds).saturating_sub(sum(&self.start.fds));
        self.leaked_bpf = sum(&self.end.bpf).saturating_sub(sum(&self.start.bpf));
    }
}

/// Mixed load between captured pods, from one that comes and goes, and to the outside.
struct Load {
    loads: Vec<Process>,
    holds: Vec<Process>,
}

impl Load {
    fn start(bed: &mut Bed, seed: u64) -> anyhow::Result<Self> {
        let pods = &bed.mesh.pods;
        let mut servers = addresses(&[&pods.web_v1, &pods.web_v2]);
        let client = addresses(&[&pods.client]);
        let [near, far, moving] =
            [&pods.client, &pods.web_v2, &pods.intruder].map(|pod| pod.place().clone());
        let holds = vec![
            bed.hold(&near, &servers, 2)?,
            bed.hold(&far, &client, 2)?,
            bed.hold(&moving, &servers, 2)?,
        ];
        servers.extend([bed.mesh.outside.ipv4(), bed.mesh.outside.ipv6()]);
        let words = |more: u64| format!("--mixed --workers 6 --pause 60 --seed {}", seed + more);
        let loads = vec![
            bed.load(&near, &servers, &words(0))?,
            bed.load(&far, &client, &words(1))?,
            bed.load(&moving, &servers, &words(2))?,
        ];
        Ok(Load { loads, holds })
    }

    fn finish(self, bed: &Bed) -> anyhow::Result<(LoadReport, HoldReport)> {
        let (mut loads, mut holds) = (LoadReport::default(), HoldReport::default());
        for client in &self.loads {
            loads.add(&bed.finish(client)?);
        }
        for client in &self.holds {
            holds.add(&bed.finish(client)?);
        }
        Ok((loads, holds))
    }
}

/// One thing happens; its name.
fn event(bed: &mut Bed, random: &mut SmallRng) -> anyhow::Result<&'static str> {
    let node = random.random_range(0..bed.mesh.nodes.len());
    match random.random_range(0..3) {
        0 => {
            bed.swap(node)?;
            Ok("swap")
        }
        1 => {
            bed.kill_agent(node)?;
            let time = random.random_range(0..WITHOUT_AGENT_MS);
            bed.sleep(Duration::from_millis(time))?;
            bed.start_agent(node)?;
            Ok("agent_restart")
        }
        _ => {
            bed.steer("unenrol", &bed.mesh.pods.intruder)?;
            let time = random.random_range(0..EVENT_EVERY_MS);
            bed.sleep(Duration::from_millis(time))?;
            bed.steer("enrol", &bed.mesh.pods.intruder)?;
            Ok("unenrol_enrol")
        }
    }
}

fn sum(map: &BTreeMap<String, u64>) -> u64 {
    map.values().sum()
}

fn usage(bed: &Bed) -> Usage {
    let mut usage = Usage::default();
    let mut take = |name: String, process: &Process| {
        usage.rss_mib.insert(name.clone(), rss_mib(process.pid()));
        usage
            .fds
            .insert(name, entries(format!("/proc/{}/fd", process.pid())));
    };
    take("culvertd".to_owned(), &bed.mesh.culvertd);
    for part in &bed.mesh.nodes {
        take(format!("agent {}", part.node.name()), &part.agent);
        take(format!("ztunnel {}", part.node.name()), &part.ztunnel);
    }
    for part in &bed.mesh.nodes {
        let name = part.node.name().to_owned();
        usage.bpf.insert(name, files_below(part.node.bpffs()));
    }
    usage
}

/// Resident memory of a process; 0 when it is gone.
fn rss_mib(pid: i32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn entries(path: String) -> u64 {
    fs::read_dir(path).map_or(0, |entries| entries.count() as u64)
}

fn files_below(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    let count = |path: &Path, is_dir: bool| if is_dir { files_below(path) } else { 1 };
    entries
        .flatten()
        .map(|entry| count(&entry.path(), entry.path().is_dir()))
        .sum()
}
