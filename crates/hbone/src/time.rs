//! Monotonic time as the tunnel sees it. It must not know how to ask for the time: `now` is handed
//! in.

use std::time::Duration;

/// A moment, as the time since any fixed start that the caller chose. Never goes back.
///
/// Wall time is another type (`rustls::time_provider::TimeProvider`) and serves certificates only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub Duration);

impl Mono {
    /// The moment `later` after this one; stops at the end of time.
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }

    /// Time since `earlier`; zero when that is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_below_zero() {
        let early = Mono(Duration::from_secs(1));
        let late = early.plus(Duration::from_secs(2));
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
