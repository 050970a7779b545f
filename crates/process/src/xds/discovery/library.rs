//! Routes and policies with targets, as they come one by one, to the book that a waypoint reads: of
//! a response only the parents that it speaks of are arranged anew. Knows no stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh::route::book::Attached;
use mesh::route::stream::{StreamRoute, Streams};
use mesh::route::{Book, ParentKey, RouteKey, Table};
use proto::RoutedName;
use proto::decode;
use proto::routed::AnyRoute;
use proto::wire::discovery as wire;

use super::Kind;

/// What is known of all parents.
#[derive(Debug, Default)]
pub(super) struct Library {
    book: Book,
    parents: BTreeMap<ParentKey, Parent>,
    /// Parents that the book has another state of.
    changed: BTreeSet<ParentKey>,
}

/// What is known of one parent.
#[derive(Debug, Default)]
struct Parent {
    http: Table,
    streams: BTreeMap<RouteKey, Arc<StreamRoute>>,
    /// Routes that cannot be read, and why: while there is one, the parent refuses everything.
    unreadable: BTreeMap<RouteKey, String>,
}

impl Library {
    /// What the waypoint reads; behind what was taken until [`Library::arrange`].
    pub(super) fn book(&self) -> &Book {
        &self.book
    }

    /// Takes a resource; says whether it changes anything.
    pub(super) fn take(&mut self, kind: Kind, resource: &wire::Resource) -> Result<bool, String> {
        if kind == Kind::TargetPolicies {
            let policy = decode::target_policy(resource).map_err(|error| error.to_string())?;
            self.book.policies.insert(policy);
            return Ok(true);
        }
        let routed = decode::routed(resource).map_err(|error| error.to_string())?;
        let RoutedName { parent, key } = routed.name();
        let at = self.at(parent);
        at.unreadable.remove(&key);
        match routed.route {
            AnyRoute::Http(route) => at.http.insert(route),
            AnyRoute::Stream(route) => {
                at.streams.insert(key, route);
            }
        }
        Ok(true)
    }

    /// What a resource is for, that cannot be read, is refused. False when its name says nothing.
    pub(super) fn refuse(&mut self, kind: Kind, name: &str, reason: &str) -> bool {
        if kind == Kind::TargetPolicies {
            self.book.policies.set_unreadable(name);
            return true;
        }
        let Ok(RoutedName { parent, key }) = name.parse() else {
            return false;
        };
        self.at(parent).unreadable.insert(key, reason.to_owned());
        true
    }

    /// Takes a resource out; says whether that changes anything.
    pub(super) fn remove(&mut self, kind: Kind, name: &str) -> bool {
        if kind == Kind::TargetPolicies {
            self.book.policies.forget(name);
            return true;
        }
        let Ok(RoutedName { parent, key }) = name.parse() else {
            return false;
        };
        let at = self.at(parent);
        let of_http = at.http.remove(&key);
        let of_streams = at.streams.remove(&key).is_some();
        at.unreadable.remove(&key).is_some() || of_http || of_streams
    }

    fn at(&mut self, parent: ParentKey) -> &mut Parent {
        self.changed.insert(parent.clone());
        self.parents.entry(parent).or_default()
    }

    /// Brings the book up to what was taken.
    pub(super) fn arrange(&mut self) {
        for key in std::mem::take(&mut self.changed) {
            let Some(parent) = self.parents.get(&key) else {
                continue;
            };
            let attached = parent.attached();
            if attached.is_empty() {
                self.parents.remove(&key);
            }
            self.book.attach(key, attached);
        }
    }
}

impl Parent {
    fn attached(&self) -> Attached {
        let (http, streams) = match self.unreadable.first_key_value() {
            Some((key, why)) => {
                let why = format!("{key}: {why}");
                (Table::refusing(&why), Streams::refusing(&why))
            }
            None => {
                let streams = self.streams.values().cloned();
                (self.http.clone(), Streams::new(streams))
            }
        };
        Attached {
            http: Arc::new(http),
            streams: Arc::new(streams),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scope;
    use super::super::{Applied, Discovery};
    use super::*;
    use mesh::route::book::Addressed;
    use mesh::route::{Failure, Route, RouteKind, Rule, ServicePort};
    use proto::wire::discovery::{DeltaDiscoveryResponse, Node, Resource};
    use proto::{Routed, encode};

    const WEB: &str = "service/shop/web/80";

    fn route(parent: &str, name: &str, rules: usize, version: &str) -> Resource {
        let route = Route {
            key: RouteKey {
                kind: RouteKind::Http,
                namespace: "shop".into(),
                name: name.into(),
            },
            created: None,
            hostnames: Vec::new(),
            rules: vec![Rule::default(); rules],
        };
        let routed = Routed {
            parent: parent.parse().unwrap(),
            route: AnyRoute::Http(Arc::new(route)),
        };
        encode::routed(&routed, version)
    }

    fn bad(mut resource: Resource) -> Resource {
        resource.resource.as_mut().unwrap().value = vec![0xff];
        resource
    }

    fn discovery() -> Discovery {
        Discovery::new(Node::default(), Scope::Wildcard).with_routes()
    }

    fn apply(discovery: &mut Discovery, resources: Vec<Resource>, removed: &[&str]) -> Applied {
        discovery.apply(DeltaDiscoveryResponse {
            type_url: Kind::Routes.url().to_owned(),
            resources,
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        })
    }

    /// The table of a port of the service `web`.
    fn table(discovery: &Discovery, port: u16) -> Option<Arc<Table>> {
        let parent = format!("service/shop/web/{port}");
        let ParentKey::Producer(to) = parent.parse().unwrap() else {
            panic!("{parent}");
        };
        let to: ServicePort = to;
        let addressed = Addressed {
            service: Some(&to),
            ..Addressed::default()
        };
        let book = discovery.book().unwrap();
        book.for_request(&addressed).map(|(_, table)| table.clone())
    }

    #[test]
    fn only_the_parents_that_a_response_speaks_of_are_arranged_anew() {
        let mut discovery = discovery();
        let other = "service/shop/web/81";
        let both = vec![route(WEB, "a", 1, "1"), route(other, "a", 1, "1")];
        assert!(apply(&mut discovery, both, &[]).changed);
        let (first, second) = (table(&discovery, 80), table(&discovery, 81));
        apply(&mut discovery, vec![route(WEB, "b", 2, "1")], &[]);
        assert_eq!(table(&discovery, 80).unwrap().routes().count(), 2);
        assert_eq!(
            first.unwrap().routes().count(),
            1,
            "the old one is as it was"
        );
        let now = table(&discovery, 81).unwrap();
        assert!(Arc::ptr_eq(&now, &second.unwrap()));
        let names = [
            "service/shop/web/80/HTTPRoute/shop/a",
            "service/shop/web/80/HTTPRoute/shop/b",
        ];
        assert!(apply(&mut discovery, Vec::new(), &names).changed);
        assert!(table(&discovery, 80).is_none() && table(&discovery, 81).is_some());
        assert!(discovery.library.as_ref().unwrap().parents.len() == 1);
    }

    #[test]
    fn a_route_that_cannot_be_read_makes_its_parent_refuse_until_it_is_gone() {
        let mut discovery = discovery();
        let resources = vec![route(WEB, "a", 1, "1"), bad(route(WEB, "b", 1, "1"))];
        let applied = apply(&mut discovery, resources, &[]);
        assert!(applied.rejected.len() == 1 && applied.rejected[0].denies);
        assert!(applied.requests[0].error_detail.is_some());
        let refusal = |discovery: &Discovery| table(discovery, 80).unwrap().refusal().cloned();
        assert!(refusal(&discovery).unwrap().contains("HTTPRoute shop/b"));
        let failure = Failure::Unreadable("x".into());
        assert_eq!(failure.status(), 500);
        apply(&mut discovery, vec![route(WEB, "b", 1, "2")], &[]);
        assert_eq!(refusal(&discovery), None);
        // The last good one stays in use.
        let applied = apply(&mut discovery, vec![bad(route(WEB, "b", 1, "3"))], &[]);
        assert!(!applied.rejected[0].denies);
        assert_eq!(refusal(&discovery), None);
        apply(&mut discovery, vec![bad(route(WEB, "c", 1, "1"))], &[]);
        assert!(refusal(&discovery).is_some());
        let name = "service/shop/web/80/HTTPRoute/shop/c";
        assert!(apply(&mut discovery, Vec::new(), &[name]).changed);
        assert_eq!(refusal(&discovery), None);
    }

    #[test]
    fn routes_are_asked_for_only_when_wanted_and_with_the_versions_that_are_held() {
        let mut without = Discovery::new(Node::default(), Scope::Wildcard);
        assert_eq!(without.open().len(), 2);
        let refused = apply(&mut without, vec![route(WEB, "a", 1, "1")], &[]);
        assert!(refused.kind.is_none() && refused.requests[0].error_detail.is_some());
        let mut discovery = discovery();
        assert_eq!(discovery.open().len(), 4);
        let resources = vec![route(WEB, "a", 1, "7"), bad(route(WEB, "b", 1, "1"))];
        apply(&mut discovery, resources, &[]);
        let requests = discovery.open();
        let routes = requests.iter().find(|r| r.type_url == Kind::Routes.url());
        let versions = &routes.unwrap().initial_resource_versions;
        let of = |name: &str| versions[&format!("{WEB}/HTTPRoute/shop/{name}")].clone();
        assert_eq!((of("a").as_str(), of("b").as_str()), ("7", ""));
    }
}
