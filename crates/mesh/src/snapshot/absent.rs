//! Addresses of which discovery said that they do not exist (on-demand discovery only).

use imbl::OrdMap;

use crate::address::NetworkAddress;

/// Most addresses that are remembered as absent. A pod that scans the internet must not grow the
/// proxy without end; 16,384 addresses are about 2 MB and more than a node speaks to at a time.
pub const MAX_ABSENT: usize = 16_384;

/// A bounded set that forgets the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Absent {
    order_of: OrdMap<NetworkAddress, u64>,
    by_order: OrdMap<u64, NetworkAddress>,
    next: u64,
}

impl Absent {
    /// Adds an address and returns the one that had to go for it.
    pub(super) fn insert(&mut self, address: NetworkAddress) -> Option<NetworkAddress> {
        self.remove(&address);
        self.order_of.insert(address.clone(), self.next);
        self.by_order.insert(self.next, address);
        self.next += 1;
        if self.order_of.len() <= MAX_ABSENT {
            return None;
        }
        let oldest = self
            .by_order
            .get_min()
            .map(|(_, address)| address.clone())?;
        self.remove(&oldest);
        Some(oldest)
    }

    pub(super) fn remove(&mut self, address: &NetworkAddress) {
        if let Some(order) = self.order_of.remove(address) {
            self.by_order.remove(&order);
        }
    }

    pub(super) fn contains(&self, address: &NetworkAddress) -> bool {
        self.order_of.contains_key(address)
    }
}

/// The same addresses, whatever their ages.
impl PartialEq for Absent {
    fn eq(&self, other: &Self) -> bool {
        self.order_of.keys().eq(other.order_of.keys())
    }
}
