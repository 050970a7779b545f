//! Receive windows: what the peer may still send, and how much of what it sent is not used up yet.

use std::time::Duration;

use crate::time::Mono;

/// A window of a stream or of the connection.
///
/// Invariant: `available + held <= target`, except while `target` shrinks or right after a grant.
#[derive(Debug)]
pub(super) struct RecvWindow {
    /// What the peer may still send, bytes.
    available: u32,
    /// Received and not yet used up by the application, bytes.
    held: u32,
    /// What `available` and `held` shall come to, bytes.
    target: u32,
}

impl RecvWindow {
    /// A window of which the peer knows `available` and shall get `target`.
    pub(super) fn new(available: u32, target: u32) -> Self {
        Self {
            available,
            held: 0,
            target,
        }
    }

    pub(super) fn available(&self) -> u32 {
        self.available
    }

    pub(super) fn held(&self) -> u32 {
        self.held
    }

    pub(super) fn target(&self) -> u32 {
        self.target
    }

    pub(super) fn set_target(&mut self, target: u32) {
        self.target = target;
    }

    /// Bytes came; the frame was checked against `available` before.
    pub(super) fn receive(&mut self, bytes: u32) {
        self.available = self.available.saturating_sub(bytes);
        self.held = self.held.saturating_add(bytes);
    }

    /// The application used bytes up; gives how many of them were held.
    pub(super) fn consume(&mut self, bytes: u32) -> u32 {
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        bytes
    }

    /// Whether half of the window is due: WINDOW_UPDATE frames (and the wake-ups that they cost the
    /// peer) stay few.
    pub(super) fn is_due(&self) -> bool {
        let due = self.due();
        due > 0 && due >= self.target / 2
    }

    fn due(&self) -> u32 {
        self.target
            .saturating_sub(self.available.saturating_add(self.held))
    }

    /// As [`Self::grant`], but the peer gets no more than `most` bytes to send at once.
    pub(super) fn grant_sparingly(&mut self, most: u32) -> Option<u32> {
        let most = most.min(self.target);
        let due = self.due().min(most.saturating_sub(self.available));
        (due > 0 && due >= most / 2).then(|| {
            self.available += due;
            due
        })
    }

    /// What to grant now, if it is worth a frame.
    pub(super) fn grant(&mut self) -> Option<u32> {
        let due = self.due();
        self.is_due().then(|| {
            self.available += due;
            due
        })
    }
}

/// What the peer gets at once while memory is short, for a stream and for the connection, bytes:
/// all goes on, slowly.
pub(super) const FRUGAL_STREAM_BYTES: u32 = 64 << 10;
/// See [`FRUGAL_STREAM_BYTES`].
pub(super) const FRUGAL_CONNECTION_BYTES: u32 = 256 << 10;

/// Measures how fast one stream moves, to size its window.
#[derive(Debug)]
pub(super) struct Pace {
    /// When measuring began: nanoseconds, of which 64 bits last for 584 years and take half of what
    /// a [`Duration`] takes.
    since: u64,
    /// Bytes used up since.
    bytes: u64,
}

impl Pace {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            since: u64::try_from(now.0.as_nanos()).unwrap_or(u64::MAX),
            bytes: 0,
        }
    }

    pub(super) fn since(&self) -> Mono {
        Mono(Duration::from_nanos(self.since))
    }

    pub(super) fn add(&mut self, bytes: u32) {
        self.bytes += u64::from(bytes);
    }

    /// Ends one measurement and begins the next: the window that this rate needs over `rtt`, which
    /// is twice their product, since half a window is used up before the rest is granted.
    pub(super) fn window_for(&mut self, rtt: Duration, now: Mono) -> u32 {
        let elapsed = now.since(self.since()).max(Duration::from_micros(1));
        let per_second = u128::from(self.bytes) * 1_000_000_000 / elapsed.as_nanos();
        let needed = 2 * per_second * rtt.as_nanos() / 1_000_000_000;
        *self = Self::new(now);
        u32::try_from(needed).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_comes_back_only_for_what_was_used_up() {
        let mut window = RecvWindow::new(1000, 1000);
        window.receive(900);
        assert_eq!(window.grant(), None);
        assert_eq!(window.consume(600), 600);
        assert_eq!(window.grant(), Some(600));
        assert_eq!(window.available(), 700);
        assert_eq!(window.consume(10_000), 300, "no more than is held");
    }

    #[test]
    fn a_smaller_target_withholds_credit() {
        let mut window = RecvWindow::new(4000, 4000);
        window.set_target(1000);
        window.receive(3500);
        window.consume(3500);
        assert_eq!(window.grant(), Some(500));
        assert_eq!(window.available(), 1000);
    }

    #[test]
    fn sparingly_no_more_is_on_its_way_than_allowed() {
        let mut window = RecvWindow::new(1000, 1000);
        window.receive(1000);
        window.consume(500);
        assert_eq!(window.grant_sparingly(100), Some(100));
        assert_eq!(window.grant_sparingly(100), None);
        window.receive(100);
        assert_eq!(window.grant_sparingly(100), Some(100), "500 were used up");
        assert_eq!(window.grant(), None, "less than half is due");
    }

    #[test]
    fn the_window_is_twice_rate_times_round_trip() {
        let mut pace = Pace::new(Mono(Duration::from_secs(1)));
        pace.add(1_000_000);
        let now = Mono(Duration::from_millis(1100));
        assert_eq!(pace.window_for(Duration::from_millis(20), now), 400_000);
        assert_eq!(pace.since(), now);
    }
}
