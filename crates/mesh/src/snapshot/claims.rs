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
/// Nearly always it is one, which then needs no memory of its own.
#[derive(Debug, PartialEq)]
pub(super) enum Claims<T> {
    /// The only one.
    One(Arc<T>),
    /// Two or more. Behind two pointers, so that the others take one word less.
    Many(Arc<Box<[Arc<T>]>>),
}

impl<T> Clone for Claims<T> {
    fn clone(&self) -> Self {
        match self {
            Self::One(only) => Self::One(only.clone()),
            Self::Many(all) => Self::Many(all.clone()),
        }
    }
}

impl<T> Claims<T> {
    /// Of claimants in their order; None of none.
    pub(super) fn of(all: Vec<Arc<T>>) -> Option<Self> {
        match <[Arc<T>; 1]>::try_from(all) {
            Ok([only]) => Some(Self::One(only)),
            Err(all) => (!all.is_empty()).then(|| Self::Many(Arc::new(all.into()))),
        }
    }

    /// All of them, best first.
    fn all(&self) -> &[Arc<T>] {
        match self {
            Self::One(only) => std::slice::from_ref(only),
            Self::Many(all) => all,
        }
    }

    /// The claimant that goes before all others.
    pub(super) fn best(&self) -> &Arc<T> {
        self.all()
            .first()
            .expect("claims without a claimant are removed with their key")
    }

    /// How many claim it, at least one.
    pub(super) fn len(&self) -> usize {
        self.all().len()
    }

    /// All of them, best first.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Arc<T>> {
        self.all().iter()
    }
}

/// Adds a claim; the same claim twice counts once.
pub(super) fn claim<K: Ord + Clone, T: Claimant>(
    map: &mut OrdMap<K, Claims<T>>,
    key: K,
    claimant: &Arc<T>,
) {
    let mut all: Vec<Arc<T>> = map.get(&key).map(|c| c.all().to_vec()).unwrap_or_default();
    if let Err(place) = all.binary_search_by(|other| other.precedence(claimant)) {
        all.insert(place, claimant.clone());
        if let Some(claims) = Claims::of(all) {
            map.insert(key, claims);
        }
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
    match Claims::of(rest) {
        Some(claims) => drop(map.insert(key.clone(), claims)),
        None => drop(map.remove(key)),
    }
}
