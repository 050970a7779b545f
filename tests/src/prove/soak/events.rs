//! The load of a soak, and what happens to it.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use serde::Serialize;
use world::Process;

use super::Part;
use crate::prove::bed::{Bed, addresses};
use crate::prove::proxy::{Change, Swap};
use crate::traffic::moment::Moment;
use crate::traffic::{Failed, HoldReport, LoadReport};

/// How long a node is without its agent, and the mesh without its control plane, at most, in
/// milliseconds.
const WITHOUT_MS: u64 = 2000;
/// How long a pod is out of the mesh at most, in milliseconds.
const UNENROLLED_MS: u64 = 4000;
/// Held connections of one client to each address.
const HELD_EACH: usize = 2;

/// The pods of the clients, in the order of loads and holds.
const CLIENTS: [&str; 3] = ["client", "web-v2", "intruder"];

/// What happened, and when: times of day as in the logs.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Its name.
    pub what: &'static str,
    /// To which node; none for what happened to the mesh.
    pub node: Option<usize>,
    /// When it began.
    pub began: String,
    /// When it was over.
    pub ended: String,
}

/// Mixed load between captured pods, from one that comes and goes, and to the outside.
pub(super) struct Load {
    loads: Vec<Process>,
    holds: Vec<Process>,
    /// Of clients that have ended.
    held: HoldReport,
}

impl Load {
    pub(super) fn start(bed: &mut Bed, seed: u64) -> anyhow::Result<Self> {
        let pods = &bed.mesh.pods;
        let mut servers = addresses(&[&pods.web_v1, &pods.web_v2]);
        let client = addresses(&[&pods.client]);
        let [near, far, moving] =
            [&pods.client, &pods.web_v2, &pods.intruder].map(|pod| pod.place().clone());
        let holds = vec![hold(bed, 0)?, hold(bed, 1)?, hold(bed, 2)?];
        servers.extend([bed.mesh.outside.ipv4(), bed.mesh.outside.ipv6()]);
        let words = |more: u64| {
            let seed = seed.wrapping_mul(10) + more;
            format!("--mixed --workers 6 --pause 60 --seed {seed}")
        };
        let loads = vec![
            bed.load(&near, &servers, &words(0))?,
            bed.load(&far, &client, &words(1))?,
            bed.load(&moving, &servers, &words(2))?,
        ];
        Ok(Load {
            loads,
            holds,
            held: HoldReport::default(),
        })
    }

    /// Ends the held connections of one client and opens others, which newer proxies carry.
    fn renew(&mut self, bed: &mut Bed, which: usize) -> anyhow::Result<()> {
        let next = hold(bed, which)?;
        let before = std::mem::replace(&mut self.holds[which], next);
        self.finish_hold(bed, which, &before)
    }

    fn finish_hold(&mut self, bed: &Bed, which: usize, client: &Process) -> anyhow::Result<()> {
        let mut report: HoldReport = bed.finish(client)?;
        name(&mut report.noted, which);
        self.held.add(&report);
        Ok(())
    }

    pub(super) fn finish(mut self, bed: &Bed) -> anyhow::Result<(LoadReport, HoldReport)> {
        let mut loads = LoadReport::default();
        for (which, client) in self.loads.iter().enumerate() {
            let mut report: LoadReport = bed.finish(client)?;
            name(&mut report.noted, which);
            loads.add(&report);
        }
        let holds = std::mem::take(&mut self.holds);
        for (which, client) in holds.iter().enumerate() {
            self.finish_hold(bed, which, client)?;
        }
        Ok((loads, self.held))
    }
}

fn name(failed: &mut [Failed], which: usize) {
    for failed in failed {
        failed.from = CLIENTS[which].to_owned();
    }
}

/// Held connections of one of three clients: on the first node, on the second, and in the pod
/// that comes and goes.
fn hold(bed: &mut Bed, which: usize) -> anyhow::Result<Process> {
    let pods = &bed.mesh.pods;
    let source = [&pods.client, &pods.web_v2, &pods.intruder][which];
    let to = match which {
        1 => addresses(&[&pods.client]),
        _ => addresses(&[&pods.web_v1, &pods.web_v2]),
    };
    let place = source.place().clone();
    bed.hold(&place, &to, HELD_EACH)
}

/// One thing happens.
pub(super) fn happen(
    bed: &mut Bed,
    load: &mut Load,
    random: &mut SmallRng,
    part: Part,
) -> anyhow::Result<Event> {
    let began = Moment::now();
    let (what, node) = one(bed, load, random, part)?;
    Ok(Event {
        what,
        node,
        began: began.to_string(),
        ended: Moment::now().to_string(),
    })
}

type What = (&'static str, Option<usize>);

fn one(bed: &mut Bed, load: &mut Load, random: &mut SmallRng, part: Part) -> anyhow::Result<What> {
    let any = random.random_range(0..bed.mesh.nodes.len());
    let spared = part == Part::Survivors;
    match random.random_range(0..6) {
        0 | 1 => swap(bed, if spared { 0 } else { any }, random),
        2 => {
            let node = if spared { 1 } else { any };
            bed.kill_agent(node)?;
            pause(bed, random, WITHOUT_MS)?;
            bed.start_agent(node)?;
            Ok(("agent_restart", Some(node)))
        }
        3 => {
            load.renew(bed, random.random_range(0..3))?;
            Ok(("held_renewed", None))
        }
        4 if !spared => {
            bed.kill_control()?;
            pause(bed, random, WITHOUT_MS)?;
            // Without it only a handover gives certificates.
            bed.swap(Swap::by_handover(any, Change::Binary))?;
            bed.start_control()?;
            bed.mesh.wait_known()?;
            Ok(("control_plane_restart_and_swap", Some(any)))
        }
        _ => {
            bed.steer("unenrol", &bed.mesh.pods.intruder)?;
            pause(bed, random, UNENROLLED_MS)?;
            bed.steer("enrol", &bed.mesh.pods.intruder)?;
            Ok(("unenrol_enrol", Some(0)))
        }
    }
}

fn swap(bed: &mut Bed, node: usize, random: &mut SmallRng) -> anyhow::Result<What> {
    let (swap, name) = match random.random_range(0..4) {
        0 => (Swap::by_signal(node), "swap_by_signal"),
        1 => (Swap::by_handover(node, Change::Nothing), "swap"),
        2 => (Swap::by_handover(node, Change::Binary), "swap_binary"),
        _ => (Swap::by_handover(node, Change::Flags), "swap_flags"),
    };
    bed.swap(swap)?;
    Ok((name, Some(node)))
}

/// The proxies of some nodes anew, with the flags of the first ones: only such can be compared.
pub(super) fn same_proxies(
    bed: &mut Bed,
    nodes: impl IntoIterator<Item = usize>,
) -> anyhow::Result<()> {
    for node in nodes {
        bed.swap(Swap::by_handover(node, Change::Nothing))?;
    }
    Ok(())
}

fn pause(bed: &Bed, random: &mut SmallRng, most_ms: u64) -> anyhow::Result<()> {
    bed.sleep(Duration::from_millis(random.random_range(0..most_ms)))
}
