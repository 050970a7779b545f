//! Cold tunnels: handshakes a second of the terminating proxy, and what each costs it.

use std::time::Duration;

use anyhow::Context;

use super::{cpu_us_per, figures, latencies, load_at_peer, measured};
use crate::bed::Path;
use crate::figures::Figures;

/// Handshakes at the same time.
const AT_ONCE: u32 = 16;

pub(super) fn run(path: &Path, length: Duration) -> anyhow::Result<Figures> {
    let words = [AT_ONCE.to_string(), length.as_secs_f64().to_string()];
    let load = || load_at_peer(path, "cold", &words, length);
    // The originating proxy has no part in it, so that it counts nothing.
    let (summary, used) = measured(&path.alone(), |_| 0, load)?;
    anyhow::ensure!(summary.failed == 0, "{} handshakes failed", summary.failed);
    let done = summary.done as f64;
    let mut all = latencies(&summary);
    all.extend(cpu_us_per(done, used));
    all.extend(figures([("handshakes_s", done / summary.seconds)]));
    Ok(all)
}

/// Whether a path has a terminating proxy to make tunnels to.
pub(super) fn is_for(path: &Path) -> bool {
    path.tunnels.is_some()
}

/// The program that opens tunnels to the path's terminating proxy.
pub(super) fn program(path: &Path, verb: &str, words: &[String]) -> anyhow::Result<world::Program> {
    let tunnels = path.tunnels.as_ref().context("the path has no tunnels")?;
    // Outside of the pod's cgroup: what this opens must not be captured.
    let netns = format!("--net={}", path.client.netns().display());
    Ok(world::Program::new("nsenter")
        .arg(netns)
        .arg(std::env::current_exe()?)
        .args(["load", verb])
        .arg(tunnels.peer.to_string())
        .arg(tunnels.authority.to_string())
        .arg(&tunnels.certificates)
        .args(words.iter().cloned()))
}
