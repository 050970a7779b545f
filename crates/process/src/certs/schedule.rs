//! When to ask for which certificate. Pure: takes the time, knows no clock, key or answer.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use mesh::Identity;

use crate::retry::pauses;

/// First pause after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Longest pause between attempts, while the certificate before is valid.
const LONGEST_RETRY: Duration = Duration::from_secs(150);
/// Longest pause while there is no valid one: new connections are refused until it comes, so a CA
/// that is back is found as soon as discovery finds its control plane.
const LONGEST_WITHOUT: Duration = Duration::from_secs(15);
/// How far the clock may be behind the moment at which something was planned before it counts as
/// set back. Half of what culvertd dates a certificate back: until then the newest one is valid.
const SET_BACK: Duration = Duration::from_secs(60);
/// Soonest renewal after an issue, whatever the lifetime: a CA that gives seconds must not be
/// asked in a loop.
const SOONEST_RENEWAL: Duration = Duration::from_secs(1);
/// Renewal comes up to this share of the half-life earlier, drawn at random, so that the
/// certificates of a node that were issued together are not renewed together.
const JITTER: f64 = 0.1;

/// What is due when.
#[derive(Default)]
pub(super) struct Schedule {
    entries: BTreeMap<Identity, Phase>,
}

enum Phase {
    /// To be asked for at that time, as planned `since`.
    Due {
        since: SystemTime,
        at: SystemTime,
        retries: Retries,
    },
    /// Asked, no answer yet.
    Asked { retries: Retries },
}

/// Pauses of the attempts until the next success.
struct Retries(Option<Box<dyn Iterator<Item = Duration> + Send>>);

impl Retries {
    fn next(&mut self) -> Duration {
        let pauses = self
            .0
            .get_or_insert_with(|| Box::new(pauses(FIRST_RETRY, LONGEST_RETRY)));
        pauses.next().unwrap_or(LONGEST_RETRY)
    }
}

impl Schedule {
    /// Asks for an identity now, unless it is known.
    pub(super) fn want(&mut self, identity: Identity, now: SystemTime) {
        self.entries.entry(identity).or_insert(Phase::Due {
            since: now,
            at: now,
            retries: Retries(None),
        });
    }

    pub(super) fn forget(&mut self, identity: &Identity) {
        self.entries.remove(identity);
    }

    /// At most `free` identities that are due, longest due first. They count as asked.
    pub(super) fn take_due(&mut self, now: SystemTime, free: usize) -> Vec<Identity> {
        let mut due: Vec<(SystemTime, Identity)> = self
            .entries
            .iter()
            .filter_map(|(identity, phase)| Some((phase.due_at(now)?, identity.clone())))
            .collect();
        due.sort();
        due.truncate(free);
        for (_, identity) in &due {
            let Some(phase) = self.entries.get_mut(identity) else {
                continue;
            };
            if let Phase::Due { retries, .. } = phase {
                *phase = Phase::Asked {
                    retries: Retries(retries.0.take()),
                };
            }
        }
        due.into_iter().map(|(_, identity)| identity).collect()
    }

    /// The soonest moment at which something is due.
    pub(super) fn next(&self) -> Option<SystemTime> {
        let at = |phase: &Phase| match phase {
            Phase::Due { at, .. } => Some(*at),
            Phase::Asked { .. } => None,
        };
        self.entries.values().filter_map(at).min()
    }

    /// The answer at `now` was a certificate, to be renewed at `renew_at`.
    pub(super) fn issued(&mut self, identity: &Identity, now: SystemTime, renew_at: SystemTime) {
        if let Some(phase) = self.entries.get_mut(identity) {
            *phase = Phase::Due {
                since: now,
                at: renew_at,
                retries: Retries(None),
            };
        }
    }

    /// There was no usable answer: asked again after the pause returned, sooner when nothing is
    /// there to go on with.
    pub(super) fn failed(
        &mut self,
        identity: &Identity,
        now: SystemTime,
        has_valid: bool,
    ) -> Duration {
        let Some(Phase::Asked { retries }) = self.entries.get_mut(identity) else {
            return LONGEST_RETRY;
        };
        let mut retries = Retries(retries.0.take());
        let longest = if has_valid {
            LONGEST_RETRY
        } else {
            LONGEST_WITHOUT
        };
        let pause = retries.next().min(longest);
        self.entries.insert(
            identity.clone(),
            Phase::Due {
                since: now,
                at: now + pause,
                retries,
            },
        );
        pause
    }
}

impl Phase {
    /// When it became due, None when it is not.
    fn due_at(&self, now: SystemTime) -> Option<SystemTime> {
        let Self::Due { since, at, .. } = self else {
            return None;
        };
        // A certificate that was issued by a clock that ran ahead may not be valid yet, and its
        // renewal and any retry lie too far off.
        let set_back = now + SET_BACK < *since;
        (*at <= now || set_back).then_some(*at)
    }
}

/// When to renew a certificate that is issued at `now`; `random` is the jitter's die (any u32).
pub(super) fn half_life(now: SystemTime, not_after: SystemTime, random: u32) -> SystemTime {
    let life = not_after.duration_since(now).unwrap_or_default();
    let share = f64::from(random) / f64::from(u32::MAX);
    let wait = (life / 2).mul_f64(1.0 - JITTER * share);
    now + wait.max(SOONEST_RENEWAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(seconds)
    }

    fn identity(name: &str) -> Identity {
        Identity::new("cluster.local", "ns", name).unwrap()
    }

    #[test]
    fn what_is_wanted_is_due_once() {
        let mut schedule = Schedule::default();
        schedule.want(identity("a"), at(5));
        schedule.want(identity("a"), at(6));
        assert_eq!(schedule.next(), Some(at(5)));
        assert_eq!(schedule.take_due(at(6), 10), [identity("a")]);
        schedule.want(identity("a"), at(7));
        assert_eq!(schedule.take_due(at(7), 10), []);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn no_more_than_there_is_room_for_are_taken_and_the_longest_due_first() {
        let mut schedule = Schedule::default();
        for (name, since) in [("a", 3), ("b", 1), ("c", 2)] {
            schedule.want(identity(name), at(since));
        }
        assert_eq!(schedule.take_due(at(9), 2), [identity("b"), identity("c")]);
        assert_eq!(schedule.take_due(at(9), 2), [identity("a")]);
    }

    #[test]
    fn pauses_grow_after_failures_and_start_over_after_a_success() {
        let mut schedule = Schedule::default();
        let id = identity("a");
        schedule.want(id.clone(), at(0));
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            assert_eq!(schedule.take_due(now, 1), std::slice::from_ref(&id));
            let pause = schedule.failed(&id, now, true);
            assert!(schedule.take_due(now + pause / 2, 1).is_empty());
            now += pause;
            pauses.push(pause);
        }
        assert!(
            pauses[0] >= FIRST_RETRY && pauses[0] <= 2 * FIRST_RETRY,
            "{pauses:?}"
        );
        assert!(
            pauses.iter().all(|pause| *pause <= LONGEST_RETRY),
            "{pauses:?}"
        );
        assert!(pauses[19] >= LONGEST_RETRY / 2, "{pauses:?}");
        assert_eq!(schedule.take_due(now, 1), std::slice::from_ref(&id));
        schedule.issued(&id, now, now);
        assert_eq!(schedule.take_due(now, 1), std::slice::from_ref(&id));
        assert!(schedule.failed(&id, now, true) <= 2 * FIRST_RETRY);
    }

    #[test]
    fn without_a_valid_certificate_pauses_stay_short() {
        let mut schedule = Schedule::default();
        let id = identity("a");
        schedule.want(id.clone(), at(0));
        let mut now = at(0);
        for _ in 0..20 {
            assert_eq!(schedule.take_due(now, 1), std::slice::from_ref(&id));
            let pause = schedule.failed(&id, now, false);
            assert!(pause <= LONGEST_WITHOUT, "{pause:?}");
            now += pause;
        }
    }

    #[test]
    fn a_certificate_of_a_clock_that_ran_ahead_is_renewed_when_the_clock_is_set_back() {
        let mut schedule = Schedule::default();
        let (id, day) = (identity("a"), 86_400);
        schedule.want(id.clone(), at(3 * day));
        schedule.take_due(at(3 * day), 1);
        schedule.issued(&id, at(3 * day), at(3 * day + day / 2));
        assert_eq!(schedule.take_due(at(3 * day - 30), 1), []);
        assert_eq!(schedule.take_due(at(day), 1), [id]);
    }

    #[test]
    fn a_clock_set_back_does_not_hold_up_a_retry() {
        let mut schedule = Schedule::default();
        let id = identity("a");
        schedule.want(id.clone(), at(1_000_000));
        schedule.take_due(at(1_000_000), 1);
        schedule.failed(&id, at(1_000_000), true);
        assert_eq!(schedule.take_due(at(1_000), 1), [id]);
    }

    #[test]
    fn renewal_is_at_half_of_what_is_left_or_a_little_earlier() {
        let day = 86_400;
        assert_eq!(half_life(at(0), at(day), 0), at(day / 2));
        assert_eq!(half_life(at(0), at(day), u32::MAX), at(day * 9 / 20));
        assert_eq!(half_life(at(100), at(100), 0), at(101));
        assert_eq!(half_life(at(100), at(50), 0), at(101));
    }
}
