//! Looking for work a moment longer before the thread sleeps.
//!
//! A sleep and its wake-up across cores cost more than a short wait. But who looks in vain takes
//! the core from whoever would have brought the work, so looking has to pay: after it was in vain
//! it is left out for a while, twice as long each time. It must not know what is waited for.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// No thread looks longer than this: a sleep and its wake-up cost about 50 µs across cores.
pub const SPIN_MAX: Duration = Duration::from_micros(200);

/// Sleeps that are left out at most after looking was in vain, again and again.
const SKIPPED_MAX: u32 = 256;

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

/// Whether this process has cores to spare: more than one, and no limit on CPU time, which looking
/// in vain would use up. Reads cpu.max of the process' own cgroup (v2; cpu.cfs_quota_us of v1).
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
    let read = |mount: &str, controllers: &str, file: &str| {
        let path = std::path::Path::new(mount)
            .join(path_in(controllers)?)
            .join(file);
        // Inside a container the own path may be hidden and the mount be its root.
        let inside = std::path::Path::new(mount).join(file);
        std::fs::read_to_string(path)
            .or_else(|_| std::fs::read_to_string(inside))
            .ok()
    };
    let v2 = read("/sys/fs/cgroup", "", "cpu.max");
    let v1 = read("/sys/fs/cgroup/cpu", "cpu", "cpu.cfs_quota_us");
    is_limit(v2.as_deref().unwrap_or("max")) || is_limit(v1.as_deref().unwrap_or("-1"))
}

/// Whether the first word of such a file is a quota.
fn is_limit(text: &str) -> bool {
    !matches!(text.split_whitespace().next(), None | Some("max" | "-1"))
}

/// One thread's memory of whether looking paid.
#[derive(Default)]
pub(super) struct Spin {
    /// Sleeps still to be left out.
    skip: Cell<u32>,
    /// How many after the next time in vain.
    penalty: Cell<u32>,
}

impl Spin {
    /// How long to look before this sleep.
    pub(super) fn time(&self) -> Option<Duration> {
        let time = spin();
        if time.is_zero() {
            return None;
        }
        let skip = self.skip.get();
        self.skip.set(skip.saturating_sub(1));
        (skip == 0).then_some(time)
    }

    /// What came of it.
    pub(super) fn note(&self, found: bool) {
        if found {
            self.penalty.set(self.penalty.get() / 4);
        } else {
            let penalty = (self.penalty.get() * 2 + 1).min(SKIPPED_MAX);
            self.penalty.set(penalty);
            self.skip.set(penalty);
        }
    }
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

    #[test]
    fn looking_in_vain_is_left_out_longer_and_longer_and_never_for_good() {
        let spin = Spin::default();
        let mut skipped = Vec::new();
        for _ in 0..12 {
            spin.note(false);
            skipped.push(spin.skip.get());
        }
        assert_eq!(skipped[..4], [1, 3, 7, 15]);
        assert_eq!(*skipped.last().unwrap(), SKIPPED_MAX);
        for _ in 0..6 {
            spin.note(true);
        }
        assert_eq!(spin.penalty.get(), 0);
    }
}
