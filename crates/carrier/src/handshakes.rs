//! TLS handshakes in flight on one worker, by the address of the peer.
//!
//! A peer that begins many and finishes none costs those of others nothing: past the worker's
//! limit the oldest of the address that has the most is cut off. Knows no TLS and no socket.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use process::crowd::{Crowd, Place};

use crate::limits::{Limit, Limits, Reached};

/// The handshakes.
pub struct Handshakes {
    per_worker: usize,
    per_address: usize,
    begun: RefCell<Crowd<Rc<One>>>,
}

struct One {
    /// Let go with the [`Handshake`], at the latest.
    all: Rc<Handshakes>,
    place: Cell<Option<Place>>,
    cut_off: Box<dyn Fn()>,
    evicted: Cell<bool>,
}

/// A handshake in flight, while it lives.
pub struct Handshake(Rc<One>);

impl Handshakes {
    /// None yet.
    pub fn new(limits: &Limits) -> Rc<Self> {
        Rc::new(Self {
            per_worker: limits.handshakes_per_worker,
            per_address: limits.handshakes_per_address,
            begun: RefCell::default(),
        })
    }

    /// One more. `cut_off` ends it, should it have to make room; it is called at most once.
    ///
    /// # Errors
    /// The address has too many.
    pub fn begin(
        self: &Rc<Self>,
        from: IpAddr,
        cut_off: impl Fn() + 'static,
    ) -> Result<Handshake, Reached> {
        let one = Rc::new(One {
            all: Rc::clone(self),
            place: Cell::new(None),
            cut_off: Box::new(cut_off),
            evicted: Cell::new(false),
        });
        let evicted = {
            let mut begun = self.begun.borrow_mut();
            if begun.of(from) >= self.per_address {
                return Err(Reached::refused(Limit::HandshakesPerAddress));
            }
            let full = begun.len() >= self.per_worker;
            let evicted = if full { begun.take_oldest() } else { None };
            one.place.set(Some(begun.insert(from, Rc::clone(&one))));
            evicted
        };
        // Outside of the borrow: it may come back here.
        if let Some(one) = evicted {
            one.evicted.set(true);
            (one.cut_off)();
        }
        Ok(Handshake(one))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.begun.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Handshake {
    /// Whether it had to make room for another.
    pub fn was_evicted(&self) -> bool {
        self.0.evicted.get()
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        // Gone already when it was evicted.
        if let Some(place) = self.0.place.take() {
            self.0.all.begun.borrow_mut().take(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshakes(per_worker: usize, per_address: usize) -> Rc<Handshakes> {
        Handshakes::new(&Limits {
            handshakes_per_worker: per_worker,
            handshakes_per_address: per_address,
            ..Limits::default()
        })
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn one_address_has_no_more_than_its_share() {
        let all = handshakes(10, 2);
        let _kept: Vec<_> = (0..2)
            .map(|_| all.begin(address(1), || ()).unwrap())
            .collect();
        let refused = all.begin(address(1), || ()).err();
        assert_eq!(refused, Some(Reached::refused(Limit::HandshakesPerAddress)));
        // The same address in its other form.
        let mapped = std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        assert!(all.begin(mapped.into(), || ()).is_err());
        assert!(all.begin(address(2), || ()).is_ok());
    }

    #[test]
    fn past_the_worker_the_oldest_of_the_greediest_makes_room() {
        let all = handshakes(6, 4);
        let cut = Rc::new(RefCell::new(Vec::new()));
        let begin = |from: u8, name: &'static str| {
            let cut = Rc::clone(&cut);
            all.begin(address(from), move || cut.borrow_mut().push(name))
                .unwrap()
        };
        let honest = begin(1, "honest");
        let greedy = ["first", "second", "third", "fourth"].map(|name| begin(2, name));
        let other = begin(3, "other");
        let newcomer = begin(4, "newcomer");
        assert_eq!(*cut.borrow(), ["first"]);
        assert!(greedy[0].was_evicted() && !greedy[1].was_evicted());
        assert_eq!(all.len(), 6);
        // What was evicted leaves nothing behind.
        drop(greedy);
        assert_eq!(all.len(), 3);
        assert!(![honest, other, newcomer].iter().any(Handshake::was_evicted));
        assert!(all.is_empty());
    }
}
