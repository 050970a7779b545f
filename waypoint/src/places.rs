//! A bounded number of places, each taken while something lives. Knows not by what.

use std::cell::Cell;
use std::rc::Rc;

/// The places.
#[derive(Debug)]
pub struct Places {
    most: usize,
    taken: Rc<Cell<usize>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Place(Rc<Cell<usize>>);

impl Places {
    /// So many, all free.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            taken: Rc::default(),
        }
    }

    /// A free one; None when there is none.
    #[must_use]
    pub fn take(&self) -> Option<Place> {
        let taken = self.taken.get();
        (taken < self.most).then(|| {
            self.taken.set(taken + 1);
            Place(Rc::clone(&self.taken))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_it_was_left() {
        let places = Places::new(2);
        let (first, second) = (places.take().unwrap(), places.take().unwrap());
        assert!(places.take().is_none());
        drop(first);
        let third = places.take();
        assert!(third.is_some() && places.take().is_none());
        drop((second, third));
        assert_eq!(places.taken.get(), 0);
    }
}
