//! A moment as the logs of the mesh write it, so that what a client met can be found there.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MS: u128 = 24 * 60 * 60 * 1000;

/// A time of day in UTC, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds of the day.
    ms: u128,
}

impl Moment {
    /// By this machine's clock.
    pub fn now() -> Self {
        // A clock before 1970 tells nothing anyway.
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let ms = since.map_or(0, |since| since.as_millis());
        Moment { ms: ms % DAY_MS }
    }
}

impl fmt::Display for Moment {
    /// `hh:mm:ss.mmm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ms) = (self.ms / 1000, self.ms % 1000);
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        let (hours, minutes) = (minutes / 60, minutes % 60);
        write!(f, "{hours:02}:{minutes:02}:{seconds:02}.{ms:03}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_the_logs_write_it() {
        let ms = ((13 * 60 + 5) * 60 + 9) * 1000 + 42;
        assert_eq!(Moment { ms }.to_string(), "13:05:09.042");
        assert_eq!(Moment { ms: 0 }.to_string(), "00:00:00.000");
    }
}
