//! Allowances for frames that cost the peer little and us work.

use crate::config::{Allowance, FloodLimits};
use crate::h2::frame::Fault;
use crate::time::Mono;

/// A token bucket over time.
#[derive(Debug)]
struct Bucket {
    allowance: Allowance,
    /// Thousandths of a token, so that slow rates refill between close calls.
    milli: u64,
    at: Mono,
}

impl Bucket {
    fn new(allowance: Allowance, now: Mono) -> Self {
        Self {
            allowance,
            milli: u64::from(allowance.burst) * 1000,
            at: now,
        }
    }

    fn refill(&mut self, now: Mono) {
        let most = u64::from(self.allowance.burst) * 1000;
        let millis = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        if millis > 0 {
            let more = millis.saturating_mul(u64::from(self.allowance.per_second));
            self.milli = self.milli.saturating_add(more).min(most);
            self.at = now;
        }
    }

    /// Takes one token, if there is one.
    fn take(&mut self, now: Mono) -> bool {
        self.refill(now);
        match self.milli.checked_sub(1000) {
            Some(left) => {
                self.milli = left;
                true
            }
            None => false,
        }
    }

    /// Earned by something other than time.
    fn earn(&mut self, tokens: u32) {
        let most = u64::from(self.allowance.burst) * 1000;
        self.milli = (self.milli + u64::from(tokens) * 1000).min(most);
    }
}

/// What the peer did that moves no data.
#[derive(Clone, Copy, Debug)]
pub(super) enum Nuisance {
    Ping,
    Settings,
    EmptyFrame,
    EarlyReset,
    Refusal,
    IdleFrame,
    WindowUpdate,
}

/// The allowances of one connection.
#[derive(Debug)]
pub(super) struct Guard {
    buckets: [Bucket; 7],
}

/// WINDOW_UPDATE frames that each DATA frame of ours pays for: one for the stream and one for the
/// connection, and as many again for a peer that grants in two halves.
const UPDATES_PER_DATA: u32 = 4;

/// And for each so many bytes of it one more: peers read a large frame in pieces and may give
/// credit for each piece twice.
const BYTES_PER_UPDATE: usize = 512;

/// Frames without data that may be on their way when we reset a stream: a response, an end, a
/// reset, and window updates for what we had sent.
const FRAMES_PER_RESET: u32 = 8;

impl Guard {
    pub(super) fn new(limits: &FloodLimits, now: Mono) -> Self {
        let order = [
            limits.pings,
            limits.settings,
            limits.empty_frames,
            limits.early_resets,
            limits.refusals,
            limits.idle_frames,
            limits.window_updates,
        ];
        Self {
            buckets: order.map(|allowance| Bucket::new(allowance, now)),
        }
    }

    /// Counts one; past the allowance the connection ends.
    pub(super) fn count(&mut self, nuisance: Nuisance, now: Mono) -> Result<(), Fault> {
        let (index, why) = match nuisance {
            Nuisance::Ping => (0, "too many PING frames"),
            Nuisance::Settings => (1, "too many SETTINGS frames"),
            Nuisance::EmptyFrame => (2, "too many empty frames"),
            Nuisance::EarlyReset => (3, "too many streams reset before they were answered"),
            Nuisance::Refusal => (4, "too many requests that were refused"),
            Nuisance::IdleFrame => (5, "too many frames that mean nothing"),
            Nuisance::WindowUpdate => (6, "too many WINDOW_UPDATE frames"),
        };
        if self.buckets[index].take(now) {
            Ok(())
        } else {
            Err(Fault::calm(why))
        }
    }

    /// We reset a stream: what the peer had sent of it before it knew means nothing and is no
    /// offence.
    pub(super) fn stream_reset(&mut self) {
        self.buckets[5].earn(FRAMES_PER_RESET);
        self.buckets[6].earn(FRAMES_PER_RESET);
    }

    /// We sent a DATA frame, which the peer may answer with window updates.
    pub(super) fn data_sent(&mut self, bytes: usize) {
        let more = u32::try_from(bytes / BYTES_PER_UPDATE).unwrap_or(u32::MAX);
        self.buckets[6].earn(more.saturating_add(UPDATES_PER_DATA));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let start = Mono::default();
        let mut bucket = Bucket::new(
            Allowance {
                burst: 3,
                per_second: 10,
            },
            start,
        );
        assert!((0..3).all(|_| bucket.take(start)));
        assert!(!bucket.take(start));
        let later = start.plus(Duration::from_millis(100));
        assert!(bucket.take(later));
        assert!(!bucket.take(later));
        let much_later = start.plus(Duration::from_secs(3600));
        assert_eq!((0..10).filter(|_| bucket.take(much_later)).count(), 3);
    }

    #[test]
    fn close_calls_do_not_lose_the_refill() {
        let mut bucket = Bucket::new(
            Allowance {
                burst: 1,
                per_second: 1,
            },
            Mono::default(),
        );
        let taken = (0..3000_u64)
            .filter(|ms| bucket.take(Mono(Duration::from_micros(ms * 1000 + 500))))
            .count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn window_updates_are_paid_for_by_data() {
        let mut guard = Guard::new(&FloodLimits::default(), Mono::default());
        for _ in 0..100_000 {
            guard.data_sent(100);
            guard
                .count(Nuisance::WindowUpdate, Mono::default())
                .unwrap();
            guard
                .count(Nuisance::WindowUpdate, Mono::default())
                .unwrap();
        }
        let end = (0..10_000).find(|_| {
            guard
                .count(Nuisance::WindowUpdate, Mono::default())
                .is_err()
        });
        assert_eq!(end, Some(1998), "two of the burst are spent");
    }
}
