//! Routes on their way to their parents: their rules made, their references resolved.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh::route::stream::{StreamRoute, StreamRule};
use mesh::route::{HostPattern, Route, RouteKey, RouteKind, Rule};

use super::kept::{Kept, Written};
use super::reference::{GATEWAY_GROUP, Problem, References, Referrer};
use super::rule::{self, Mistake, grpc_rule, http_rule, stream_rule};
use crate::gateway::{BackendRef, ParentRef, StreamRuleSpec};
use crate::object::{Kind, Name};
use crate::status::{ACCEPTED, Condition, PARTIALLY_INVALID, RESOLVED_REFS};
use crate::translation::{Input, Statuses};

/// A route on its way to its parents.
pub(super) struct Draft<'a> {
    pub(super) kind: Kind,
    pub(super) name: &'a Name,
    pub(super) parents: &'a [ParentRef],
    /// Host names as written; a parent decides whether they count.
    pub(super) hostnames: Vec<HostPattern>,
    pub(super) created: Option<u64>,
    /// Whether it asks for the default Gateways too.
    pub(super) wants_default: bool,
    made: Arc<Made>,
}

/// What follows from a route and what it refers to.
#[derive(Debug)]
pub(super) struct Made {
    served: Served,
    /// Rules that are not served, with their numbers.
    dropped: Vec<String>,
    /// The first reference that leads nowhere.
    unresolved: Option<Problem>,
    /// The Services that its backends name, there or not.
    services: BTreeSet<Name>,
}

impl Made {
    pub(super) fn services(&self) -> &BTreeSet<Name> {
        &self.services
    }
}

/// The route with the host names that it has at its parents, most likely.
#[derive(Debug)]
enum Served {
    Http(Arc<Route>),
    Stream(Arc<StreamRoute>),
}

/// All routes, whatever their parents.
pub(super) fn drafts<'a>(input: &Input<'a>, kept: &mut Kept) -> Vec<Draft<'a>> {
    let references = References::new(input);
    let objects = input.objects;
    kept.begin(input);
    let mut drafts = Vec::new();
    let mut add = |bare: Bare<'a>, written, scope: Option<&str>, make: Make<'_>| {
        let made = kept.made(bare.kind, bare.name, written, || {
            make(Maker::new(&bare, &references))
        });
        drafts.push(bare.draft(made).with_default(scope));
    };
    for (name, route) in &objects.http_routes {
        let spec = &route.spec;
        let (parents, hosts) = (&spec.parent_refs, &spec.hostnames);
        let bare = Bare::new((Kind::HTTPRoute, name), parents, hosts, route.created);
        let scope = spec.use_default_gateways.as_deref();
        let written = Written::Http(Arc::clone(route));
        add(bare, written, scope, &|maker| {
            maker.http(spec.rules.as_deref(), http_rule)
        });
    }
    for (name, route) in &objects.grpc_routes {
        let spec = &route.spec;
        let (parents, hosts) = (&spec.parent_refs, &spec.hostnames);
        let bare = Bare::new((Kind::GRPCRoute, name), parents, hosts, route.created);
        let scope = spec.use_default_gateways.as_deref();
        let written = Written::Grpc(Arc::clone(route));
        add(bare, written, scope, &|maker| {
            maker.http(spec.rules.as_deref(), grpc_rule)
        });
    }
    let streams = [
        (Kind::TLSRoute, &objects.tls_routes),
        (Kind::TCPRoute, &objects.tcp_routes),
    ];
    for (kind, routes) in streams {
        for (name, route) in routes {
            let spec = &route.spec;
            let (parents, hosts) = (&spec.parent_refs, &spec.hostnames);
            let bare = Bare::new((kind, name), parents, hosts, route.created);
            let scope = spec.use_default_gateways.as_deref();
            let written = Written::Stream(Arc::clone(route));
            add(bare, written, scope, &|maker| maker.stream(&spec.rules));
        }
    }
    kept.end();
    drafts
}

/// Makes the rules of a route that is not kept.
type Make<'a> = &'a dyn Fn(Maker<'_>) -> Made;

/// A filter that fails the rule's requests.
fn unusable_filter(rule: &Rule) -> Option<Problem> {
    let of_backends = rule.backends.iter().map(|backend| &backend.filters);
    let mut all = of_backends.chain([&rule.filters]);
    let name = all.find_map(|filters| filters.unusable.as_ref())?;
    let message = format!("filter {name} is not served: requests that it is for fail with 500");
    Some(("InvalidKind", message))
}

/// A draft before its rules are made.
struct Bare<'a> {
    kind: Kind,
    name: &'a Name,
    parents: &'a [ParentRef],
    hostnames: Vec<HostPattern>,
    created: Option<u64>,
}

impl<'a> Bare<'a> {
    fn new(
        (kind, name): (Kind, &'a Name),
        parents: &'a [ParentRef],
        hostnames: &[String],
        created: Option<u64>,
    ) -> Self {
        // Admission has refused what is none.
        let hosts = hostnames
            .iter()
            .filter_map(|host| HostPattern::parse(host).ok());
        Self {
            kind,
            name,
            parents,
            hostnames: hosts.collect(),
            created,
        }
    }

    fn draft(self, made: Arc<Made>) -> Draft<'a> {
        let Self {
            kind,
            name,
            parents,
            hostnames,
            created,
        } = self;
        Draft {
            kind,
            name,
            parents,
            hostnames,
            created,
            wants_default: false,
            made,
        }
    }

    /// The host names that it has at its parents, unless a listener narrows them.
    fn likely_hostnames(&self) -> Vec<HostPattern> {
        let is_gateway =
            |parent: &ParentRef| parent.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP;
        let count = match self.kind {
            Kind::TCPRoute => false,
            Kind::TLSRoute => true,
            _ => self.parents.iter().any(is_gateway),
        };
        match count {
            true => self.hostnames.clone(),
            false => Vec::new(),
        }
    }

    fn key(&self) -> RouteKey {
        RouteKey {
            kind: route_kind(self.kind),
            namespace: self.name.namespace.clone(),
            name: self.name.name.clone(),
        }
    }
}

/// Makes the rules of one route.
struct Maker<'a> {
    bare: &'a Bare<'a>,
    references: &'a References<'a>,
    dropped: Vec<String>,
    unresolved: Option<Problem>,
    services: BTreeSet<Name>,
}

impl<'a> Maker<'a> {
    fn new(bare: &'a Bare<'a>, references: &'a References<'a>) -> Self {
        Self {
            bare,
            references,
            dropped: Vec::new(),
            unresolved: None,
            services: BTreeSet::new(),
        }
    }

    fn http<S>(
        mut self,
        rules: Option<&[S]>,
        make: impl Fn(&S, rule::Resolve<'_>) -> Result<Rule, Mistake>,
    ) -> Made {
        let rules = match rules {
            // As the API server fills it in: one rule that takes everything and leads nowhere.
            None => vec![Rule::default()],
            Some(rules) => self.rules(rules, make, |rule, place| {
                rule.place = place;
                unusable_filter(rule)
            }),
        };
        let bare = self.bare;
        let route = Route {
            key: bare.key(),
            created: bare.created,
            hostnames: bare.likely_hostnames(),
            rules,
        };
        self.made(Served::Http(Arc::new(route)))
    }

    fn stream(mut self, rules: &[StreamRuleSpec]) -> Made {
        let rules = self.rules(rules, stream_rule, |rule: &mut StreamRule, place| {
            rule.place = place;
            None
        });
        let bare = self.bare;
        let route = StreamRoute {
            key: bare.key(),
            created: bare.created,
            hostnames: bare.likely_hostnames(),
            rules,
        };
        self.made(Served::Stream(Arc::new(route)))
    }

    fn made(self, served: Served) -> Made {
        Made {
            served,
            dropped: self.dropped,
            unresolved: self.unresolved,
            services: self.services,
        }
    }

    /// The rules that are served; `finish` numbers one and says what else is wrong with it.
    fn rules<S, R>(
        &mut self,
        rules: &[S],
        make: impl Fn(&S, rule::Resolve<'_>) -> Result<R, Mistake>,
        finish: impl Fn(&mut R, usize) -> Option<Problem>,
    ) -> Vec<R> {
        let (references, bare) = (self.references, self.bare);
        let referrer = Referrer {
            kind: bare.kind,
            name: bare.name,
            parents: bare.parents,
        };
        let mut all = Vec::new();
        for (place, rule) in rules.iter().enumerate() {
            let mut unresolved = None;
            let services = &mut self.services;
            let mut resolve = |reference: &BackendRef| {
                services.insert(referrer.service(reference));
                let (target, problem) = references.target(referrer, reference);
                unresolved = unresolved.take().or(problem);
                target
            };
            match make(rule, &mut resolve) {
                Ok(mut rule) => {
                    let other = finish(&mut rule, place);
                    unresolved = unresolved.or(other);
                    all.push(rule);
                }
                Err(Mistake::Invalid(why) | Mistake::Unsupported(why)) => {
                    self.dropped.push(format!("rules[{place}]: {why}"));
                }
            }
            self.unresolved = self.unresolved.take().or(unresolved);
        }
        all
    }
}

fn route_kind(kind: Kind) -> RouteKind {
    match kind {
        Kind::GRPCRoute => RouteKind::Grpc,
        Kind::TLSRoute => RouteKind::Tls,
        Kind::TCPRoute => RouteKind::Tcp,
        _ => RouteKind::Http,
    }
}

impl Draft<'_> {
    fn with_default(self, scope: Option<&str>) -> Self {
        Self {
            wants_default: scope.is_some_and(|scope| scope != "None"),
            ..self
        }
    }

    pub(super) fn route_kind(&self) -> RouteKind {
        route_kind(self.kind)
    }

    /// Why it can be attached nowhere.
    pub(super) fn unusable(&self) -> Option<Problem> {
        let none = match &self.made.served {
            Served::Http(route) => route.rules.is_empty(),
            Served::Stream(route) => route.rules.is_empty(),
        };
        none.then(|| ("UnsupportedValue", self.made.dropped.join("; ")))
    }

    /// What is said of it at a parent of ours.
    pub(super) fn describe(
        &self,
        parent: &str,
        problem: Option<&Problem>,
        statuses: &mut Statuses,
    ) {
        let mut add = |condition: Condition| {
            statuses.add(self.kind, self.name, condition.of_parent(parent));
        };
        add(match problem {
            None => Condition::holds(ACCEPTED, "Accepted"),
            Some((reason, message)) => Condition::fails(ACCEPTED, reason, message),
        });
        add(match &self.made.unresolved {
            None => Condition::holds(RESOLVED_REFS, "ResolvedRefs"),
            Some((reason, message)) => Condition::fails(RESOLVED_REFS, reason, message),
        });
        if !self.made.dropped.is_empty() && self.unusable().is_none() {
            // The words that the specification wants the message to begin with.
            let message = format!("Dropped Rule: {}", self.made.dropped.join("; "));
            add(Condition::holds(PARTIALLY_INVALID, "UnsupportedValue").because(message));
        }
    }

    /// The HTTPRoute or GRPCRoute for these host names.
    pub(super) fn route(&self, hostnames: Vec<HostPattern>) -> Option<Arc<Route>> {
        let Served::Http(route) = &self.made.served else {
            return None;
        };
        if route.hostnames == hostnames {
            return Some(Arc::clone(route));
        }
        let mut other = Route::clone(route);
        other.hostnames = hostnames;
        Some(Arc::new(other))
    }

    /// The TLSRoute or TCPRoute for these host names.
    pub(super) fn stream_route(&self, hostnames: Vec<HostPattern>) -> Option<Arc<StreamRoute>> {
        let Served::Stream(route) = &self.made.served else {
            return None;
        };
        if route.hostnames == hostnames {
            return Some(Arc::clone(route));
        }
        let mut other = StreamRoute::clone(route);
        other.hostnames = hostnames;
        Some(Arc::new(other))
    }
}
