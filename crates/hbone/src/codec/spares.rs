//! Buffers between two uses. A fresh large one costs a page fault for each 4 KiB, which is more
//! than the copy into it, and a fresh small one costs two calls of the allocator for each message;
//! so a connection that moves data keeps a few, and one that rests keeps none.

use std::time::Duration;

use crate::time::Mono;

/// Large buffers kept, all together, bytes: one large read for each of 16 streams of bulk. With a
/// megabyte of them a fiftieth of the CPU of 16 streams were page faults of reads into fresh ones.
const MAX_LARGE_BYTES: usize = 4 << 20;

/// Small buffers kept: the messages of one read of a tunnel with many small flows; 128 KiB.
const MAX_SMALL: usize = 32;

/// Capacity of small buffers, bytes: one small read of an application's socket, or a small message.
const SMALL_BYTES: usize = 4 << 10;

/// Large buffers are at least this large, bytes.
const LARGE_FROM_BYTES: usize = 16 << 10;

/// Buffers larger than this are not kept, bytes; two large reads.
const LARGEST_BYTES: usize = 512 << 10;

/// How long buffers are kept that nobody asks for: a tunnel whose bulk is over carries small flows
/// without large ones.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// Empty buffers of two sizes.
#[derive(Debug, Default)]
pub(super) struct Spares {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    /// Capacity of `large`.
    large_bytes: usize,
    /// When a large one was put or taken last.
    large_used: Mono,
}

impl Spares {
    /// Keeps a buffer, if it is worth it.
    pub(super) fn put(&mut self, mut buffer: Vec<u8>, now: Mono) {
        let bytes = buffer.capacity();
        if bytes == SMALL_BYTES {
            if self.small.len() < MAX_SMALL {
                buffer.clear();
                self.small.push(buffer);
            }
        } else if (LARGE_FROM_BYTES..=LARGEST_BYTES).contains(&bytes)
            && self.large_bytes + bytes <= MAX_LARGE_BYTES
        {
            buffer.clear();
            self.large_bytes += bytes;
            self.large.push(buffer);
            self.large_used = now;
        }
    }

    /// An empty buffer for `bytes`.
    pub(super) fn take(&mut self, bytes: usize, now: Mono) -> Vec<u8> {
        if bytes <= SMALL_BYTES {
            let spare = self.small.pop();
            return spare.unwrap_or_else(|| Vec::with_capacity(SMALL_BYTES));
        }
        self.large_used = now;
        let mut buffer = self.large.pop().unwrap_or_default();
        self.large_bytes -= buffer.capacity();
        buffer.reserve_exact(bytes);
        buffer
    }

    /// Lets go of large buffers that were not used for a while.
    pub(super) fn trim(&mut self, now: Mono) {
        if !self.large.is_empty() && now.since(self.large_used) >= KEPT_FOR {
            self.clear_large();
        }
    }

    /// Lets go of the large ones.
    pub(super) fn clear_large(&mut self) {
        self.large = Vec::new();
        self.large_bytes = 0;
    }

    /// Lets go of all.
    pub(super) fn clear(&mut self) {
        self.small = Vec::new();
        self.clear_large();
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
        assert!(spares.small.is_empty() && spares.large.is_empty());
        for _ in 0..2 * MAX_SMALL {
            spares.put(vec![7; 100_000], now);
            spares.put(Vec::with_capacity(SMALL_BYTES), now);
        }
        assert_eq!(spares.small.len(), MAX_SMALL);
        let fit = MAX_LARGE_BYTES / 100_000;
        assert_eq!(spares.large.len(), fit);
        assert!(spares.take(50_000, now).is_empty());
        assert_eq!(spares.large.len(), fit - 1);
        spares.put(vec![7; 100_000], now);
        assert_eq!(spares.large.len(), fit, "what was taken may come back");
    }

    #[test]
    fn a_buffer_is_large_enough_whether_kept_or_new() {
        let now = Mono::default();
        let mut spares = Spares::default();
        spares.put(vec![7; 100_000], now);
        for bytes in [0, 1, SMALL_BYTES, SMALL_BYTES + 1, 200_000] {
            assert!(spares.take(bytes, now).capacity() >= bytes);
        }
    }

    #[test]
    fn buffers_that_nobody_uses_are_let_go() {
        let mut spares = Spares::default();
        spares.put(vec![7; 100_000], Mono::default());
        spares.trim(Mono(Duration::from_millis(999)));
        assert_eq!(spares.large.len(), 1);
        spares.trim(Mono(KEPT_FOR));
        assert_eq!(spares.large.capacity(), 0);
    }
}
