//! SIGKILL to agents that have just started.

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use scenarios::prove::bed::{PORT, addresses};
use world::{Place, Process, Program};

use super::ground::Ground;

/// Connections that wait meanwhile, out of a captured pod and into one.
const WAITING: u64 = 12;
/// Agents that are killed as soon as they are ready, under load.
const KILLS: usize = 5;

/// First while the proxy hangs, so that it surely has nothing of the agent that is killed; then
/// under load, as it comes.
pub fn in_succession(ground: &mut Ground) -> anyhow::Result<()> {
    ground.bed.mesh.nodes[0].ztunnel.signal(Signal::SIGSTOP)?;
    let waiting = while_the_proxy_hangs(ground);
    ground.bed.mesh.nodes[0].ztunnel.signal(Signal::SIGCONT)?;
    let report = ground.results(&waiting?)?;
    ensure!(
        report.failures() == 0 && report.streams == 2 * WAITING,
        "of those that waited: {report:?}"
    );
    let mut loads = Vec::new();
    for (from, to) in ground.ends() {
        loads.push(ground.load(&from, &to, "--workers 4 --pause 5")?);
    }
    for _ in 0..KILLS {
        ground.bed.kill_agent(0)?;
        ground.bed.start_agent(0)?;
    }
    let mut made = 0;
    for load in &loads {
        let report: scenarios::traffic::LoadReport = ground.bed.finish(load)?;
        ensure!(report.failures() == 0, "under load: {report:?}");
        made += report.streams;
    }
    println!(
        "    {} waited, {made} under load, {KILLS} kills",
        2 * WAITING
    );
    ground.works()
}

/// Two agents are killed; connections come after the start of the second.
fn while_the_proxy_hangs(ground: &mut Ground) -> anyhow::Result<Vec<Process>> {
    ground.bed.kill_agent(0)?;
    ground.bed.start_agent(0)?;
    let pods = &ground.bed.mesh.pods;
    let (captured, other) = (pods.client.place().clone(), pods.legacy.place().clone());
    let (out, into) = (addresses(&[&pods.web_v2]), addresses(&[&pods.web_v1]));
    let words = format!("--count {WAITING} --workers {WAITING} --pause 0");
    let waiting = vec![
        ground.load(&captured, &out, &words)?,
        ground.load(&other, &into, &words)?,
    ];
    ground.eventually("the connections wait in the listeners", |_| {
        Ok(connected(&captured)? == WAITING as usize && connected(&other)? == WAITING as usize)
    })?;
    ground.bed.kill_agent(0)?;
    ground.bed.start_agent(0).context("the third")?;
    ensure!(
        waiting.iter().all(|load| load.ended().is_none()),
        "connections did not wait"
    );
    Ok(waiting)
}

/// Connections of a pod's programs to the servers.
fn connected(place: &Place) -> anyhow::Result<usize> {
    let program = Program::line(&format!("ss -Htn state established dport = :{PORT}"));
    Ok(place.text(&program)?.lines().count())
}
