//! Gives memory back while there is nothing to do. Knows no connection.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tokio_util::sync::CancellationToken;

/// How often the proxy looks whether it idles.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// CPU time between two looks below which it idles: 1 % of one core.
const IDLE_CPU: Duration = Duration::from_millis(20);

/// Releases free heap and the code that is not in use, once after each time of work, so that a busy
/// proxy never pays for it.
pub async fn release_when_idle(stop: CancellationToken) {
    let mut before = cpu_time();
    let mut worked = true;
    while stop
        .run_until_cancelled(tokio::time::sleep(LOOK_EVERY))
        .await
        .is_some()
    {
        let now = cpu_time();
        let idle = now.saturating_sub(before) < IDLE_CPU;
        before = now;
        if idle && worked {
            netio::memory::trim_heap();
            match netio::memory::release_code() {
                Ok(bytes) => tracing::debug!(bytes, "idle: code released"),
                Err(error) => tracing::debug!(%error, "idle: the code stays in memory"),
            }
        }
        worked = !idle;
    }
}

/// CPU time of the whole process so far; zero if the kernel does not say.
fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    let microseconds = usage.map_or(0, |usage| {
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
    });
    Duration::from_micros(microseconds.unsigned_abs())
}
