//! Hostile peers and hostile pods hurt nobody: each attack runs against a node's proxy while honest
//! neighbours on the same node ask steadily, and what both saw becomes figures.
//!
//! The attacks are made by the program `attacker` (see [`crate::attack`]). Latencies are reported
//! and not judged; what is judged: that no neighbour fails, that the proxy lives and stays within
//! bytes, and that each attack was bounded as its judge says.

pub mod bed;
pub mod gauge;
pub mod neighbours;
pub mod peers;
pub mod pods;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use world::Interrupt;

pub use bed::Bed;

use crate::attack::Report;
use gauge::Usage;
use neighbours::Latencies;

/// How much of each attack is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How long the neighbours are measured without an attack.
    pub quiet: Duration,
    /// How long tunnels are flooded, and bytes trickle.
    pub flood: Duration,
    /// Tunnels of a flood at a time.
    pub lanes: usize,
    /// Handshakes that are left half done, of each sort.
    pub half: u64,
    /// Handshakes that are wrong, of each sort.
    pub wrong: u64,
    /// Tunnels of readers that never read; 200 streams in each.
    pub stalled: usize,
    /// Wait until the proxy has ended each tunnel that is not read.
    pub stalled_to_the_end: bool,
    /// Closed ports of a scan.
    pub ports: u16,
}

/// What `make prove` does: about three minutes.
pub const LONG: Plan = Plan {
    quiet: Duration::from_secs(8),
    flood: Duration::from_secs(5),
    lanes: 8,
    half: 3000,
    wrong: 1000,
    stalled: 50,
    stalled_to_the_end: true,
    ports: 10_000,
};

/// What `make test` does: about a minute.
pub const SHORT: Plan = Plan {
    quiet: Duration::from_secs(2),
    flood: Duration::from_secs(1),
    lanes: 4,
    half: 1000,
    wrong: 200,
    stalled: 50,
    stalled_to_the_end: false,
    ports: 3000,
};

/// What one attack did, and what it did to the node.
#[derive(Clone, Debug, Serialize)]
pub struct Attack {
    /// What was done, in words.
    pub name: String,
    /// Connections, and the units the attack is made of, per second.
    pub rate: Rate,
    /// What the attackers saw.
    pub seen: Report,
    /// The neighbours meanwhile, and how much slower they were than when it was quiet.
    pub neighbours: Latencies,
    /// Questions, connections and tunnels of neighbours that failed, by cause.
    pub failed: BTreeMap<String, u64>,
    /// What the node's proxy used.
    pub proxy: Usage,
    /// Why this was not bounded as it should be; empty when it was.
    pub wrong: Vec<String>,
}

impl Attack {
    /// The figures in one line, for a person who looks on.
    pub fn line(&self) -> String {
        let [kept, new, visit] = self.neighbours.factors();
        let factors = [kept, new, visit].map(|[p50, p99]| format!("{p50:.1}/{p99:.1}"));
        let [before, highest, after] = self.proxy.rss_mib;
        let Rate { connections, units } = self.rate;
        format!(
            "{connections:.0} connections/s, {units:.0} units/s; neighbours p50/p99: kept {}, new \
             {}, tunnels {}, {} answered; proxy {before:.1} -> {highest:.1} -> {after:.1} MiB, \
             {:.2} cores, {} KiB of log; ends {:?} {:?}",
            factors[0],
            factors[1],
            factors[2],
            self.neighbours.answered(),
            self.proxy.cpu_cores,
            self.proxy.log_kib,
            self.seen.ends,
            self.seen.answers,
        )
    }
}

/// How fast an attack came.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rate {
    /// Connections per second.
    pub connections: f64,
    /// Frames, bytes, records or requests per second.
    pub units: f64,
}

/// The figures of all attacks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The neighbours without an attack, before the first.
    pub quiet: Latencies,
    /// The largest factor of a neighbour's median, over all attacks.
    pub worst_factor_p50: f64,
    /// The same of the 99th percentile.
    pub worst_factor_p99: f64,
    /// Questions of neighbours that were answered while something attacked.
    pub answered: usize,
    /// Those that failed.
    pub failed: u64,
    /// Resident memory of the node's proxy before the first attack and after the last, MiB.
    pub rss_mib: [f64; 2],
    /// Each attack.
    pub attacks: Vec<Attack>,
}

impl Figures {
    /// What is not as promised.
    pub fn wrong(&self) -> Vec<String> {
        let of = |attack: &Attack| {
            let name = attack.name.clone();
            let failed = attack.failed.iter();
            let failed = failed.map(|(cause, count)| format!("{count} neighbours failed: {cause}"));
            let wrong: Vec<String> = failed.chain(attack.wrong.iter().cloned()).collect();
            wrong.into_iter().map(move |why| format!("{name}: {why}"))
        };
        let mut wrong: Vec<String> = self.attacks.iter().flat_map(of).collect();
        let [before, after] = self.rss_mib;
        if after > before + gauge::KEPT_MIB {
            wrong.push(format!("the proxy grew from {before:.1} to {after:.1} MiB"));
        }
        wrong
    }

    /// Adds an attack.
    pub fn take(&mut self, attack: Attack) {
        let factors = attack.neighbours.factors();
        self.worst_factor_p50 = factors
            .iter()
            .fold(self.worst_factor_p50, |w, f| w.max(f[0]));
        self.worst_factor_p99 = factors
            .iter()
            .fold(self.worst_factor_p99, |w, f| w.max(f[1]));
        self.answered += attack.neighbours.answered();
        self.failed += attack.failed.values().sum::<u64>();
        self.rss_mib[1] = attack.proxy.rss_mib[2];
        self.attacks.push(attack);
    }
}

/// All attacks, on a mesh of its own; its logs go to `logs`, whatever happens.
pub fn prove(plan: &Plan, interrupt: &Interrupt, logs: PathBuf) -> anyhow::Result<Figures> {
    let mut bed = Bed::up(interrupt, logs)?;
    let mut figures = bed.calm(plan)?;
    for (name, attack) in peers::ALL.iter().chain(pods::ALL) {
        eprintln!("hostile: {name}");
        let done = attack(&bed, plan, name)?;
        eprintln!("    {}", done.line());
        figures.take(done);
    }
    bed.settle(&mut figures)?;
    bed.down()?;
    Ok(figures)
}

/// Runs one attack under a name.
pub type Run = fn(&Bed, &Plan, &str) -> anyhow::Result<Attack>;
