//! A bpffs that takes no new pins.

use std::time::Duration;

use anyhow::{Context, ensure};
use world::Program;

use super::ground::{Ground, Traces};

/// The CNI code of a pod that could not be captured.
const NOT_CAPTURED: u64 = 100;

/// Remounts that of node-1 read-only, tries, and mounts it writable again.
pub fn read_only(ground: &mut Ground) -> anyhow::Result<()> {
    remount(ground, "ro")?;
    let pod = ground.spare()?;
    let refused = ground.refused(&pod);
    let works = ground.works();
    remount(ground, "rw")?;
    let left = ground.left(&pod);
    pod.delete()?;
    let (code, text) = refused?;
    ensure!(
        code == NOT_CAPTURED && text.contains("bpffs") && text.contains("Read-only file system"),
        "ADD answered {code}: {text}"
    );
    works.context("captured pods")?;
    ensure!(left? == Traces::default());
    println!("    ADD: {text}");
    ground.adds().context("writable again")
}

fn remount(ground: &Ground, how: &str) -> anyhow::Result<()> {
    let node = &ground.bed.mesh.nodes[0].node;
    let options = format!("remount,{how}");
    let program = Program::new("mount")
        .args(["-o", &options])
        .arg(node.bpffs());
    node.run(&program)?.success()?;
    Ok(())
}

/// Longer than two records of connections that ended together are apart.
const RECORDS_PAUSE: Duration = Duration::from_millis(500);
/// Short connections that are watched while the bpffs is not there, each way.
const WATCHED: u64 = 8;

/// Unmounts that of node-1, which takes all pins with it, and mounts a new one. The agent holds
/// what was pinned.
pub fn unmounted(ground: &mut Ground) -> anyhow::Result<()> {
    let node = ground.bed.mesh.nodes[0].node.clone();
    node.run(&Program::new("umount").arg(node.bpffs()))?
        .success()?;
    let pod = ground.spare()?;
    let refused = ground.refused(&pod);
    let verdict = ground.bed.ask_agent(&["verify"]);
    let captured = goes_on(ground);
    let program = Program::line("mount -t bpf -o mode=0700 bpf").arg(node.bpffs());
    node.run(&program)?.success()?;
    pod.delete()?;
    captured.context("while it was not there")?;
    let (code, text) = refused?;
    ensure!(
        code == NOT_CAPTURED && text.contains("is not on a bpffs"),
        "ADD answered {code}: {text}"
    );
    let verdict = verdict?;
    ensure!(
        !verdict.ok()
            && ["link:", "hook:"]
                .iter()
                .all(|cause| verdict.text().contains(cause)),
        "verify: {}",
        verdict.text()
    );
    // As the agent does by itself every five minutes.
    let repaired = ground.bed.ask_agent(&["verify", "--repair"])?;
    let clean = ground.bed.ask_agent(&["verify"])?;
    ensure!(
        clean.ok(),
        "{} {}: {}",
        repaired.text(),
        repaired.stderr,
        clean.text()
    );
    // The next agent finds all of it on the new bpffs.
    ground.bed.kill_agent(0)?;
    ground.works()?;
    ground.bed.start_agent(0)?;
    println!("    ADD: {text}");
    ground.adds().context("mounted again")
}

/// New connections work, and the proxy has all of them.
fn goes_on(ground: &mut Ground) -> anyhow::Result<()> {
    let (out, into) = logged(ground)?;
    let loads = ground.burst(WATCHED)?;
    let report = ground.results(&loads)?;
    ensure!(report.failures() == 0, "{report:?}");
    ground.eventually("they are in the access log", |ground| {
        let now = ground.bed.captured(&ground.bed.mesh.pods.client);
        // Each way there are as many; a record of an earlier one may have been later still.
        let wanted = WATCHED as usize;
        Ok(now.0 >= out + wanted && now.1 >= into + wanted)
    })
}

/// What the access log has of the client, when no record of an earlier connection comes any more:
/// they are written a moment after their connections' end.
fn logged(ground: &Ground) -> anyhow::Result<(usize, usize)> {
    let mut before = ground.bed.captured(&ground.bed.mesh.pods.client);
    loop {
        ground.bed.sleep(RECORDS_PAUSE)?;
        let now = ground.bed.captured(&ground.bed.mesh.pods.client);
        if now == before {
            return Ok(now);
        }
        before = now;
    }
}
