//! What goes when the server says that a name is no more. Knows no message.

use mesh::NetworkAddress;
use proto::ResourceName;

use super::{Discovery, Kind};

impl Discovery {
    /// Takes a name out. On demand a name that is not held may be an address that was asked for:
    /// then it is certain that there is none. `ended` gets the subscriptions that are no more use.
    pub(super) fn remove(
        &mut self,
        kind: Kind,
        name: &str,
        ended: &mut Vec<NetworkAddress>,
    ) -> bool {
        let held = self.held_mut(kind);
        if let Some(unconfirmed) = &mut held.unconfirmed {
            unconfirmed.remove(name);
        }
        if let Some((name, entry)) = held.by_name.remove_with_key(name) {
            if kind.is_of_book() {
                let library = self.library.as_mut();
                return library.is_some_and(|library| library.remove(kind, &name));
            }
            return self.drop_key(&entry.key(&name), ended);
        }
        let Ok(ResourceName::Address(address)) = ResourceName::parse(kind.url(), name) else {
            return false;
        };
        if !self.wanted.contains(&address) || self.snapshot.is_absent(&address) {
            return false;
        }
        if let Some(oldest) = self.snapshot.mark_absent(address) {
            self.end_subscription(oldest, ended);
        }
        true
    }

    /// Takes an item out of the snapshot. Its addresses are no longer subscribed to, so that who
    /// needs one of them next asks anew, and hears "absent" or of its new owner.
    fn drop_key(&mut self, key: &ResourceName, ended: &mut Vec<NetworkAddress>) -> bool {
        for address in self.addresses_of(key) {
            self.end_subscription(address, ended);
        }
        match key {
            ResourceName::Workload(uid) => self.snapshot.remove_workload(uid),
            ResourceName::Service(key) => self.snapshot.remove_service(key),
            ResourceName::Policy(key) => self.snapshot.remove_policy(key),
            // No resource is named like that.
            ResourceName::Address(_) => false,
        }
    }

    fn addresses_of(&self, key: &ResourceName) -> Vec<NetworkAddress> {
        match key {
            ResourceName::Workload(uid) => {
                let workload = self.snapshot.workload(uid);
                workload
                    .into_iter()
                    .flat_map(|it| it.network_addresses())
                    .collect()
            }
            ResourceName::Service(key) => {
                let service = self.snapshot.service(key);
                let ranges = service.into_iter().flat_map(|it| &it.addresses);
                ranges.filter_map(|range| range.single()).collect()
            }
            ResourceName::Policy(_) | ResourceName::Address(_) => Vec::new(),
        }
    }

    fn end_subscription(&mut self, address: NetworkAddress, ended: &mut Vec<NetworkAddress>) {
        if self.wanted.remove(&address) {
            ended.push(address);
        }
    }
}
