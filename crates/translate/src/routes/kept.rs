//! What was made of each route alone, kept while the route and all that it refers to stay the same.
//! Knows no parent.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::draft::Made;
use crate::gateway::{GrpcRouteSpec, HttpRouteSpec, ReferenceGrantSpec, StreamRouteSpec};
use crate::object::{Custom, Kind, Name, Service};
use crate::translation::Input;

/// The last translation's routes, with what they were made of.
///
/// What a route's rules become follows from the route, from the Services that its backends name,
/// from the ReferenceGrants in the namespaces of these, and from the cluster's domain. Its parents
/// and the labels of namespaces are looked at anew each time. Objects that stayed are the very same
/// value mostly, so that comparing them costs a pointer each.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    referred: Referred,
    changed: Changed,
    last: BTreeMap<(Kind, Name), (Written, Arc<Made>)>,
    now: BTreeMap<(Kind, Name), (Written, Arc<Made>)>,
}

/// All that references of routes are resolved by.
#[derive(Debug, Default)]
struct Referred {
    services: BTreeMap<Name, Arc<Service>>,
    grants: BTreeMap<Name, Arc<Custom<ReferenceGrantSpec>>>,
    cluster_domain: Arc<str>,
}

/// What of it is not as it was at the last translation.
#[derive(Debug, Default)]
struct Changed {
    services: BTreeSet<Name>,
    /// Namespaces of ReferenceGrants.
    granting: BTreeSet<Arc<str>>,
}

impl Changed {
    /// Whether references of a route in `namespace` to these Services may lead elsewhere now.
    fn concerns(&self, namespace: &str, services: &BTreeSet<Name>) -> bool {
        if self.services.is_empty() && self.granting.is_empty() {
            return false;
        }
        let is_granted = |service: &Name| {
            *service.namespace != *namespace && self.granting.contains(&service.namespace)
        };
        let mut services = services.iter();
        services.any(|service| self.services.contains(service) || is_granted(service))
    }
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
        self.changed = Changed::default();
        let objects = input.objects;
        let Referred {
            services,
            grants,
            cluster_domain,
        } = &mut self.referred;
        if *cluster_domain != input.options.cluster_domain {
            self.last.clear();
            *cluster_domain = Arc::clone(&input.options.cluster_domain);
        }
        if *services != objects.services {
            self.changed.services = differing(services, &objects.services).cloned().collect();
            services.clone_from(&objects.services);
        }
        if *grants != objects.reference_grants {
            let names = differing(grants, &objects.reference_grants);
            self.changed.granting = names.map(|name| Arc::clone(&name.namespace)).collect();
            grants.clone_from(&objects.reference_grants);
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
        let known = self.last.remove(&key).filter(|(of, made)| {
            *of == written && !self.changed.concerns(&name.namespace, made.services())
        });
        let made = known.map_or_else(|| Arc::new(make()), |(_, made)| made);
        self.now.insert(key, (written, Arc::clone(&made)));
        made
    }

    /// It ends: what is gone is forgotten.
    pub(super) fn end(&mut self) {
        self.last.clear();
    }
}

/// The keys that are in one of two maps only, or with another value. Both are walked once.
fn differing<'a, K: Ord, V: PartialEq>(
    one: &'a BTreeMap<K, V>,
    other: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (one.peek(), other.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((left, _)), Some((right, _))) => left.cmp(right),
            };
            match order {
                Ordering::Less => return one.next().map(|(key, _)| key),
                Ordering::Greater => return other.next().map(|(key, _)| key),
                Ordering::Equal => {
                    let (left, right) = (one.next(), other.next());
                    if left.map(|(_, value)| value) != right.map(|(_, value)| value) {
                        return left.map(|(key, _)| key);
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_what_is_new_gone_or_another() {
        let of = |text: &str| -> BTreeMap<usize, char> { text.chars().enumerate().collect() };
        let differing = |one: &str, other: &str| -> Vec<usize> {
            let (mut one, mut other) = (of(one), of(other));
            one.retain(|_, value| *value != '-');
            other.retain(|_, value| *value != '-');
            super::differing(&one, &other).copied().collect()
        };
        assert!(differing("abc", "abc").is_empty());
        assert_eq!(differing("a-c", "ab-"), [1, 2]);
        assert_eq!(differing("abc", "axc"), [1]);
        assert_eq!(differing("", "ab"), [0, 1]);
        assert_eq!(differing("--cd", "ab"), [0, 1, 2, 3]);
    }
}
