//! A map from texts for reading: a few in a sorted list, many in a persistent hash map, so that ten
//! thousand small ones stay small, and a large one is copied and changed in microseconds.

use std::sync::Arc;

/// Most entries of a list: so many are compared faster than one is hashed, and the nodes of the map
/// have more places than that.
const FEW_MAX: usize = 8;

/// Values by text.
#[derive(Clone, Debug)]
pub(super) enum Index<V: Clone> {
    /// Sorted by text.
    Few(Vec<(Arc<str>, V)>),
    Many(imbl::HashMap<Arc<str>, V>),
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
            Self::Many(map) => map.get(text),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(map) => map.is_empty(),
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
            Self::Many(map) => {
                let old = map.remove(text);
                if let Some(new) = change(old) {
                    map.insert(text.clone(), new);
                }
            }
        }
        if let Self::Few(list) = self
            && list.len() > FEW_MAX
        {
            *self = Self::Many(std::mem::take(list).into_iter().collect());
        }
    }

    /// Every value, to be changed.
    pub(super) fn for_each(&mut self, mut change: impl FnMut(&mut V)) {
        match self {
            Self::Few(list) => list.iter_mut().for_each(|(_, value)| change(value)),
            Self::Many(map) => map.iter_mut().for_each(|(_, value)| change(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_found_and_taken_out() {
        let names: Vec<Arc<str>> = (0..40).map(|n| format!("n{n}").into()).collect();
        let mut index = Index::default();
        for (at, name) in names.iter().enumerate() {
            index.change(name, |old| {
                assert_eq!(old, None);
                Some(at)
            });
            let all = names[..=at].iter().map(|name| index.get(name).copied());
            assert!(all.eq((0..=at).map(Some)));
        }
        let copy = index.clone();
        for (at, name) in names.iter().enumerate() {
            index.change(name, |old| {
                assert_eq!(old, Some(at));
                None
            });
            assert_eq!(index.get(name), None);
        }
        assert!(index.is_empty() && !copy.is_empty());
        assert_eq!(copy.get("n39"), Some(&39));
    }
}
