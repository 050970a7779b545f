//! Looking for work a moment longer before the thread sleeps.
//!
//! A sleep and its wake-up across cores cost more than a short wait. But who looks in vain takes
//! the core from whoever would have brought the work, so a thread looks only while its waits of
//! late were short and few tasks went on between them, lets others run between two looks, and
//! leaves it out for a while after it was in vain. It must not know what is waited for.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// No thread looks longer than this: it is twice what pays.
pub const SPIN_MAX: Duration = Duration::from_micros(200);

/// What `auto` comes to where there are cores to spare. At 50 µs a round trip over two proxies is
/// too long to be waited for by looking, so that they sleep, which makes it longer (docs/decisions/
/// 0001).
const SPIN_AUTO: Duration = Duration::from_micros(100);

/// Sleeps that are left out at most after looking was in vain, again and again.
const SKIPPED_MAX: u16 = 256;

/// One, of the averages below.
const UNIT: u16 = 256;
/// Share of short waits from which on looking pays: five of eight.
const SHORT_MIN: u16 = UNIT / 8 * 5;
/// Turns of tasks between two waits, on average, up to which the thread has time to look. A message
/// takes two, the connection's and the tunnel's; with more there are many connections, of which
/// one always has something.
const TURNS_MAX: u16 = UNIT / 2 * 5;
/// Turns that a new task counts for: a connection that is set up costs about that much, and then
/// what looking costs is more than the time that it saves.
const TURNS_OF_A_SPAWN: u16 = 16;
/// Turns between two waits that are seen at most.
const TURNS_SEEN_MAX: u16 = 64;

/// For all executors of this process, in microseconds.
static SPIN_US: AtomicU32 = AtomicU32::new(0);

/// How long executors of this process look for work before they sleep, from now on; zero, the
/// default, switches it off. At most [`SPIN_MAX`].
pub fn set_spin(time: Duration) {
    let time = time.min(SPIN_MAX).as_micros();
    let time = u32::try_from(time).expect("the maximum is small");
    SPIN_US.store(time, Ordering::Relaxed);
}

/// What [`set_spin`] has set.
#[must_use]
pub fn spin() -> Duration {
    Duration::from_micros(SPIN_US.load(Ordering::Relaxed).into())
}

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spin {
    /// 100 µs where [`spin_by_default`] says so, else not at all.
    #[default]
    Auto,
    /// So long, [`SPIN_MAX`] at most; zero is off.
    For(Duration),
}

impl Spin {
    /// What it comes to for this process; zero is off.
    #[must_use]
    pub fn time(self) -> Duration {
        match self {
            Self::Auto if spin_by_default() => SPIN_AUTO,
            Self::Auto => Duration::ZERO,
            Self::For(time) => time,
        }
    }
}

impl fmt::Display for Spin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::For(Duration::ZERO) => f.write_str("off"),
            Self::For(time) => write!(f, "{}us", time.as_micros()),
        }
    }
}

/// A word that is no time to look for work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of auto, off and a time up to {SPIN_MAX:?}, as in 50us")]
pub struct UnknownSpin(pub String);

impl FromStr for Spin {
    type Err = UnknownSpin;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let micros = match text {
            "auto" => return Ok(Self::Auto),
            "off" => Some(0),
            text => text
                .strip_suffix("us")
                .and_then(|number| number.parse().ok()),
        };
        micros
            .map(Duration::from_micros)
            .filter(|time| *time <= SPIN_MAX)
            .map(Self::For)
            .ok_or_else(|| UnknownSpin(text.to_owned()))
    }
}

/// Whether this process has cores to spare: more than one, and no limit on CPU time, which looking
/// in vain would use up. Reads cpu.max of the process' own cgroup and those above
/// (v2; cpu.cfs_quota_us of v1).
#[must_use]
pub fn spin_by_default() -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores > 1 && !has_limit()
}

fn has_limit() -> bool {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path_in = |controllers: &str| {
        own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (names, path) = rest.split_once(':')?;
            let named = names.split(',').any(|name| name == controllers);
            named.then(|| path.trim_start_matches('/').to_owned())
        })
    };
    // A limit of any cgroup above binds too. Inside a container the own path may be hidden and the
    // mount be its root, which comes last.
    let limited = |mount: &str, controllers: &str, file: &str| {
        let own = path_in(controllers).unwrap_or_default();
        std::path::Path::new(&own).ancestors().any(|path| {
            let file = std::path::Path::new(mount).join(path).join(file);
            std::fs::read_to_string(file).is_ok_and(|text| is_limit(&text))
        })
    };
    limited("/sys/fs/cgroup", "", "cpu.max")
        || limited("/sys/fs/cgroup/cpu", "cpu", "cpu.cfs_quota_us")
}

/// Whether the first word of such a file is a quota.
fn is_limit(text: &str) -> bool {
    !matches!(text.split_whitespace().next(), None | Some("max" | "-1"))
}

/// One thread's memory of its waits, and what follows for the next one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    /// Share of short waits, as an average that forgets.
    short: u16,
    /// Turns of tasks between two waits, likewise.
    turns: u16,
    /// Waits still to be slept through.
    skip: u16,
    /// How many after the next time in vain.
    penalty: u16,
}

impl Looks {
    /// Whether to look before the wait that comes now. Since the one before, `turns` turns of tasks
    /// were taken, and `spawned` tasks were made.
    pub(super) fn pay(&mut self, turns: u16, spawned: u16) -> bool {
        let turns = turns.saturating_add(spawned.saturating_mul(TURNS_OF_A_SPAWN));
        average(&mut self.turns, turns.min(TURNS_SEEN_MAX) * UNIT);
        if self.short < SHORT_MIN || self.turns > TURNS_MAX {
            return false;
        }
        let pay = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        pay
    }

    /// A wait is over, and was no longer than looking takes or was; slept through or looked
    /// through. Another thread that had the core meanwhile made it long.
    pub(super) fn note(&mut self, looked: bool, short: bool) {
        average(&mut self.short, if short { UNIT } else { 0 });
        match (looked, short) {
            (false, _) => {}
            (true, true) => self.penalty /= 4,
            (true, false) => {
                self.penalty = (self.penalty * 2 + 1).min(SKIPPED_MAX);
                self.skip = self.penalty;
            }
        }
    }
}

/// The last value counts for an eighth.
fn average(of: &mut u16, value: u16) {
    let sum = u32::from(*of) * 7 + u32::from(value);
    *of = u16::try_from(sum / 8).expect("no more than the larger of the two");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_told_from_none() {
        for none in ["max 100000\n", "-1\n", ""] {
            assert!(!is_limit(none), "{none:?}");
        }
        for quota in ["150000 100000\n", "20000\n"] {
            assert!(is_limit(quota), "{quota:?}");
        }
    }

    /// A thread that has waited so often for a short time, with so many turns in between.
    fn after(waits: usize, turns: u16, spawned: u16) -> Looks {
        let mut looks = Looks::default();
        for _ in 0..waits {
            looks.pay(turns, spawned);
            looks.note(false, true);
        }
        looks
    }

    #[test]
    fn a_thread_looks_after_some_short_waits_in_a_row_and_not_before() {
        assert!(!Looks::default().pay(2, 0));
        assert!(!after(4, 2, 0).pay(2, 0));
        assert!(after(16, 2, 0).pay(2, 0));
    }

    #[test]
    fn a_thread_that_idles_does_not_look() {
        let mut looks = after(16, 2, 0);
        for _ in 0..8 {
            looks.note(false, false);
        }
        assert!(!looks.pay(1, 0));
    }

    #[test]
    fn many_connections_or_new_ones_leave_no_time_to_look() {
        assert!(!after(100, 8, 0).pay(8, 0));
        // One of eight turns makes a connection.
        let mut looks = Looks::default();
        let mut looked = 0;
        for wait in 0..800u16 {
            looked += usize::from(looks.pay(2, u16::from(wait % 8 == 0)));
            looks.note(false, true);
        }
        assert!(looked < 250, "{looked}");
        assert!(!after(100, u16::MAX, u16::MAX).pay(2, 0), "and no overflow");
    }

    #[test]
    fn looking_in_vain_is_left_out_longer_and_longer_and_never_for_good() {
        let mut looks = after(100, 2, 0);
        let mut skipped = Vec::new();
        for _ in 0..12 {
            // Waits are short but for those that were looked through.
            let mut waits = 0;
            while !looks.pay(2, 0) {
                looks.note(false, true);
                waits += 1;
            }
            skipped.push(waits);
            looks.note(true, false);
        }
        assert_eq!(skipped[..4], [0, 1, 3, 7]);
        assert_eq!(*skipped.last().unwrap(), SKIPPED_MAX);
        for _ in 0..=SKIPPED_MAX {
            looks.pay(2, 0);
        }
        for _ in 0..6 {
            assert!(looks.pay(2, 0));
            looks.note(true, true);
        }
        assert_eq!(looks.penalty, 0);
    }

    #[test]
    fn what_is_asked_for_is_read_and_written_alike_and_bounded() {
        for text in ["auto", "off", "50us", "200us"] {
            assert_eq!(text.parse::<Spin>().unwrap().to_string(), text);
        }
        for text in ["201us", "1ms", "50", "us", ""] {
            let error = text.parse::<Spin>().unwrap_err().to_string();
            assert!(error.contains("50us") && error.contains(text), "{error}");
        }
        assert_eq!(Spin::For(SPIN_MAX).time(), SPIN_MAX);
    }
}
