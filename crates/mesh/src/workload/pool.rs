//! Sharing of what is equal: the replicas of a deployment say nearly the same, and a mesh has few
//! namespaces, nodes and zones. Knows no wire and no snapshot.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Common, Workload};
use crate::service::{GatewayAddress, GatewayDestination, ServiceKey};

/// Size below which the pool is not swept: a few ten KB, whatever is in it.
const SWEEP_FROM: usize = 1024;

/// Texts and [`Common`] parts in use, so that equal ones are one.
///
/// What only the pool holds goes when the pool has doubled since it was last swept: it is never
/// more than twice as large as what is in use, and a workload costs O(1) on average.
#[derive(Debug, Default)]
pub struct Pool {
    texts: HashSet<Arc<str>>,
    commons: HashSet<Arc<Common>>,
    swept_to: usize,
}

impl Pool {
    /// Makes a workload share what was seen before; it stays equal to what it was.
    pub fn share(&mut self, workload: &mut Workload) {
        if self.texts.len() + self.commons.len() >= SWEEP_FROM.max(2 * self.swept_to) {
            self.sweep();
        }
        self.text(&mut workload.node);
        match self.commons.get(&workload.common) {
            Some(known) => workload.common = Arc::clone(known),
            None => {
                self.common(Arc::make_mut(&mut workload.common));
                self.commons.insert(Arc::clone(&workload.common));
            }
        }
    }

    /// Lets go of what nobody else holds. [`Pool::share`] does it by itself; worth its while after
    /// much was removed.
    pub fn sweep(&mut self) {
        // Parts first, since they hold texts.
        self.commons.retain(|common| Arc::strong_count(common) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.commons.shrink_to_fit();
        self.texts.shrink_to_fit();
        self.swept_to = self.texts.len() + self.commons.len();
    }

    fn text(&mut self, text: &mut Arc<str>) {
        match self.texts.get(&**text) {
            Some(known) => *text = Arc::clone(known),
            None => drop(self.texts.insert(Arc::clone(text))),
        }
    }

    fn common(&mut self, common: &mut Common) {
        let locality = &mut common.locality;
        for text in [
            &mut common.namespace,
            &mut common.hostname,
            &mut common.network,
            &mut common.trust_domain,
            &mut common.service_account,
            &mut common.canonical_name,
            &mut common.canonical_revision,
            &mut common.workload_name,
            &mut common.cluster,
            &mut locality.region,
            &mut locality.zone,
            &mut locality.subzone,
        ] {
            self.text(text);
        }
        let gateways = [&mut common.waypoint, &mut common.network_gateway];
        for gateway in gateways.into_iter().flatten() {
            self.gateway(gateway);
        }
        for key in &mut common.policies {
            self.text(&mut key.namespace);
            self.text(&mut key.name);
        }
        common.policies.shrink_to_fit();
        let services = std::mem::take(&mut common.services);
        common.services = services
            .into_iter()
            .map(|(mut key, mut ports)| {
                self.key(&mut key);
                ports.shrink_to_fit();
                (key, ports)
            })
            .collect();
    }

    fn gateway(&mut self, gateway: &mut GatewayAddress) {
        match &mut gateway.destination {
            GatewayDestination::Hostname(key) => self.key(key),
            GatewayDestination::Address(address) => self.text(&mut address.network),
        }
    }

    fn key(&mut self, key: &mut ServiceKey) {
        self.text(&mut key.namespace);
        self.text(&mut key.hostname);
    }
}
