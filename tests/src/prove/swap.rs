//! Proxies are replaced under load: the next starts on the same listeners, the first drains.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Plan;
use super::bed::Bed;
use super::restart::Clients;

/// The load goes on after the swaps until there were enough connections, but no longer.
pub const LOAD_FOR_AT_MOST: Duration = Duration::from_secs(240);
/// Between two swaps.
const BETWEEN: Duration = Duration::from_secs(1);

/// What became of the connections.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Proxies replaced.
    pub swaps: usize,
    /// Short connections made meanwhile.
    pub connections: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// The same by cause.
    pub causes: BTreeMap<String, u64>,
    /// Connections that were opened before the first swap ...
    pub long_lived: u64,
    /// ... and lived to the end with every byte right.
    pub long_lived_kept: u64,
    /// Replaced proxies that ended by themselves with code 0.
    pub ended_clean: usize,
}

impl Figures {
    /// What is not as promised.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.failed > 0 {
            wrong.push(format!("swap: {} failed: {:?}", self.failed, self.causes));
        }
        if self.long_lived_kept != self.long_lived {
            let (kept, all) = (self.long_lived_kept, self.long_lived);
            wrong.push(format!("swap: {kept} of {all} long-lived kept"));
        }
        wrong
    }
}

/// Runs the proof; both nodes in turn.
pub fn prove(bed: &mut Bed, plan: &Plan) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let start = Instant::now();
    let half = plan.connections.div_ceil(2);
    let words = format!("--workers 8 --pause 10 --tell {half}");
    let clients = Clients::start(bed, &words, 2 * plan.each)?;
    while figures.swaps < plan.swaps {
        bed.swap(figures.swaps % bed.mesh.nodes.len())?;
        figures.swaps += 1;
        bed.sleep(BETWEEN)?;
    }
    while half > 0 && start.elapsed() < LOAD_FOR_AT_MOST && !clients.made(half) {
        bed.sleep(Duration::from_millis(100))?;
    }
    let (loads, holds) = clients.finish(bed)?;
    figures.connections = loads.connections;
    figures.failed = loads.failures();
    figures.causes = loads.failed;
    figures.long_lived = holds.tried;
    figures.long_lived_kept = holds.kept;
    figures.ended_clean = bed.drained()?;
    Ok(figures)
}
