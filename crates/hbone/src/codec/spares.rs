//! Large buffers between two uses. A fresh one costs a page fault for each 4 KiB, which is more
//! than the copy into it; so a connection that moves bulk keeps a few, and one that rests keeps
//! none.

use std::time::Duration;

use crate::time::Mono;

/// Buffers kept: one being filled and one being written out, in each direction.
const MAX_SPARES: usize = 4;

/// Buffers smaller than this are cheap to make, bytes.
const SMALLEST_BYTES: usize = 16 << 10;

/// Buffers larger than this are not kept, bytes; two large reads.
const LARGEST_BYTES: usize = 512 << 10;

/// How long a buffer is kept that nobody asks for: a tunnel whose bulk is over carries small flows
/// without it.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// At most [`MAX_SPARES`] empty buffers.
#[derive(Debug, Default)]
pub(super) struct Spares {
    kept: Vec<Vec<u8>>,
    /// When one was put or taken last.
    used: Mono,
}

impl Spares {
    /// Keeps a buffer, if it is worth it.
    pub(super) fn put(&mut self, mut buffer: Vec<u8>, now: Mono) {
        let worth = (SMALLEST_BYTES..=LARGEST_BYTES).contains(&buffer.capacity());
        if worth && self.kept.len() < MAX_SPARES {
            buffer.clear();
            self.kept.push(buffer);
            self.used = now;
        }
    }

    /// An empty buffer for about `bytes`; a new one without memory when none is kept or few are
    /// needed.
    pub(super) fn take(&mut self, bytes: usize, now: Mono) -> Vec<u8> {
        if bytes < SMALLEST_BYTES {
            return Vec::new();
        }
        self.used = now;
        self.kept.pop().unwrap_or_default()
    }

    /// Lets go of what has not been used for a while.
    pub(super) fn trim(&mut self, now: Mono) {
        if !self.kept.is_empty() && now.since(self.used) >= KEPT_FOR {
            self.clear();
        }
    }

    /// Lets go of all.
    pub(super) fn clear(&mut self) {
        self.kept = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_few_buffers_of_a_useful_size_are_kept() {
        let now = Mono::default();
        let mut spares = Spares::default();
        spares.put(Vec::with_capacity(100), now);
        spares.put(Vec::with_capacity(1 << 20), now);
        assert_eq!(spares.take(1 << 20, now).capacity(), 0);
        for _ in 0..10 {
            spares.put(vec![7; 100_000], now);
        }
        assert_eq!(spares.take(10, now).capacity(), 0);
        let kept: Vec<_> = (0..10).map(|_| spares.take(1 << 20, now)).collect();
        assert_eq!(kept.iter().filter(|b| b.capacity() > 0).count(), MAX_SPARES);
        assert!(kept.iter().all(Vec::is_empty));
    }

    #[test]
    fn buffers_that_nobody_uses_are_let_go() {
        let mut spares = Spares::default();
        spares.put(vec![7; 100_000], Mono::default());
        spares.trim(Mono(Duration::from_millis(999)));
        assert_eq!(spares.kept.len(), 1);
        spares.trim(Mono(KEPT_FOR));
        assert_eq!(spares.kept.capacity(), 0);
    }
}
