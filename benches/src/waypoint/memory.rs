//! Resident memory of waypoints: fresh processes in each round, idle and with connections.

use std::time::Duration;

use world::Program;

use super::HTTP_PORT;
use super::bed::{Bed, Waypoint};
use crate::axes::figures;
use crate::figures::Figures;
use crate::run::Runs;

/// Name of the only case.
pub(super) const CASE: &str = "1000 connections";
/// Connections of clients, each with one request behind it.
const CONNECTIONS: usize = 1000;
/// Until a proxy has given back what it does not need.
const SETTLE: Duration = Duration::from_secs(5);
/// For all connections to be open.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// All rounds; leaves every waypoint as it is after a start.
pub(super) fn rounds(bed: &mut Bed, rounds: usize) -> Runs {
    let mut runs = Runs::default();
    let mut waypoints = std::mem::take(&mut bed.waypoints);
    for _ in 0..rounds {
        for waypoint in &mut waypoints {
            let result = round(bed, waypoint);
            runs.add(&waypoint.name, result);
        }
    }
    for waypoint in &mut waypoints {
        if let Err(error) = bed.start(waypoint) {
            runs.add(&waypoint.name, Err(error));
        }
    }
    bed.waypoints = waypoints;
    runs
}

fn round(bed: &Bed, waypoint: &mut Waypoint) -> anyhow::Result<Figures> {
    bed.start(waypoint)?;
    std::thread::sleep(SETTLE);
    let idle = waypoint.rss_bytes()? as f64;
    let program = Program::new(std::env::current_exe()?)
        .args(["waypoint-load", "hold"])
        .arg(waypoint.address(HTTP_PORT).to_string())
        .arg(CONNECTIONS.to_string());
    let holder = bed.client.start("hold", &program)?;
    holder.wait_for_line(&["open"], OPEN_WITHIN)?;
    std::thread::sleep(SETTLE);
    let open = waypoint.rss_bytes()? as f64;
    Ok(figures([
        ("idle_rss_mb", idle / 1e6),
        ("open_rss_mb", open / 1e6),
        ("bytes_per_connection", (open - idle) / CONNECTIONS as f64),
    ]))
}
