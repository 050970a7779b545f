//! Those who came and have not said who they are, by address: whose turn it is to make room.
//!
//! One address may send thousands; they must not lock the others out. So who has the most loses
//! first, the oldest before the younger. Knows no socket, time or lock.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// A place in a [`Crowd`]; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    from: IpAddr,
    number: u64,
}

/// The unknown, with what is kept of each. Who uses it bounds it by making room.
#[derive(Debug)]
pub struct Crowd<T> {
    /// Oldest first; no list is empty.
    by_address: HashMap<IpAddr, VecDeque<(u64, T)>>,
    count: usize,
    next: u64,
}

impl<T> Default for Crowd<T> {
    fn default() -> Self {
        Self {
            by_address: HashMap::new(),
            count: 0,
            next: 0,
        }
    }
}

impl<T> Crowd<T> {
    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many of one address, in either of its forms.
    pub fn of(&self, from: IpAddr) -> usize {
        let list = self.by_address.get(&from.to_canonical());
        list.map_or(0, VecDeque::len)
    }

    /// One more, the youngest.
    pub fn insert(&mut self, from: IpAddr, item: T) -> Place {
        let (from, number) = (from.to_canonical(), self.next);
        self.next += 1;
        self.count += 1;
        let list = self.by_address.entry(from).or_default();
        list.push_back((number, item));
        Place { from, number }
    }

    /// Takes one out; None when it is gone already.
    pub fn take(&mut self, place: Place) -> Option<T> {
        let list = self.by_address.get_mut(&place.from)?;
        let at = list
            .iter()
            .position(|(number, _)| *number == place.number)?;
        let (_, item) = list.remove(at)?;
        if list.is_empty() {
            self.by_address.remove(&place.from);
        }
        self.count -= 1;
        Some(item)
    }

    /// Takes out the oldest of one address.
    pub fn take_oldest_of(&mut self, from: IpAddr) -> Option<T> {
        let from = from.to_canonical();
        let (number, _) = self.by_address.get(&from)?.front()?;
        let number = *number;
        self.take(Place { from, number })
    }

    /// Takes out the oldest of the address that has the most; of equals, the oldest of all.
    pub fn take_oldest(&mut self) -> Option<T> {
        let oldest = |list: &VecDeque<(u64, T)>| list.front().map_or(u64::MAX, |(n, _)| *n);
        let rank = |list: &VecDeque<(u64, T)>| (list.len(), Reverse(oldest(list)));
        let greediest = self.by_address.iter().max_by_key(|(_, list)| rank(list));
        let from = greediest.map(|(from, _)| *from)?;
        self.take_oldest_of(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn the_oldest_of_the_greediest_goes_first_and_of_equals_the_oldest() {
        let mut crowd = Crowd::default();
        for (from, name) in [(1, "a"), (2, "b"), (2, "c"), (3, "d"), (2, "e")] {
            crowd.insert(address(from), name);
        }
        let order: Vec<_> = std::iter::from_fn(|| crowd.take_oldest()).collect();
        assert_eq!(order, ["b", "c", "a", "d", "e"]);
        assert!(crowd.is_empty() && crowd.by_address.is_empty());
    }

    #[test]
    fn both_forms_of_an_address_are_one() {
        let mut crowd = Crowd::default();
        let mapped = std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        crowd.insert(mapped.into(), 1);
        crowd.insert(address(1), 2);
        assert_eq!((crowd.of(address(1)), crowd.of(mapped.into())), (2, 2));
        assert_eq!(crowd.take_oldest_of(address(1)), Some(1));
    }

    #[test]
    fn a_place_is_left_once() {
        let mut crowd = Crowd::default();
        let first = crowd.insert(address(1), 1);
        assert_eq!((crowd.take(first), crowd.take(first)), (Some(1), None));
        crowd.insert(address(1), 2);
        assert_eq!((crowd.take(first), crowd.len()), (None, 1));
    }
}
