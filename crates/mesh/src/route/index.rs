//! A map from texts for reading: a few in a sorted list, many in shards of hash maps. So ten
//! thousand small ones stay small, and a large one is looked up with few misses of the cache, yet
//! copied and changed in microseconds: a copy shares all shards, a change copies one.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;

/// Most entries of a list: so many are compared faster than one is hashed.
const FEW_MAX: usize = 8;
/// Entries of a shard on average, at most: so many are copied for a change.
const SHARD_MEAN_MAX: usize = 64;

/// Values by text.
#[derive(Clone, Debug)]
pub(super) enum Index<V: Clone> {
    /// Sorted by text.
    Few(Vec<(Arc<str>, V)>),
    Many(Shards<V>),
}

type Shard<V> = HashMap<Arc<str>, V, RandomState>;

/// A text is in the shard that the upper half of its hash says; the map in it uses the other bits.
#[derive(Clone, Debug)]
pub(super) struct Shards<V: Clone> {
    hasher: RandomState,
    /// A power of two of them.
    shards: Vec<Arc<Shard<V>>>,
    len: usize,
}

impl<V: Clone> Default for Index<V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<V: Clone> Index<V> {
    pub(super) fn get(&self, text: &str) -> Option<&V> {
        match self {
            Self::Few(list) => {
                let at = list.binary_search_by(|(key, _)| (**key).cmp(text));
                at.ok().map(|at| &list[at].1)
            }
            Self::Many(shards) => shards.shards[shards.place(text)].get(text),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(shards) => shards.len == 0,
        }
    }

    /// Changes the value of a text, from none if there is none; None takes it out.
    pub(super) fn change(&mut self, text: &Arc<str>, change: impl FnOnce(Option<V>) -> Option<V>) {
        match self {
            Self::Few(list) => match list.binary_search_by(|(key, _)| key.cmp(text)) {
                Ok(at) => {
                    let (key, old) = list.remove(at);
                    if let Some(new) = change(Some(old)) {
                        list.insert(at, (key, new));
                    }
                }
                Err(at) => {
                    if let Some(new) = change(None) {
                        list.insert(at, (text.clone(), new));
                    }
                }
            },
            Self::Many(shards) => shards.change(text, change),
        }
        if let Self::Few(list) = self
            && list.len() > FEW_MAX
        {
            *self = Self::Many(Shards::of(std::mem::take(list)));
        }
    }

    /// Every value, to be changed.
    pub(super) fn for_each(&mut self, mut change: impl FnMut(&mut V)) {
        match self {
            Self::Few(list) => list.iter_mut().for_each(|(_, value)| change(value)),
            Self::Many(shards) => {
                let shards = shards.shards.iter_mut();
                let values = shards.flat_map(|shard| Arc::make_mut(shard).values_mut());
                values.for_each(change);
            }
        }
    }
}

impl<V: Clone> Shards<V> {
    fn of(list: Vec<(Arc<str>, V)>) -> Self {
        let hasher = RandomState::default();
        let len = list.len();
        let mut shard = Shard::with_hasher(hasher.clone());
        shard.extend(list);
        Self {
            hasher,
            shards: vec![Arc::new(shard)],
            len,
        }
    }

    fn place(&self, text: &str) -> usize {
        let upper = self.hasher.hash_one(text) >> 32;
        // The number of shards is far below 2^32.
        upper as usize & (self.shards.len() - 1)
    }

    fn change(&mut self, text: &Arc<str>, change: impl FnOnce(Option<V>) -> Option<V>) {
        let place = self.place(text);
        let shard = Arc::make_mut(&mut self.shards[place]);
        let old = shard.remove(text);
        self.len -= usize::from(old.is_some());
        if let Some(new) = change(old) {
            shard.insert(text.clone(), new);
            self.len += 1;
        }
        if self.len > SHARD_MEAN_MAX * self.shards.len() {
            self.grow();
        }
    }

    /// Twice as many shards: one in so many changes takes milliseconds, the others microseconds.
    fn grow(&mut self) {
        let count = self.shards.len() * 2;
        let old = std::mem::take(&mut self.shards);
        let empty = |_| Arc::new(Shard::with_hasher(self.hasher.clone()));
        self.shards = (0..count).map(empty).collect();
        for shard in old {
            for (text, value) in Arc::unwrap_or_clone(shard) {
                let place = self.place(&text);
                Arc::make_mut(&mut self.shards[place]).insert(text, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_found_and_taken_out() {
        let count = SHARD_MEAN_MAX * 5;
        let names: Vec<Arc<str>> = (0..count).map(|n| format!("n{n}").into()).collect();
        let mut index = Index::default();
        for (at, name) in names.iter().enumerate() {
            index.change(name, |old| {
                assert_eq!(old, None);
                Some(at)
            });
            assert_eq!(index.get(name), Some(&at));
        }
        assert!(
            names
                .iter()
                .map(|name| index.get(name).copied())
                .eq((0..count).map(Some))
        );
        let Index::Many(shards) = &index else {
            panic!("many are in shards");
        };
        assert_eq!(shards.shards.len(), 8);
        index.for_each(|at| *at += 1);
        let copy = index.clone();
        for (at, name) in names.iter().enumerate() {
            index.change(name, |old| {
                assert_eq!(old, Some(at + 1));
                None
            });
            assert_eq!(index.get(name), None);
        }
        assert!(index.is_empty() && !copy.is_empty());
        assert_eq!(copy.get("n39"), Some(&40));
    }
}
