//! Wall time as a value that a test can hand in. Knows nothing of who waits for what.

use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;

/// Longest single sleep of [`SystemClock`]: tokio's timers stand still while a machine is
/// suspended and do not hear of a clock that was set, so wall time is looked at again after this.
/// One wake-up a second costs nothing, and a certificate that a jump has ended is renewed at once.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// Wall time, and waiting for it. Certificates are valid in wall time.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> SystemTime;
    /// Ends when `now()` has reached `at`, at once when it already has; early when the clock was
    /// set back, since what was planned by it is to be looked at again.
    fn sleep_until(&self, at: SystemTime) -> BoxFuture<'static, ()>;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep_until(&self, at: SystemTime) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut seen = SystemTime::now();
            while let Ok(left) = at.duration_since(seen) {
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(MAX_SLEEP)).await;
                let now = SystemTime::now();
                if now < seen {
                    return;
                }
                seen = now;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_moment_that_has_passed_is_not_waited_for() {
        SystemClock.sleep_until(SystemTime::UNIX_EPOCH).await;
    }

    #[tokio::test]
    async fn a_sleep_ends_after_its_moment() {
        let at = SystemClock.now() + Duration::from_millis(5);
        SystemClock.sleep_until(at).await;
        assert!(SystemClock.now() >= at);
    }
}
