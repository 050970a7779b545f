//! A map from texts for reading: a few in a sorted list, many in shards of open-addressed slots.
//! So ten thousand small ones stay small, and a large one is looked up with one miss of the cache:
//! text and value lie side by side, in as few pages as can be, for a miss of the TLB costs more.
//! Yet it is copied and changed in microseconds: a copy shares all shards, a change copies one.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;

/// Most entries of a list: so many are compared faster than one is hashed.
const FEW_MAX: usize = 8;
/// Entries of a shard on average, at most: so many are copied for a change.
const SHARD_MEAN_MAX: usize = 64;
/// A shard has a multiple of so many slots.
const SLOTS_STEP: usize = 16;
/// So many slots in sixteen of a shard are taken at most: then a text that is there is found at
/// the second look on average, and slots that were looked at lie side by side.
const TAKEN_OF_SIXTEEN: usize = 12;
/// Bytes of a text that its slot has room for; a longer one is one more miss of the cache.
const SHORT_BYTES_MAX: usize = 22;

/// Values by text.
#[derive(Clone, Debug)]
pub(super) enum Index<V: Clone> {
    /// Sorted by text.
    Few(Vec<(Arc<str>, V)>),
    Many(Shards<V>),
}

/// A text is in the shard that the upper half of its hash says, and there at the place that the
/// lower half says, or behind it.
#[derive(Clone, Debug)]
pub(super) struct Shards<V: Clone> {
    hasher: RandomState,
    /// A power of two of them.
    shards: Vec<Shard<V>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Shard<V: Clone> {
    /// At least one is free.
    slots: Arc<[Slot<V>]>,
    taken: usize,
}

#[derive(Clone, Debug)]
struct Slot<V: Clone>(Option<(Text, V)>);

#[derive(Clone, Debug)]
enum Text {
    /// So many of these bytes.
    Short(u8, [u8; SHORT_BYTES_MAX]),
    Long(Arc<str>),
}

impl Text {
    fn new(text: &Arc<str>) -> Self {
        let mut bytes = [0; SHORT_BYTES_MAX];
        match (u8::try_from(text.len()), bytes.get_mut(..text.len())) {
            (Ok(len), Some(own)) => {
                own.copy_from_slice(text.as_bytes());
                Self::Short(len, bytes)
            }
            _ => Self::Long(text.clone()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(len, bytes) => &bytes[..usize::from(*len)],
            Self::Long(text) => text.as_bytes(),
        }
    }
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
            Self::Many(shards) => shards.get(text),
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
                let slots = shards.flat_map(|shard| Arc::make_mut(&mut shard.slots));
                let taken = slots.filter_map(|slot| slot.0.as_mut());
                taken.for_each(|(_, value)| change(value));
            }
        }
    }
}

impl<V: Clone> Shards<V> {
    fn of(list: Vec<(Arc<str>, V)>) -> Self {
        let mut shards = Self {
            hasher: RandomState::default(),
            shards: vec![Shard::with_room_for(list.len())],
            len: list.len(),
        };
        for (text, value) in list {
            let hash = shards.hasher.hash_one(&*text);
            shards.shards[0].add((Text::new(&text), value), hash, &shards.hasher);
        }
        shards
    }

    fn shard(&self, hash: u64) -> usize {
        // The number of shards is far below 2^32.
        (hash >> 32) as usize & (self.shards.len() - 1)
    }

    fn get(&self, text: &str) -> Option<&V> {
        let hash = self.hasher.hash_one(text);
        let shard = &self.shards[self.shard(hash)];
        let at = shard.find(text.as_bytes(), hash).ok()?;
        shard.slots[at].0.as_ref().map(|(_, value)| value)
    }

    fn change(&mut self, text: &Arc<str>, change: impl FnOnce(Option<V>) -> Option<V>) {
        let hash = self.hasher.hash_one(&**text);
        let at = self.shard(hash);
        let shard = &mut self.shards[at];
        match shard.find(text.as_bytes(), hash) {
            Ok(place) => {
                let slot = &mut Arc::make_mut(&mut shard.slots)[place].0;
                if let Some((text, old)) = slot.take() {
                    *slot = change(Some(old)).map(|new| (text, new));
                }
                if slot.is_none() {
                    self.len -= 1;
                    shard.taken -= 1;
                    // What stands behind it may have had to pass it.
                    *shard = shard.again(shard.slots.len(), &self.hasher);
                }
            }
            Err(_) => {
                if let Some(new) = change(None) {
                    self.len += 1;
                    shard.add((Text::new(text), new), hash, &self.hasher);
                }
            }
        }
        if self.len > SHARD_MEAN_MAX * self.shards.len() {
            self.grow();
        }
    }

    /// Twice as many shards: one in so many changes takes milliseconds, the others microseconds.
    fn grow(&mut self) {
        let count = self.shards.len() * 2;
        let old = std::mem::take(&mut self.shards);
        let empty = |_| Shard::with_room_for(SHARD_MEAN_MAX / 2);
        self.shards = (0..count).map(empty).collect();
        for shard in old {
            for (text, value) in shard.entries() {
                let hash = hash(&text, &self.hasher);
                let at = self.shard(hash);
                self.shards[at].add((text, value), hash, &self.hasher);
            }
        }
    }
}

/// As of the text itself.
fn hash(text: &Text, hasher: &RandomState) -> u64 {
    let text = str::from_utf8(text.bytes()).expect("it was made of a text");
    hasher.hash_one(text)
}

impl<V: Clone> Shard<V> {
    fn with_room_for(entries: usize) -> Self {
        let slots = (entries * 16 / TAKEN_OF_SIXTEEN + 1).next_multiple_of(SLOTS_STEP);
        Self {
            slots: (0..slots).map(|_| Slot(None)).collect(),
            taken: 0,
        }
    }

    /// The slot of a text, or the free one where it belongs.
    fn find(&self, text: &[u8], hash: u64) -> Result<usize, usize> {
        let count = self.slots.len();
        // The lower half of the hash as a fraction of the slots.
        let mut at = ((hash & 0xffff_ffff) as usize * count) >> 32;
        loop {
            match &self.slots[at].0 {
                None => return Err(at),
                Some((own, _)) if own.bytes() == text => return Ok(at),
                Some(_) => at = if at + 1 == count { 0 } else { at + 1 },
            }
        }
    }

    /// Adds what is not there.
    fn add(&mut self, entry: (Text, V), hash: u64, hasher: &RandomState) {
        if (self.taken + 1) * 16 > self.slots.len() * TAKEN_OF_SIXTEEN {
            *self = self.again(self.slots.len() + SLOTS_STEP, hasher);
        }
        let (Ok(at) | Err(at)) = self.find(entry.0.bytes(), hash);
        Arc::make_mut(&mut self.slots)[at] = Slot(Some(entry));
        self.taken += 1;
    }

    /// The same entries in so many slots, each where it belongs.
    fn again(&self, slots: usize, hasher: &RandomState) -> Self {
        let mut made: Vec<_> = (0..slots).map(|_| Slot(None)).collect();
        for (text, value) in self.clone().entries() {
            let hash = hash(&text, hasher);
            let mut at = ((hash & 0xffff_ffff) as usize * slots) >> 32;
            while made[at].0.is_some() {
                at = if at + 1 == slots { 0 } else { at + 1 };
            }
            made[at] = Slot(Some((text, value)));
        }
        Self {
            slots: made.into(),
            taken: self.taken,
        }
    }

    fn entries(self) -> impl Iterator<Item = (Text, V)> {
        let count = self.slots.len();
        (0..count).filter_map(move |at| self.slots[at].0.clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_and_what_is_listed_there_are_less_than_a_line_of_the_cache() {
        assert_eq!(size_of::<Slot<super::super::table::List>>(), 40);
    }

    #[test]
    fn few_and_many_are_found_and_taken_out() {
        let count = SHARD_MEAN_MAX * 5;
        let long = "n".repeat(SHORT_BYTES_MAX);
        let name = |n| match n % 2 {
            0 => format!("{n}"),
            _ => format!("{long}{n}"),
        };
        let names: Vec<Arc<str>> = (0..count).map(|n| name(n).into()).collect();
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
        assert_eq!(copy.get(&names[39]), Some(&40));
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_its_copies_stay_what_they_were(
            changes in prop::collection::vec((0_usize..60, 0_u8..3), 0..400),
        ) {
            let mut index = Index::default();
            let mut map = std::collections::BTreeMap::new();
            let mut copy = (index.clone(), map.clone());
            for (at, (n, what)) in changes.into_iter().enumerate() {
                // Short and long texts, the empty one, and two of nearly the same bytes.
                let text: Arc<str> = "x".repeat(n).into();
                let new = (what > 0).then_some(at);
                index.change(&text, |old| {
                    assert_eq!(old, map.get(&text).copied());
                    new
                });
                match new {
                    Some(new) => map.insert(text, new),
                    None => map.remove(&text),
                };
                if what == 2 {
                    copy = (index.clone(), map.clone());
                }
            }
            for (index, map) in [(&index, &map), (&copy.0, &copy.1)] {
                prop_assert_eq!(index.is_empty(), map.is_empty());
                for n in 0..60 {
                    let text = "x".repeat(n);
                    prop_assert_eq!(index.get(&text), map.get(&*text));
                }
            }
        }
    }
}
