//! The bytes that all tunnels of one worker hold for readers that do not read: received and not yet
//! taken by an application, taken from one and not yet sent. Counted, and bounded.
//!
//! ```text
//!   Calm ── more than the budget ──> Over ── twice the budget ──> Full
//!     └<─ less than three quarters ──┘ └<──── less than 7/4 ───────┘
//! ```
//! Over: tunnels are frugal (small windows, small backlogs). Full: tunnels that hold more than
//! their share are not read, and no new stream is taken. Knows no tunnel; each tells it what it
//! holds.

use std::cell::Cell;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Within the budget.
    #[default]
    Calm,
    /// Beyond it.
    Over,
    /// Far beyond it.
    Full,
}

/// Smallest share of a tunnel in bytes: the window that a frugal stream has. One that holds no more
/// is always read.
const SHARE_MIN_BYTES: usize = 64 * 1_024;

/// What is held now, of how much.
pub struct Budget {
    limit_bytes: usize,
    held_bytes: Cell<usize>,
    tunnels: Cell<usize>,
    pressure: Cell<Pressure>,
    /// The pressure fell.
    relieved: Notify,
}

impl Budget {
    /// Nothing held yet, of so many bytes.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            held_bytes: Cell::new(0),
            tunnels: Cell::new(0),
            pressure: Cell::default(),
            relieved: Notify::new(),
        }
    }

    /// One tunnel more shares it.
    pub fn join(&self) {
        self.tunnels.set(self.tunnels.get() + 1);
    }

    /// One tunnel fewer; it held so much.
    pub fn leave(&self, held_bytes: usize) {
        self.tunnels.set(self.tunnels.get() - 1);
        self.account(held_bytes, 0);
    }

    /// A tunnel that held `before` bytes holds `now`.
    pub fn account(&self, before: usize, now: usize) {
        if before == now {
            return;
        }
        let held = self.held_bytes.get() - before + now;
        self.held_bytes.set(held);
        let old = self.pressure.get();
        let new = self.pressure_at(held, old);
        if new != old {
            self.pressure.set(new);
            if new < old {
                self.relieved.notify_waiters();
            }
            let limit = self.limit_bytes;
            tracing::debug!(held, limit, ?new, "buffered bytes of this worker");
        }
    }

    /// With some distance between rising and falling, so that it does not flutter.
    fn pressure_at(&self, held: usize, old: Pressure) -> Pressure {
        let limit = self.limit_bytes;
        let (calm, over) = match old {
            Pressure::Calm => (limit, 2 * limit),
            Pressure::Over => (limit / 4 * 3, 2 * limit),
            Pressure::Full => (limit / 4 * 3, limit / 4 * 7),
        };
        match held {
            _ if held > over => Pressure::Full,
            _ if held > calm => Pressure::Over,
            _ => Pressure::Calm,
        }
    }

    /// How bad it is now.
    pub fn pressure(&self) -> Pressure {
        self.pressure.get()
    }

    /// Bytes held now.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.get()
    }

    /// Whether a tunnel that holds so much must not be read now.
    pub fn holds_back(&self, held_bytes: usize) -> bool {
        let share = self.limit_bytes / self.tunnels.get().max(1);
        self.pressure.get() == Pressure::Full && held_bytes > share.max(SHARE_MIN_BYTES)
    }

    /// Ends when the pressure falls, from now on, whether it was polled before or not.
    pub fn relieved(&self) -> Notified<'_> {
        self.relieved.notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn the_pressure_rises_and_falls_with_what_is_held() {
        let budget = Budget::new(8 * MIB);
        let mut held = 0;
        for (now, pressure) in [
            (8 * MIB, Pressure::Calm),
            (8 * MIB + 1, Pressure::Over),
            (7 * MIB, Pressure::Over),
            (16 * MIB + 1, Pressure::Full),
            (15 * MIB, Pressure::Full),
            (14 * MIB, Pressure::Over),
            (6 * MIB, Pressure::Calm),
            (7 * MIB, Pressure::Calm),
            (40 * MIB, Pressure::Full),
            (0, Pressure::Calm),
        ] {
            budget.account(std::mem::replace(&mut held, now), now);
            assert_eq!(budget.pressure(), pressure, "{now}");
            assert_eq!(budget.held_bytes(), now);
        }
    }

    #[test]
    fn only_tunnels_above_their_share_are_held_back_and_only_when_it_is_full() {
        let budget = Budget::new(8 * MIB);
        for _ in 0..4 {
            budget.join();
        }
        budget.account(0, 16 * MIB);
        assert!(!budget.holds_back(16 * MIB), "not full");
        budget.account(0, 1);
        assert!(budget.holds_back(2 * MIB + 1));
        assert!(!budget.holds_back(2 * MIB));
        budget.leave(16 * MIB + 1);
        assert!(!budget.holds_back(16 * MIB));
    }

    #[test]
    fn who_waits_is_woken_when_the_pressure_falls() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let budget = Budget::new(MIB);
            budget.account(0, 3 * MIB);
            let mut waiting = Box::pin(budget.relieved());
            assert!(futures::poll!(&mut waiting).is_pending());
            budget.account(3 * MIB, MIB + 1);
            assert!(futures::poll!(&mut waiting).is_ready());
        });
    }
}
