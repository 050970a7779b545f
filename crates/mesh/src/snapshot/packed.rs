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

#[cfg(test)]
mod tests {
    use super::*;

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
