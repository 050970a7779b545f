//! Large buffers between two uses. A fresh one costs a page fault for each 4 KiB, which is more
//! than the copy into it; so a connection that moves bulk keeps a few, and one that rests keeps
//! none.

/// Buffers kept: one being filled and one being written out, in each direction.
const MAX_SPARES: usize = 4;

/// Buffers smaller than this are cheap to make, bytes.
const SMALLEST_BYTES: usize = 16 << 10;

/// Buffers larger than this are not kept, bytes; two large reads.
const LARGEST_BYTES: usize = 512 << 10;

/// At most [`MAX_SPARES`] empty buffers.
#[derive(Debug, Default)]
pub(super) struct Spares(Vec<Vec<u8>>);

impl Spares {
    /// Keeps a buffer, if it is worth it.
    pub(super) fn put(&mut self, mut buffer: Vec<u8>) {
        let worth = (SMALLEST_BYTES..=LARGEST_BYTES).contains(&buffer.capacity());
        if worth && self.0.len() < MAX_SPARES {
            buffer.clear();
            self.0.push(buffer);
        }
    }

    /// An empty buffer for about `bytes`; a new one without memory when none is kept or few are
    /// needed.
    pub(super) fn take(&mut self, bytes: usize) -> Vec<u8> {
        if bytes < SMALLEST_BYTES {
            Vec::new()
        } else {
            self.0.pop().unwrap_or_default()
        }
    }

    /// Lets go of all.
    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_few_buffers_of_a_useful_size_are_kept() {
        let mut spares = Spares::default();
        spares.put(Vec::with_capacity(100));
        spares.put(Vec::with_capacity(1 << 20));
        assert_eq!(spares.take(1 << 20).capacity(), 0);
        for _ in 0..10 {
            spares.put(vec![7; 100_000]);
        }
        assert_eq!(spares.take(10).capacity(), 0);
        let kept: Vec<_> = (0..10).map(|_| spares.take(1 << 20)).collect();
        assert_eq!(kept.iter().filter(|b| b.capacity() > 0).count(), MAX_SPARES);
        assert!(kept.iter().all(Vec::is_empty));
    }
}
