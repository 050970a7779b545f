//! One route of 10,000 changes while requests run: when the first answer has it, and what fails.
//!
//! The time begins when the manifest is in its place: the whole way through culvertd, discovery and
//! the waypoint is in it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use world::Program;

use super::HTTP_PORT;
use super::bed::{Bed, Waypoint};
use super::load::Watched;
use super::manifests;
use crate::axes::{SLACK, figures};
use crate::figures::Figures;
use crate::run::Runs;

/// Name of the only case.
pub(super) const CASE: &str = "one of 10000 routes";
/// Changes of one round.
const CHANGES: u64 = 3;
/// How long the last one is waited for: culvertd beside other builds takes seconds for 20,000.
const LAST_WITHIN: Duration = Duration::from_secs(12);
/// Between two, and before the first: longer than culvertd translates 20,000 routes.
const PAUSE: Duration = Duration::from_secs(2);
/// Connections that ask meanwhile.
const CONNECTIONS: usize = 4;

/// All rounds; of our waypoints alone: Envoy has its configuration from a file.
pub(super) fn rounds(bed: &Bed, rounds: usize) -> Runs {
    let mut runs = Runs::default();
    for round in 0..rounds as u64 {
        for waypoint in bed.waypoints.iter().filter(|one| one.is_culvert()) {
            runs.add(&waypoint.name, one_round(bed, waypoint, round));
        }
    }
    runs
}

fn one_round(bed: &Bed, waypoint: &Waypoint, round: u64) -> anyhow::Result<Figures> {
    let front = &waypoint.fronts[1];
    let path = manifests::paths(front.routes - 1)
        .next()
        .unwrap_or_default();
    let length = PAUSE * u32::try_from(CHANGES).unwrap_or(u32::MAX) + LAST_WITHIN;
    let program = Program::new(std::env::current_exe()?)
        .args(["waypoint-load", "watch"])
        .arg(std::net::SocketAddr::new(front.address, HTTP_PORT).to_string())
        .arg(path)
        .arg(CONNECTIONS.to_string())
        .arg(length.as_secs_f64().to_string())
        .limit(length + SLACK);
    let place = bed.client.place();
    let (watched, pushed) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| place.text(&program));
        let pushed = push(bed, waypoint, round);
        let watched = watch.join().map_err(|_| anyhow::anyhow!("a panic"))?;
        anyhow::Ok((watched?, pushed?))
    })?;
    let watched: Watched = serde_json::from_str(&watched)?;
    let mut times = Vec::new();
    for (version, at) in pushed {
        // One that was overtaken is in use with the one that overtook it.
        let later = watched.seen.iter().filter(|(seen, _)| *seen >= version);
        let first = later.map(|(_, at)| *at).min_by(f64::total_cmp);
        let seen = first.with_context(|| format!("version {version} was never in use"))?;
        times.push((seen - at) * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(figures([
        ("from_file_ms", times[times.len() / 2]),
        ("requests", (watched.done + watched.failed) as f64),
        ("failed_requests", watched.failed as f64),
    ]))
}

/// Puts versions of the route; each with the time, in seconds since 1970.
fn push(bed: &Bed, waypoint: &Waypoint, round: u64) -> anyhow::Result<Vec<(u64, f64)>> {
    let mut pushed = Vec::new();
    for change in 0..CHANGES {
        std::thread::sleep(PAUSE);
        let version = 100 + round * CHANGES + change;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        bed.put_version(waypoint, version)?;
        pushed.push((version, now.as_secs_f64()));
    }
    Ok(pushed)
}
