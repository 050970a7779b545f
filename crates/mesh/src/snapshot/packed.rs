//! Trees without gaps. Knows nothing of what is in them.

use imbl::OrdMap;

/// What a tree holds, in order, put so that a tree that is made of it has no gaps.
///
/// A leaf that is full when a key comes is cut in halves, and of keys that come in order none ever
/// falls into the left half again: all leaves stay half empty. So first comes every other key, and
/// then the rest, which finds exactly the room that is left.
pub(super) fn without_gaps<T>(sorted: impl Iterator<Item = T> + Clone) -> impl Iterator<Item = T> {
    sorted.clone().step_by(2).chain(sorted.skip(1).step_by(2))
}

/// The same map in about half of the memory, if it was filled in the order of its keys. Shares
/// nothing with the map that it was made of; takes as long as inserting everything once.
pub fn packed<K: Ord + Clone, V: Clone>(map: &OrdMap<K, V>) -> OrdMap<K, V> {
    let entries = without_gaps(map.iter());
    entries
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Whether so many new items are enough to make a tree anew of all: then what comes in any number
/// of pieces is copied some five times at the most.
pub(super) fn is_much(new: usize, old: usize) -> bool {
    new > old / 4
}

/// Adds entries; of two with the same key the later one counts, and the key that was first stays.
///
/// If they are many for what is there, all of the map is made anew, without gaps, and shares
/// nothing with its clones; says whether it was.
pub fn extend<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, new: Vec<(K, V)>) -> bool {
    if !is_much(new.len(), map.len()) {
        map.extend(new);
        return false;
    }
    let mut all = Vec::with_capacity(map.len() + new.len());
    all.extend(map.iter().map(|(key, value)| (key.clone(), value.clone())));
    all.extend(new);
    // Stable: of the same keys the last entry stays behind the others.
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.dedup_by(|later, earlier| {
        let is_same = later.0 == earlier.0;
        if is_same {
            std::mem::swap(&mut later.1, &mut earlier.1);
        }
        is_same
    });
    *map = without_gaps(all.iter()).cloned().collect();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_map_has_the_last_of_each_and_no_gaps() {
        let mut map = OrdMap::new();
        let entries = |from: u64, count: u64| (from..from + count).map(|key| (key, [key; 4]));
        assert!(extend(&mut map, entries(0, 100).rev().collect()));
        // A fourth of it is not much yet.
        assert!(!extend(&mut map, entries(200, 25).collect()));
        assert!(!extend(&mut map, Vec::new()));
        let again = [(7, [0; 4]), (7, [1; 4])].into_iter();
        assert!(extend(&mut map, again.chain(entries(300, 9_900)).collect()));
        let mut expected: OrdMap<_, _> = entries(0, 100).chain(entries(200, 25)).collect();
        expected.extend(entries(300, 9_900));
        expected.insert(7, [1; 4]);
        assert_eq!(map, expected);
        let (_, taken) = bytes(|| {
            let mut anew = OrdMap::new();
            extend(&mut anew, entries(0, 10_000).collect());
            anew
        });
        assert!(taken < 10_000 * 48, "{taken} bytes");
    }

    fn bytes(make: impl FnOnce() -> OrdMap<u64, [u64; 4]>) -> (OrdMap<u64, [u64; 4]>, usize) {
        let mut made = OrdMap::new();
        let counted = allocation_counter::measure(|| made = make());
        let bytes = usize::try_from(counted.bytes_current).expect("it keeps what it made");
        (made, bytes)
    }

    #[test]
    fn a_packed_map_is_the_same_in_half_of_the_memory() {
        let filled = || (0..10_000).map(|key| (key, [key; 4])).collect();
        let (map, loose) = bytes(filled);
        let (tight, packed_bytes) = bytes(|| packed(&map));
        assert_eq!(tight, map);
        assert!(packed_bytes * 10 < loose * 6, "{packed_bytes} of {loose}");
        // An entry and its share of the branches.
        assert!(packed_bytes < 10_000 * 48, "{packed_bytes} bytes");
        assert!(packed(&OrdMap::<u8, u8>::new()).is_empty());
    }
}
