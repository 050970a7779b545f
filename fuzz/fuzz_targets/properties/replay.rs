//! The short form of a fuzz target, for `cargo test`: every committed seed as it is, then damaged
//! in ways that are the same at each run. Knows no target: each crate hands in its own properties.

use std::fs;
use std::path::{Path, PathBuf};

/// Fewer seeds than these mean that they are not found.
const FEWEST_SEEDS: usize = 5;

/// Runs `holds` on each file of `fuzz/seeds/<target>` and on `mutants` damaged copies of each.
pub fn replay(target: &str, mutants: usize, holds: fn(&[u8])) {
    let seeds = seeds(target);
    assert!(
        seeds.len() >= FEWEST_SEEDS,
        "{} seeds of {target}",
        seeds.len()
    );
    for (name, seed) in &seeds {
        let told = Told(format!("{target}: the seed {name}"));
        holds(seed);
        drop(told);
    }
    let mut dice = Dice(0x5eed);
    for (name, seed) in &seeds {
        for _ in 0..mutants {
            let mut bytes = seed.clone();
            for _ in 0..=dice.below(4) {
                let other = &seeds[dice.below(seeds.len())].1;
                damage(&mut bytes, other, &mut dice);
            }
            let told = Told(format!(
                "{target}: {name} damaged to {}",
                bytes.escape_ascii()
            ));
            holds(&bytes);
            drop(told);
        }
    }
}

/// Says what was tried when it panicked.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dirs = here
        .ancestors()
        .map(|dir| dir.join("fuzz/seeds").join(target));
    let dir = dirs
        .into_iter()
        .find(|dir| dir.is_dir())
        .expect("the seeds of the target");
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .expect("a directory that can be read")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let read = |path: PathBuf| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        (name, fs::read(path).expect("a file that can be read"))
    };
    files.into_iter().map(read).collect()
}

fn damage(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    let end = (at + dice.below(16)).min(bytes.len());
    match dice.below(8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        3 => bytes.insert(at, dice.below(256) as u8),
        4 => {
            let from = dice.below(other.len() + 1);
            let to = (from + dice.below(64)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        5 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        6 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'-'][dice.below(6)],
        _ if at < bytes.len() => bytes[at] = dice.below(256) as u8,
        _ => {}
    }
}

/// SplitMix64: the same numbers everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}
