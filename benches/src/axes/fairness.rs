//! Small flows beside an elephant: 16 ping-pongs while one bulk stream runs from the same pod to
//! the same pod.

use std::time::Duration;

use anyhow::Context;

use super::bulk::{iperf, transfer, wait_until_free};
use super::{figures, latencies, measured, own_load};
use crate::bed::{ECHO_PORT, Path};
use crate::figures::Figures;

/// Small flows at the same time.
const FLOWS: u32 = 16;
/// What the elephant has for itself before the small flows come.
const AHEAD: Duration = Duration::from_millis(300);

pub(super) fn run(path: &Path, length: Duration) -> anyhow::Result<Figures> {
    let words = [
        "ping-pong".to_owned(),
        path.address(ECHO_PORT).to_string(),
        FLOWS.to_string(),
        (length.saturating_sub(2 * AHEAD)).as_secs_f64().to_string(),
    ];
    wait_until_free(path)?;
    let elephant = iperf(path, 1, length);
    let load = || {
        std::thread::scope(|scope| {
            let bulk = scope.spawn(|| transfer(path, &elephant));
            std::thread::sleep(AHEAD);
            let small = own_load(path, &words, length);
            let bulk = bulk.join().ok().context("the elephant's thread")??;
            anyhow::Ok((small?, bulk))
        })
    };
    let ((small, bulk), _) = measured(path, |_| u64::from(FLOWS) + 2, load)?;
    let mut all = latencies(&small);
    all.extend(figures([
        ("elephant_gbit_s", bulk.gbit_s),
        ("messages_s", small.done as f64 / small.seconds),
    ]));
    Ok(all)
}
