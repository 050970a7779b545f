//! TLS handshakes in flight on one worker, by the address of the peer.
//!
//! A peer that begins many and finishes none costs those of others nothing: past the worker's
//! limit the oldest of the address that has the most is cut off. Knows no TLS and no socket.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;

use crate::limits::{Limit, Limits, Reached};

/// The handshakes.
pub struct Handshakes {
    per_worker: usize,
    per_address: usize,
    begun: RefCell<Begun>,
}

#[derive(Default)]
struct Begun {
    /// Oldest first; no list is empty.
    by_address: HashMap<IpAddr, VecDeque<Rc<One>>>,
    count: usize,
    /// Number of the next one.
    next: u64,
}

struct One {
    /// Let go with the [`Handshake`], at the latest.
    all: Rc<Handshakes>,
    from: IpAddr,
    number: u64,
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
        let from = from.to_canonical();
        let evicted = {
            let mut begun = self.begun.borrow_mut();
            let of_address = begun.by_address.get(&from).map_or(0, VecDeque::len);
            if of_address >= self.per_address {
                return Err(Reached::refused(Limit::HandshakesPerAddress));
            }
            let full = begun.count >= self.per_worker;
            if full { begun.take_oldest() } else { None }
        };
        // Outside of the borrow: it may come back here.
        if let Some(one) = evicted {
            one.evicted.set(true);
            (one.cut_off)();
        }
        let mut begun = self.begun.borrow_mut();
        let one = Rc::new(One {
            all: Rc::clone(self),
            from,
            number: begun.next,
            cut_off: Box::new(cut_off),
            evicted: Cell::new(false),
        });
        begun.next += 1;
        begun.count += 1;
        let of_address = begun.by_address.entry(from).or_default();
        of_address.push_back(Rc::clone(&one));
        Ok(Handshake(one))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.begun.borrow().count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Begun {
    /// Takes out the oldest of the address that has the most; of equals, the oldest of all.
    fn take_oldest(&mut self) -> Option<Rc<One>> {
        let oldest = |list: &VecDeque<Rc<One>>| list.front().map_or(u64::MAX, |one| one.number);
        let most = self
            .by_address
            .iter()
            .max_by_key(|(_, list)| (list.len(), std::cmp::Reverse(oldest(list))));
        let (from, number) = most.map(|(from, list)| (*from, oldest(list)))?;
        self.take(from, number)
    }

    fn take(&mut self, from: IpAddr, number: u64) -> Option<Rc<One>> {
        let list = self.by_address.get_mut(&from)?;
        let place = list.iter().position(|one| one.number == number)?;
        let taken = list.remove(place);
        if list.is_empty() {
            self.by_address.remove(&from);
        }
        self.count -= 1;
        taken
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
        let One {
            all, from, number, ..
        } = &*self.0;
        all.begun.borrow_mut().take(*from, *number);
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

    #[test]
    fn among_equals_the_oldest_makes_room() {
        let all = handshakes(3, 3);
        let kept: Vec<_> = (1..=4)
            .map(|from| all.begin(address(from), || ()).unwrap())
            .collect();
        let evicted: Vec<_> = kept.iter().map(Handshake::was_evicted).collect();
        assert_eq!(evicted, [true, false, false, false]);
    }
}
