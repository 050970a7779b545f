//! What was made of each route alone, kept while the route and all that routes refer to stay the
//! same. Knows no parent.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::draft::Made;
use crate::gateway::{GrpcRouteSpec, HttpRouteSpec, ReferenceGrantSpec, StreamRouteSpec};
use crate::object::{Custom, Kind, Name, Service};
use crate::translation::Input;

/// The last translation's routes, with what they were made of.
///
/// What a route's rules become follows from the route and from [`Referred`] alone. Objects that
/// stayed are the very same value mostly, so that comparing them costs a pointer each.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    referred: Referred,
    last: BTreeMap<(Kind, Name), (Written, Arc<Made>)>,
    now: BTreeMap<(Kind, Name), (Written, Arc<Made>)>,
}

/// All that references of routes are resolved by.
#[derive(Debug, Default, PartialEq)]
struct Referred {
    services: BTreeMap<Name, Arc<Service>>,
    grants: BTreeMap<Name, Arc<Custom<ReferenceGrantSpec>>>,
    cluster_domain: Arc<str>,
}

/// A route as written.
#[derive(Debug, PartialEq)]
pub(super) enum Written {
    Http(Arc<Custom<HttpRouteSpec>>),
    Grpc(Arc<Custom<GrpcRouteSpec>>),
    /// TLSRoute or TCPRoute.
    Stream(Arc<Custom<StreamRouteSpec>>),
}

impl Kept {
    /// A translation begins.
    pub(super) fn begin(&mut self, input: &Input<'_>) {
        self.last = std::mem::take(&mut self.now);
        let objects = input.objects;
        let same = self.referred.services == objects.services
            && self.referred.grants == objects.reference_grants
            && self.referred.cluster_domain == input.options.cluster_domain;
        if !same {
            self.last.clear();
            self.referred = Referred {
                services: objects.services.clone(),
                grants: objects.reference_grants.clone(),
                cluster_domain: Arc::clone(&input.options.cluster_domain),
            };
        }
    }

    /// What was made of the route, or is made now.
    pub(super) fn made(
        &mut self,
        kind: Kind,
        name: &Name,
        written: Written,
        make: impl FnOnce() -> Made,
    ) -> Arc<Made> {
        let key = (kind, name.clone());
        let known = self.last.remove(&key).filter(|(of, _)| *of == written);
        let made = known.map_or_else(|| Arc::new(make()), |(_, made)| made);
        self.now.insert(key, (written, Arc::clone(&made)));
        made
    }

    /// It ends: what is gone is forgotten.
    pub(super) fn end(&mut self) {
        self.last.clear();
    }
}
