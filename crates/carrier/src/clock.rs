//! Monotonic time of one worker, in the form the tunnel wants it. Knows nothing else.

use std::time::Instant;

use hbone::Mono;

/// Counts from its making. Copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Time since the start.
    pub fn now(&self) -> Mono {
        Mono(self.start.elapsed())
    }

    /// The moment as the executor's timers want it.
    pub fn instant(&self, at: Mono) -> netio::time::Instant {
        self.start + at.0
    }
}
