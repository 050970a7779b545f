//! Asking a world to stop, and waiting for things in a way that notices it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::WorldError;

/// Pause between two looks at something waited for: short beside a process start (about 5 ms),
/// long beside the look itself.
const PAUSE: Duration = Duration::from_millis(4);

/// A flag that a signal handler raises and that every wait in a world looks at.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
    of_signals: bool,
}

impl Interrupt {
    /// One that SIGINT and SIGTERM raise from the first world with it on. They remove all worlds
    /// that have such a flag and end the process, whatever it waits for: for tests, which have
    /// nobody who listens. The default is raised by its holder alone.
    pub fn of_signals() -> Self {
        Interrupt {
            raised: Arc::default(),
            of_signals: true,
        }
    }

    /// Whether signals are to raise it.
    pub(crate) fn is_of_signals(&self) -> bool {
        self.of_signals
    }

    /// Makes every present and future wait end with [`WorldError::Interrupted`].
    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
    }

    /// Whether it was raised.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// `Err(Interrupted)` once raised.
    pub fn check(&self) -> Result<(), WorldError> {
        if self.is_raised() {
            Err(WorldError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Sleeps, at most `time`, less when raised.
    pub fn sleep(&self, time: Duration) -> Result<(), WorldError> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.check()?;
            thread::sleep(PAUSE.min(end.saturating_duration_since(Instant::now())));
        }
        self.check()
    }

    /// Looks until `look` gives something. `what` completes the sentence "waited 5s for ...".
    pub fn wait_for<T>(
        &self,
        what: &str,
        within: Duration,
        mut look: impl FnMut() -> Result<Option<T>, WorldError>,
    ) -> Result<T, WorldError> {
        let start = Instant::now();
        loop {
            self.check()?;
            if let Some(found) = look()? {
                return Ok(found);
            }
            if start.elapsed() >= within {
                let what = what.to_owned();
                return Err(WorldError::TimedOut {
                    what,
                    after: within,
                    detail: String::new(),
                });
            }
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_interrupt_ends_a_wait_before_its_time() {
        let interrupt = Interrupt::default();
        interrupt.raise();
        let waited = interrupt.wait_for("nothing", Duration::from_secs(3600), || Ok(None::<()>));
        assert!(matches!(waited, Err(WorldError::Interrupted)));
    }

    #[test]
    fn a_wait_that_ends_without_success_says_for_what() {
        let waited = Interrupt::default()
            .wait_for("the moon", Duration::from_millis(1), || Ok(None::<()>))
            .expect_err("nothing ever comes");
        assert!(waited.to_string().contains("the moon"), "{waited}");
    }
}
