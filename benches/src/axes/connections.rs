//! A connection for each request: what opening and closing one costs while its tunnel is warm.

use std::time::Duration;

use super::{cpu_us_per, figures, latencies, measured, own_load};
use crate::bed::{HTTP_PORT, Path};
use crate::figures::Figures;

/// Connections that may fail, of those that succeed: more make the run one that failed.
const FAILED_SHARE: f64 = 0.001;

pub(super) fn run(path: &Path, connections: u32, length: Duration) -> anyhow::Result<Figures> {
    let words = [
        "fresh".to_owned(),
        path.address(HTTP_PORT).to_string(),
        connections.to_string(),
        length.as_secs_f64().to_string(),
    ];
    let load = || own_load(path, &words, length);
    let (summary, used) = measured(path, |summary| summary.done, load)?;
    let done = summary.done as f64;
    anyhow::ensure!(
        summary.failed as f64 <= done * FAILED_SHARE,
        "{} connections failed, {done} did not",
        summary.failed
    );
    let mut all = latencies(&summary);
    all.extend(cpu_us_per(done, used));
    all.extend(figures([("connections_s", done / summary.seconds)]));
    Ok(all)
}
