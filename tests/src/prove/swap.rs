//! Proxies are replaced under load: the next starts on the same listeners, the first drains.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Plan;
use super::bed::Bed;
use super::proxy::{Change, Swap, Way};
use super::restart::Clients;

/// The load goes on after the swaps until there were enough connections, but no longer.
pub const LOAD_FOR_AT_MOST: Duration = Duration::from_secs(240);
/// Between two swaps.
const BETWEEN: Duration = Duration::from_secs(1);
/// A peer has logged the GOAWAY of a replaced proxy within this.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// What became of the connections.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Proxies replaced.
    pub swaps: usize,
    /// Those of them that handed over state, certificates and keys by the handover socket.
    pub by_handover: usize,
    /// Those whose next proxy was another file.
    pub changed_binary: usize,
    /// Those whose next proxy had other flags.
    pub changed_flags: usize,
    /// Those made while the control plane, which is the CA too, did not run.
    pub without_control_plane: usize,
    /// Those after which the proxy of the other node saw a GOAWAY.
    pub goaway_seen: usize,
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
        if self.goaway_seen != self.swaps {
            let (seen, all) = (self.goaway_seen, self.swaps);
            wrong.push(format!("swap: GOAWAY seen after {seen} of {all}"));
        }
        if self.ended_clean != self.swaps {
            let (ended, all) = (self.ended_clean, self.swaps);
            wrong.push(format!("swap: {ended} of {all} replaced ended well"));
        }
        wrong
    }

    fn count(&mut self, swap: Swap) {
        self.swaps += 1;
        self.by_handover += usize::from(swap.way == Way::Handover);
        self.changed_binary += usize::from(swap.change == Change::Binary);
        self.changed_flags += usize::from(swap.change == Change::Flags);
    }
}

/// Runs the proof.
pub fn prove(bed: &mut Bed, plan: &Plan) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let start = Instant::now();
    let half = plan.connections.div_ceil(2);
    let words = format!("--workers 8 --pause 10 --tell {half}");
    let clients = Clients::start(bed, &words, 2 * plan.each)?;
    bed.sleep(BETWEEN)?;
    for swap in plan.swaps {
        one(bed, *swap, &mut figures)?;
    }
    bed.kill_control()?;
    for swap in plan.swaps_alone {
        one(bed, *swap, &mut figures)?;
        figures.without_control_plane += 1;
    }
    bed.start_control()?;
    bed.mesh.wait_known()?;
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

fn one(bed: &mut Bed, swap: Swap, figures: &mut Figures) -> anyhow::Result<()> {
    let peer = (swap.node + 1) % bed.mesh.nodes.len();
    let before = bed.goaways(peer);
    bed.swap(swap)?;
    figures.count(swap);
    let seen = bed.eventually(SEEN_WITHIN, || bed.goaways(peer) > before)?;
    figures.goaway_seen += usize::from(seen);
    bed.sleep(BETWEEN)
}
