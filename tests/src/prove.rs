//! What `make prove` and `make soak` do: nothing that lives breaks, whatever restarts.
//!
//! Each proof drives real programs in a mesh that is up and gives figures; the programs `traffic`
//! in the pods check every byte. It must not know how the mesh keeps its promises.

pub mod bed;
pub mod cold;
pub mod enrol;
pub mod hostile;
pub mod proxy;
pub mod repairs;
pub mod restart;
pub mod soak;
pub mod swap;
pub mod usage;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use world::Interrupt;

pub use bed::Bed;
use proxy::{Change, Swap};

/// How much of each proof is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Times that the pod is let go and captured again.
    pub cycles: usize,
    /// Held connections to each address, in each generation.
    pub each: usize,
    /// Times that an agent is killed.
    pub restarts: usize,
    /// Times that a proxy is killed while connections come.
    pub kills: usize,
    /// The proxies that are replaced, in this order.
    pub swaps: &'static [Swap],
    /// Those that are replaced while the control plane does not run.
    pub swaps_alone: &'static [Swap],
    /// Connections that the swaps see at least; bounded by [`swap::LOAD_FOR_AT_MOST`].
    pub connections: u64,
    /// The attacks; none: `make test` runs them by themselves.
    pub attacks: Option<hostile::Plan>,
}

/// The figures of issue B: minutes.
pub const LONG: Plan = Plan {
    cycles: 3,
    each: 4,
    restarts: 6,
    kills: 3,
    swaps: &[
        Swap::by_handover(0, Change::Nothing),
        Swap::by_handover(1, Change::Nothing),
        Swap::by_handover(0, Change::Binary),
        Swap::by_handover(1, Change::Binary),
        Swap::by_handover(0, Change::Flags),
        Swap::by_handover(1, Change::Flags),
        Swap::by_signal(0),
        Swap::by_signal(1),
    ],
    swaps_alone: &[
        Swap::by_handover(0, Change::Nothing),
        Swap::by_handover(1, Change::Binary),
        Swap::by_handover(0, Change::Flags),
        Swap::by_handover(1, Change::Nothing),
    ],
    connections: 20_000,
    attacks: Some(hostile::LONG),
};

/// A small part of everything: seconds.
pub const SHORT: Plan = Plan {
    cycles: 1,
    each: 1,
    restarts: 2,
    kills: 1,
    swaps: &[Swap::by_handover(0, Change::Binary), Swap::by_signal(1)],
    swaps_alone: &[Swap::by_handover(1, Change::Flags)],
    connections: 0,
    attacks: None,
};

/// `target/prove/report.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Live connections of a pod that is let go and captured.
    pub enrol_keeps_connections: enrol::Figures,
    /// Agents and proxies killed under load.
    pub agent_restart: restart::Figures,
    /// Proxies replaced under load.
    pub swap: swap::Figures,
    /// A proxy started with nobody to ask.
    pub cold_start: cold::Figures,
    /// Parts of a capture removed by hand.
    pub repairs: repairs::Figures,
    /// Neighbours of attacked pods; none when nothing attacked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostile: Option<hostile::Figures>,
}

impl Report {
    /// What is not as promised, in words; empty when all is.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = self.enrol_keeps_connections.wrong();
        wrong.extend(self.agent_restart.wrong());
        wrong.extend(self.swap.wrong());
        wrong.extend(self.cold_start.wrong());
        wrong.extend(self.repairs.wrong());
        wrong.extend(self.hostile.iter().flat_map(hostile::Figures::wrong));
        wrong
    }
}

/// All proofs on one mesh, and the attacks on another; the logs go beside the report, whatever
/// happens.
pub fn everything(plan: &Plan, interrupt: &Interrupt, logs: PathBuf) -> anyhow::Result<Report> {
    let attacked = logs.with_file_name("logs-hostile");
    let mut bed = Bed::up(interrupt, logs)?;
    eprintln!("enrol and un-enrol with live connections");
    let enrol_keeps_connections = enrol::prove(&mut bed, plan)?;
    eprintln!("agents and proxies killed under load");
    let agent_restart = restart::prove(&mut bed, plan)?;
    eprintln!("proxies replaced under load");
    let swap = swap::prove(&mut bed, plan)?;
    eprintln!("a proxy with nobody to ask");
    let cold_start = cold::prove(&mut bed)?;
    eprintln!("parts of a capture removed by hand");
    let repairs = repairs::prove(&bed)?;
    bed.down()?;
    let attack = |plan: &hostile::Plan| hostile::prove(plan, interrupt, attacked);
    let hostile = plan.attacks.as_ref().map(attack).transpose()?;
    Ok(Report {
        enrol_keeps_connections,
        agent_restart,
        swap,
        cold_start,
        repairs,
        hostile,
    })
}

/// Writes a report as JSON, with its directory.
pub fn write(path: &Path, report: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))
        .and_then(|()| fs::write(path, format!("{text}\n")))
        .with_context(|| format!("write {}", path.display()))
}
