//! The disk with the agent's records, the control plane's state and all their logs is full.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, ensure};
use scenarios::prove::bed::addresses;
use scenarios::traffic::HoldReport;
use world::Program;
use world::stack::Binaries;

use super::ground::{Ground, Traces};

/// The CNI code of a pod that could not be captured.
const NOT_CAPTURED: u64 = 100;
/// What the kernel says.
const FULL: &str = "No space left on device";

/// Fills it, tries everything, and makes room again.
pub fn full(ground: &mut Ground) -> anyhow::Result<()> {
    // On the node of the disk: the other node's proxy is replaced meanwhile.
    let pods = &ground.bed.mesh.pods;
    let (client, server) = (pods.client.place().clone(), addresses(&[&pods.web_v1]));
    let held = ground.bed.hold(&client, &server, 4)?;
    let filler = ground.disk.join("filler");
    fill(&filler)?;
    let tried = without_space(ground);
    fs::remove_file(&filler)?;
    tried?;
    ground.adds().context("with space again")?;
    let log = ground.disk.join("node-1.ztunnel.log");
    let size = fs::metadata(&log)?.len();
    ground.works()?;
    ground.eventually("the proxy's log goes on", |_| {
        Ok(fs::metadata(&log)?.len() > size)
    })?;
    let report: HoldReport = ground.bed.finish(&held)?;
    ensure!(
        report.kept == report.tried && report.tried == 8,
        "{report:?}"
    );
    Ok(())
}

fn without_space(ground: &mut Ground) -> anyhow::Result<()> {
    let pod = ground.spare()?;
    let refused = ground.refused(&pod);
    let left = ground.left(&pod);
    let phase = ground.phase(&pod);
    pod.delete()?;
    let (code, text) = refused?;
    let records = ground.bed.mesh.nodes[0].node.directory().join("cni/pods");
    ensure!(
        code == NOT_CAPTURED && text.contains(FULL),
        "ADD answered {code}: {text}"
    );
    ensure!(
        text.contains(&*records.to_string_lossy()),
        "{} is not named: {text}",
        records.display()
    );
    let (left, phase) = (left?, phase?);
    ensure!(
        left == Traces::default() && phase.is_empty(),
        "{phase:?} {left:?}"
    );
    println!("    ADD: {text}");

    let (token, text) = rotate(ground)?;
    ensure!(!token, "a token was made without space for it");
    ensure!(
        text.contains(FULL) && text.contains("culvertd"),
        "culvertd token: {text}"
    );
    println!("    culvertd token: {text}");
    // Certificates are issued and the old tokens are taken.
    ground.bed.kill_proxy(1)?;
    ground.bed.start_proxy(1)?;
    let logs = ground.disk.join("node-1.ztunnel.log");
    let size = fs::metadata(&logs)?.len();
    for _ in 0..4 {
        ground.works()?;
    }
    ensure!(
        fs::metadata(&logs)?.len() < size + 4096,
        "the log grew: the disk was not full"
    );
    for part in &ground.bed.mesh.nodes {
        ensure!(part.agent.ended().is_none() && part.ztunnel.ended().is_none());
    }
    ensure!(ground.bed.mesh.culvertd.ended().is_none());
    Ok(())
}

/// Rotates the token of a node that is not there: whether it did, and what it said.
fn rotate(ground: &Ground) -> anyhow::Result<(bool, String)> {
    let state = ground.bed.mesh.world.directory().join("culvertd");
    let out = ground.bed.mesh.world.directory().join("token-of-nobody");
    let program = Program::new(Binaries::of_this_build()?.path("culvertd"))
        .args(["token", "--node", "nobody", "--state"])
        .arg(state)
        .arg("--out")
        .arg(out);
    let output = ground.bed.mesh.control.host().place().run(&program)?;
    Ok((output.ok(), output.stderr.trim().to_owned()))
}

/// Writes a file until nothing fits any more.
fn fill(path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    for size in [1024 * 1024, 4096, 1] {
        loop {
            match file.write(&vec![0; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
