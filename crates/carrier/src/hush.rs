//! Lines about refused connections, bounded in number: a flood of them must not become a flood of
//! log lines. What is not said is counted, and the count is said. Knows no record and no clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::limits::REFUSALS_LOGGED_PER_SECOND;

/// What one line is about; lines of one cause are counted together. A fixed word, never text of a
/// peer, so that there are few.
pub type Cause = &'static str;

/// How long the lines of one cause are counted together.
const PERIOD: Duration = Duration::from_secs(1);

struct Count {
    since: Instant,
    said: u32,
    hushed: u64,
}

/// Lines that were said, by cause.
#[derive(Default)]
pub struct Hush {
    causes: HashMap<Cause, Count>,
    hushed: bool,
}

impl Hush {
    /// Whether one more line about `cause` may be said.
    pub fn allows(&mut self, cause: Cause, now: Instant) -> bool {
        let count = self.causes.entry(cause).or_insert(Count {
            since: now,
            said: 0,
            hushed: 0,
        });
        if count.hushed == 0 && now.saturating_duration_since(count.since) >= PERIOD {
            (count.since, count.said) = (now, 0);
        }
        let allowed = count.said < REFUSALS_LOGGED_PER_SECOND;
        if allowed {
            count.said += 1;
        } else {
            count.hushed += 1;
            self.hushed = true;
        }
        allowed
    }

    /// Whether something was not said that [`Self::sum_up`] will say.
    pub fn owes(&self) -> bool {
        self.hushed
    }

    /// What was not said in periods that are over, each cause once.
    pub fn sum_up(&mut self, now: Instant) -> Vec<(Cause, u64)> {
        if !self.hushed {
            return Vec::new();
        }
        let mut sums = Vec::new();
        for (cause, count) in &mut self.causes {
            if count.hushed > 0 && now.saturating_duration_since(count.since) >= PERIOD {
                sums.push((*cause, std::mem::take(&mut count.hushed)));
                (count.since, count.said) = (now, 0);
            }
        }
        self.hushed = self.causes.values().any(|count| count.hushed > 0);
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_are_said_and_the_rest_is_summed_up_once() {
        let (mut hush, start) = (Hush::default(), Instant::now());
        let flood = |hush: &mut Hush, at| {
            let said = (0..1_000).filter(|_| hush.allows("a", at)).count();
            u32::try_from(said).unwrap()
        };
        assert_eq!(flood(&mut hush, start), REFUSALS_LOGGED_PER_SECOND);
        assert!(hush.allows("b", start), "another cause has its own lines");
        assert!(hush.owes());
        assert_eq!(hush.sum_up(start), [], "the second is not over");
        let later = start + PERIOD;
        let rest = u64::from(1_000 - REFUSALS_LOGGED_PER_SECOND);
        assert_eq!(hush.sum_up(later), [("a", rest)]);
        assert!(!hush.owes());
        assert_eq!(hush.sum_up(later + PERIOD), []);
        assert_eq!(flood(&mut hush, later), REFUSALS_LOGGED_PER_SECOND);
    }

    #[test]
    fn a_quiet_cause_is_always_said() {
        let (mut hush, start) = (Hush::default(), Instant::now());
        for second in 0..1_000 {
            assert!(hush.allows("a", start + PERIOD * second));
        }
        assert!(!hush.owes());
    }
}
