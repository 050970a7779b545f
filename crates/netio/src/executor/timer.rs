//! The timers of one thread, in the order in which they fire. Knows neither tasks nor clocks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Instant;

/// Which timer: its moment, and a number that tells equal moments apart.
pub(crate) type Key = (Instant, u64);

/// The timers of a thread. Their number is bounded by the futures that wait for them.
#[derive(Default)]
pub(crate) struct Timers {
    waiting: RefCell<BTreeMap<Key, Waker>>,
    next: Cell<u64>,
}

impl Timers {
    /// Wakes `waker` at the moment `at`.
    pub(crate) fn add(&self, at: Instant, waker: Waker) -> Key {
        let number = self.next.get();
        self.next.set(number + 1);
        self.waiting.borrow_mut().insert((at, number), waker);
        (at, number)
    }

    /// Another waker for a timer that has not fired.
    pub(crate) fn update(&self, key: Key, waker: &Waker) {
        if let Some(old) = self.waiting.borrow_mut().get_mut(&key) {
            old.clone_from(waker);
        }
    }

    pub(crate) fn remove(&self, key: Key) {
        let removed = self.waiting.borrow_mut().remove(&key);
        drop(removed);
    }

    /// When the next one fires.
    pub(super) fn next(&self) -> Option<Instant> {
        let waiting = self.waiting.borrow();
        waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Wakes whoever waits for a moment that has come.
    pub(super) fn fire(&self) {
        let Some(mut next) = self.next() else {
            return;
        };
        let now = Instant::now();
        while next <= now {
            let fired = self.waiting.borrow_mut().pop_first();
            if let Some((_, waker)) = fired {
                waker.wake();
            }
            match self.next() {
                Some(at) => next = at,
                None => return,
            }
        }
    }
}
