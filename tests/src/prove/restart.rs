//! Agents and proxies are killed under load.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use world::Process;

use super::Plan;
use super::bed::{Bed, addresses};
use crate::traffic::{HoldReport, LoadReport};

/// How long a node is without its agent.
const WITHOUT_AGENT: Duration = Duration::from_millis(1500);
/// How long a node is without its proxy: connections wait in the agent's listeners.
const WITHOUT_PROXY: Duration = Duration::from_millis(1500);
/// How long the load goes on after each restart.
const AFTER: Duration = Duration::from_secs(1);
/// Connections that wait for the next proxy, from each of two pods.
const WAITING: u64 = 40;

/// What became of the connections.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Agents killed with SIGKILL and started again.
    pub restarts: usize,
    /// Short connections made meanwhile, and those that waited for a proxy.
    pub connections: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// The same by cause.
    pub causes: BTreeMap<String, u64>,
    /// Connections that lived through all restarts of the agents ...
    pub long_lived: u64,
    /// ... with every byte right.
    pub long_lived_kept: u64,
    /// Proxies killed with SIGKILL and started again.
    pub proxy_kills: usize,
    /// Connections opened while no proxy ran, served by the next.
    pub waited: u64,
    /// Live connections that ended with a killed proxy; no failure, by nature.
    pub lost_with_proxy: u64,
}

impl Figures {
    /// What is not as promised.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.failed > 0 {
            wrong.push(format!(
                "agent_restart: {} failed: {:?}",
                self.failed, self.causes
            ));
        }
        if self.long_lived_kept != self.long_lived {
            let (kept, all) = (self.long_lived_kept, self.long_lived);
            wrong.push(format!("agent_restart: {kept} of {all} long-lived kept"));
        }
        wrong
    }

    fn take(&mut self, report: &LoadReport) {
        self.connections += report.connections;
        self.failed += report.failures();
        for (cause, count) in &report.failed {
            *self.causes.entry(cause.clone()).or_default() += count;
        }
    }
}

/// Short connections and held ones between captured pods, on one node and across.
pub struct Clients {
    loads: Vec<Process>,
    holds: Vec<Process>,
}

impl Clients {
    /// Starts them; `words` are arguments of the loads, `each` of the holds.
    pub fn start(bed: &mut Bed, words: &str, each: usize) -> anyhow::Result<Self> {
        let pods = &bed.mesh.pods;
        let servers = addresses(&[&pods.web_v1, &pods.web_v2]);
        let client = addresses(&[&pods.client]);
        let (near, far) = (pods.client.place().clone(), pods.web_v2.place().clone());
        let holds = vec![
            bed.hold(&near, &servers, each)?,
            bed.hold(&far, &client, each)?,
        ];
        let loads = vec![
            bed.load(&near, &servers, words)?,
            bed.load(&far, &client, words)?,
        ];
        Ok(Clients { loads, holds })
    }

    /// Whether every load has told that it made so many connections.
    pub fn made(&self, count: u64) -> bool {
        let told = format!("made {count}\n");
        self.loads.iter().all(|load| load.log().contains(&told))
    }

    /// Ends them and gives what became of all.
    pub fn finish(self, bed: &Bed) -> anyhow::Result<(LoadReport, HoldReport)> {
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

/// Runs the proof; both nodes in turn.
pub fn prove(bed: &mut Bed, plan: &Plan) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let clients = Clients::start(bed, "--workers 4 --pause 40", 2 * plan.each)?;
    for turn in 0..plan.restarts {
        let node = turn % bed.mesh.nodes.len();
        bed.kill_agent(node)?;
        bed.sleep(WITHOUT_AGENT)?;
        bed.start_agent(node)?;
        bed.sleep(AFTER)?;
        figures.restarts += 1;
    }
    let (loads, holds) = clients.finish(bed)?;
    figures.take(&loads);
    figures.long_lived = holds.tried;
    figures.long_lived_kept = holds.kept;
    for turn in 0..plan.kills {
        without_proxy(bed, turn % bed.mesh.nodes.len(), &mut figures)?;
    }
    Ok(figures)
}

fn without_proxy(bed: &mut Bed, node: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let pods = &bed.mesh.pods;
    let (near, far) = (pods.client.place().clone(), pods.web_v2.place().clone());
    let (servers, client) = (addresses(&[&pods.web_v2]), addresses(&[&pods.client]));
    let held = bed.hold(&near, &servers, 4)?;
    bed.kill_proxy(node)?;
    let words = format!("--count {WAITING} --workers {WAITING} --pause 0");
    let waiting = [
        bed.load(&near, &servers, &words)?,
        bed.load(&far, &client, &words)?,
    ];
    bed.sleep(WITHOUT_PROXY)?;
    bed.start_proxy(node)?;
    for client in &waiting {
        let report = bed.result::<LoadReport>(client)?;
        figures.waited += report.streams;
        figures.take(&report);
    }
    let held: HoldReport = bed.finish(&held)?;
    figures.lost_with_proxy += held.tried - held.kept;
    figures.proxy_kills += 1;
    Ok(())
}
