//! Repeatable randomness and contents.

use aws_lc_rs::digest::{Context, SHA256};

/// A small generator (SplitMix64), so that a seed names a run.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn within(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// From 1 to `high`, each order of magnitude as likely as the others.
    pub fn size(&mut self, high: usize) -> usize {
        let bits = self.within(0, high.ilog2() as usize);
        self.within(1, (1 << (bits + 1)) - 1).min(high)
    }

    pub fn chance(&mut self, one_in: usize) -> bool {
        self.within(1, one_in) == 1
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(length + 8);
        while out.len() < length {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(length);
        out
    }
}

/// A running SHA-256 and the number of bytes in it.
pub struct Sum {
    context: Context,
    pub bytes: u64,
}

impl Sum {
    pub fn new() -> Self {
        Self {
            context: Context::new(&SHA256),
            bytes: 0,
        }
    }

    pub fn add(&mut self, data: &[u8]) {
        self.context.update(data);
        self.bytes += data.len() as u64;
    }

    pub fn hex(&self) -> String {
        let digest = self.context.clone().finish();
        digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }
}
