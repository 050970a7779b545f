//! Tables by the number of a stream, which are looked into for each message.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table by stream.
pub type ByNumber<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Hashes the number of a stream. They count up, and a peer has a hundred or two open at a time:
/// one that makes some meet slows its own look-ups a little, and meets its limit of streams first.
#[derive(Debug, Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // Fibonacci hashing: 2^64 by the golden ratio spreads what counts up over all bits.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
