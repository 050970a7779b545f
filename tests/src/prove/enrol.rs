//! A running pod is let go and captured by command, with live connections of every kind.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;
use world::Process;

use super::Plan;
use super::bed::{Bed, addresses};
use crate::traffic::{HoldReport, LoadReport};

/// New connections that show whether the pod is captured, in each direction.
const NEW: u64 = 10;
/// A connection's record is in the log within this after its end.
const LOGGED_WITHIN: Duration = Duration::from_secs(10);
/// How long all live after each change before the next.
const LIVE: Duration = Duration::from_millis(1500);

/// What became of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Live connections, each through at least one change.
    pub tried: u64,
    /// Those that lived to the end with every byte right.
    pub kept: u64,
    /// Lost ones by cause.
    pub lost: BTreeMap<String, u64>,
    /// Questions answered over all of them.
    pub rounds: u64,
    /// Times that the pod was let go and captured again.
    pub cycles: usize,
    /// Connections opened right after an enrolment, from the pod and to it.
    pub new_after_enrol: u64,
    /// Those that the proxy's access log has.
    pub new_captured: u64,
    /// Connections opened right after letting go.
    pub new_after_unenrol: u64,
    /// Those that the access log does not have.
    pub new_plain: u64,
    /// New connections that failed, by cause.
    pub new_failed: BTreeMap<String, u64>,
}

impl Figures {
    /// What is not as promised.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.kept != self.tried {
            wrong.push(format!("enrol: {} of {} kept", self.kept, self.tried));
        }
        if self.new_captured != self.new_after_enrol || self.new_plain != self.new_after_unenrol {
            wrong.push("enrol: new connections took another way".to_owned());
        }
        if !self.new_failed.is_empty() {
            wrong.push(format!(
                "enrol: new connections failed: {:?}",
                self.new_failed
            ));
        }
        wrong
    }
}

/// Runs the proof on the pod `client`, which is captured before and after.
pub fn prove(bed: &mut Bed, plan: &Plan) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let mut held = generation(bed, plan.each)?;
    for _ in 0..plan.cycles {
        bed.steer("unenrol", &bed.mesh.pods.client)?;
        let (captured, made) = new_connections(bed, &mut figures, 0)?;
        figures.new_after_unenrol += made;
        figures.new_plain += made.saturating_sub(captured);
        bed.wait_tunnelled(&bed.mesh.pods.client, false)?;
        held.extend(generation(bed, plan.each)?);
        bed.sleep(LIVE)?;
        bed.steer("enrol", &bed.mesh.pods.client)?;
        let (captured, made) = new_connections(bed, &mut figures, 2 * NEW)?;
        figures.new_after_enrol += made;
        figures.new_captured += captured;
        bed.wait_tunnelled(&bed.mesh.pods.client, true)?;
        held.extend(generation(bed, plan.each)?);
        bed.sleep(LIVE)?;
        figures.cycles += 1;
    }
    // The last generation lives through a change too.
    bed.steer("unenrol", &bed.mesh.pods.client)?;
    bed.sleep(LIVE)?;
    bed.steer("enrol", &bed.mesh.pods.client)?;
    bed.sleep(LIVE)?;
    let mut all = HoldReport::default();
    for client in &held {
        all.add(&bed.finish(client)?);
    }
    figures.tried = all.tried;
    figures.kept = all.kept;
    figures.lost = all.lost;
    figures.rounds = all.rounds;
    bed.wait_tunnelled(&bed.mesh.pods.client, true)?;
    Ok(figures)
}

/// Held connections from the pod and to it, both families: to and from captured pods on both
/// nodes, a pod that is not captured, and a machine outside.
fn generation(bed: &mut Bed, each: usize) -> anyhow::Result<Vec<Process>> {
    let pods = &bed.mesh.pods;
    let outside = [bed.mesh.outside.ipv4(), bed.mesh.outside.ipv6()];
    let mut from_it = addresses(&[&pods.web_v1, &pods.web_v2]);
    from_it.extend(outside);
    let to_it = addresses(&[&pods.client]);
    let sources = [
        pods.web_v2.place().clone(),
        pods.legacy.place().clone(),
        bed.mesh.outside.place().clone(),
    ];
    let own = pods.client.place().clone();
    let mut held = vec![bed.hold(&own, &from_it, each)?];
    for source in sources {
        held.push(bed.hold(&source, &to_it, each)?);
    }
    Ok(held)
}

/// Opens connections from the pod and to it at once after a change: how many of them the access
/// log has, and how many were made.
fn new_connections(
    bed: &mut Bed,
    figures: &mut Figures,
    wanted: u64,
) -> anyhow::Result<(u64, u64)> {
    let count = |bed: &Bed| {
        let (from, to) = bed.captured(&bed.mesh.pods.client);
        (from + to) as u64
    };
    let before = count(bed);
    let pods = &bed.mesh.pods;
    let (own, legacy) = (pods.client.place().clone(), pods.legacy.place().clone());
    let (from_it, to_it) = (
        addresses(&[&pods.web_v1, &pods.web_v2]),
        addresses(&[&pods.client]),
    );
    let words = format!("--count {NEW} --workers 2");
    let clients = [
        bed.load(&own, &from_it, &words)?,
        bed.load(&legacy, &to_it, &words)?,
    ];
    let mut all = LoadReport::default();
    for client in &clients {
        all.add(&bed.result(client)?);
    }
    ensure!(all.connections == 2 * NEW, "{all:?}");
    for (cause, count) in &all.failed {
        *figures.new_failed.entry(cause.clone()).or_default() += count;
    }
    if wanted > 0 {
        bed.eventually(LOGGED_WITHIN, || count(bed) >= before + wanted)?;
    } else {
        // Long enough for a record that should not come.
        bed.sleep(LIVE)?;
    }
    Ok((count(bed) - before, 2 * NEW))
}
