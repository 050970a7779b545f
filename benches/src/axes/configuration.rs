//! Configuration: a ztunnel that a feeder gives 1,000 to 50,000 workloads, and then single changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use world::{Program, World};

use crate::bed::{Options, ztunnels as binaries};
use crate::figures::Figures;

/// Workloads of the cases.
pub(crate) const SIZES: [usize; 3] = [1000, 10_000, 50_000];
/// Longer than any of it takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Rounds of a run of so many: only the largest mesh has figures to reach.
pub(crate) fn rounds(workloads: usize, rounds: usize) -> usize {
    match workloads {
        50_000 => rounds,
        _ => rounds.min(2),
    }
}

/// Names of paths and ztunnels: the back end plays no part in it.
pub(crate) fn ztunnels(options: &Options) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let named = binaries(&options.ztunnels)?
        .into_iter()
        .map(|(name, binary)| match &*name {
            "" => ("culvert".to_owned(), binary),
            name => (format!("culvert/{name}"), binary),
        });
    Ok(named.collect())
}

/// One round in a network namespace of its own.
pub(crate) fn run(ztunnel: &Path, workloads: usize) -> anyhow::Result<Figures> {
    let mut world = World::new()?;
    let host = world.host("feeder")?;
    let program = Program::new(std::env::current_exe()?)
        .args(["configure", &workloads.to_string()])
        .arg(ztunnel)
        .arg(world.directory())
        .limit(LIMIT);
    let text = host.place().text(&program)?;
    serde_json::from_str(&text).with_context(|| format!("output of the feeder:\n{text}"))
}
