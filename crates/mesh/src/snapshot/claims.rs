//! Who claims an address or a name. Two may claim the same; the answer to "who has it" must not
//! depend on who came first, and removing one must not lose the other.

use std::cmp::Ordering;
use std::sync::Arc;

use imbl::OrdMap;

/// Something that can claim a key beside others of its kind.
pub(super) trait Claimant {
    /// `Less` when `self` goes before `other`. Total: `Equal` only for the same claimant.
    fn precedence(&self, other: &Self) -> Ordering;
}

/// The claimants of one key, best first, never none.
///
/// A shared slice: nearly always of one element, where a persistent map of its own would cost
/// hundreds of bytes for each address.
#[derive(Debug, PartialEq)]
pub(super) struct Claims<T>(Arc<[Arc<T>]>);

impl<T> Clone for Claims<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Claims<T> {
    /// The claimant that goes before all others.
    pub(super) fn best(&self) -> &Arc<T> {
        self.0
            .first()
            .expect("claims without a claimant are removed with their key")
    }

    /// How many claim it, at least one.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them, best first.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Arc<T>> {
        self.0.iter()
    }
}

/// Adds a claim; the same claim twice counts once.
pub(super) fn claim<K: Ord + Clone, T: Claimant>(
    map: &mut OrdMap<K, Claims<T>>,
    key: K,
    claimant: &Arc<T>,
) {
    let mut all: Vec<Arc<T>> = map.get(&key).map(|c| c.0.to_vec()).unwrap_or_default();
    if let Err(place) = all.binary_search_by(|other| other.precedence(claimant)) {
        all.insert(place, claimant.clone());
        map.insert(key, Claims(all.into()));
    }
}

/// Takes a claim back. `claimant` is the very value that was given to [`claim`].
pub(super) fn release<K: Ord + Clone, T: Claimant>(
    map: &mut OrdMap<K, Claims<T>>,
    key: &K,
    claimant: &Arc<T>,
) {
    let Some(claims) = map.get(key) else { return };
    let rest: Vec<Arc<T>> = claims
        .iter()
        .filter(|other| !Arc::ptr_eq(other, claimant))
        .cloned()
        .collect();
    if rest.is_empty() {
        map.remove(key);
    } else {
        map.insert(key.clone(), Claims(rest.into()));
    }
}
