//! Routes as written, to the routes of each parent, with the conditions of the Gateway API for
//! every route and parent.
//!
//! A route for a Service of its own namespace is a producer route: for all clients. One for a
//! Service of another namespace is a consumer route: for clients of the route's namespace, who then
//! have it instead of the producer's (GEP-1426).

mod filter;
mod parent;
mod reference;
mod rule;

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::route::book::Attached;
use mesh::route::stream::{StreamRoute, Streams};
use mesh::route::{Book, HostPattern, ParentKey, Route, RouteKey, RouteKind, Rule, Table};

pub(crate) use rule::{Mistake, grpc_rule, http_rule};

use crate::gateway::ParentRef;
use crate::object::{Kind, Name};
use crate::status::{ACCEPTED, Condition, PARTIALLY_INVALID, RESOLVED_REFS, SERVED};
use crate::translation::{Input, Statuses};
use crate::waypoints::Waypoints;
use parent::Parents;
use reference::{Problem, References};

/// Routes by parent.
pub type Routes = BTreeMap<ParentKey, AtParent>;

/// The routes of one parent, in order of precedence by age and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AtParent {
    /// HTTPRoutes and GRPCRoutes.
    pub http: Vec<Arc<Route>>,
    /// TCPRoutes and TLSRoutes.
    pub streams: Vec<Arc<StreamRoute>>,
}

/// All of them as a waypoint has them.
pub fn book(routes: &Routes) -> Book {
    let mut book = Book::default();
    for (parent, at) in routes {
        let attached = Attached {
            http: Arc::new(Table::new(at.http.iter().cloned())),
            streams: Arc::new(Streams::new(at.streams.iter().cloned())),
        };
        book.attach(parent.clone(), attached);
    }
    book
}

/// A route on its way to its parents.
struct Draft<'a> {
    kind: Kind,
    name: &'a Name,
    parents: &'a [ParentRef],
    /// Host names as written; a parent decides whether they count.
    hostnames: Vec<HostPattern>,
    created: Option<u64>,
    rules: Vec<Rule>,
    /// Rules that are not served, with their numbers.
    dropped: Vec<String>,
    /// The first reference that leads nowhere.
    unresolved: Option<Problem>,
}

/// A draft at one parent.
struct Attachment<'a> {
    draft: &'a Draft<'a>,
    parent: String,
    hostnames: Vec<HostPattern>,
}

impl Attachment<'_> {
    /// For other host names too; none at all are all of them.
    fn widen(&mut self, hostnames: Vec<HostPattern>) {
        if self.hostnames.is_empty() || hostnames.is_empty() {
            self.hostnames.clear();
            return;
        }
        for host in hostnames {
            if !self.hostnames.contains(&host) {
                self.hostnames.push(host);
            }
        }
    }
}

pub(crate) fn routes(
    input: &Input<'_>,
    waypoints: &Waypoints<'_>,
    statuses: &mut Statuses,
) -> Routes {
    let drafts = drafts(input);
    let parents = Parents::new(input, waypoints);
    let mut attached: BTreeMap<ParentKey, Vec<Attachment<'_>>> = BTreeMap::new();
    let mut verdicts = Verdicts::new();
    for draft in &drafts {
        for reference in draft.parents {
            let Some(found) = parents.find(draft, reference) else {
                // Of another controller.
                continue;
            };
            let parent = parent::describe(draft.name, reference);
            let valid = found.and_then(|found| match draft.rules.is_empty() {
                true => Err(("UnsupportedValue", draft.dropped.join("; "))),
                false => Ok(found),
            });
            let (keys, hostnames) = match valid {
                Ok(found) => found,
                Err(problem) => {
                    verdicts.insert((draft.kind, draft.name, parent), Some(problem));
                    continue;
                }
            };
            verdicts.insert((draft.kind, draft.name, parent.clone()), None);
            if !parents.is_served(draft.name, reference) {
                let message = "no waypoint carries the traffic of the Service, so the route \
                               changes nothing: label it istio.io/use-waypoint";
                let condition = Condition::fails(SERVED, "NoWaypoint", message);
                statuses.add(draft.kind, draft.name, condition.of_parent(&parent));
            }
            for key in keys {
                attached.entry(key).or_default().push(Attachment {
                    draft,
                    parent: parent.clone(),
                    hostnames: hostnames.clone(),
                });
            }
        }
    }
    let made = attached.into_iter().map(|(key, attachments)| {
        let routes = accepted(&key, attachments, &mut verdicts);
        (key, routes)
    });
    let made = made.collect();
    for draft in &drafts {
        let own = verdicts.range((draft.kind, draft.name, String::new())..);
        let own = own.take_while(|((kind, name, _), _)| (*kind, *name) == (draft.kind, draft.name));
        for ((.., parent), problem) in own {
            draft.describe(parent, problem.as_ref(), statuses);
        }
    }
    made
}

/// What is said of a route at a parent: served, or why not.
type Verdicts<'a> = BTreeMap<(Kind, &'a Name, String), Option<Problem>>;

/// Those of the routes at one parent that are served there: one kind only, where hosts meet.
fn accepted<'a>(
    key: &ParentKey,
    mut attachments: Vec<Attachment<'a>>,
    verdicts: &mut Verdicts<'a>,
) -> AtParent {
    attachments.sort_by_key(|one| {
        let draft = one.draft;
        // At a Service the more specific kind wins, at a Gateway the older route.
        let kind = match key {
            ParentKey::Gateway(_) => RouteKind::Grpc,
            _ => route_kind(draft.kind),
        };
        (
            kind,
            draft.created.unwrap_or(u64::MAX),
            draft.name.to_string(),
        )
    });
    let mut taken: Vec<Attachment<'_>> = Vec::new();
    for one in attachments {
        // By two listeners, or as a port and by its name.
        let of_same = |known: &&mut Attachment<'_>| std::ptr::eq(known.draft, one.draft);
        if let Some(known) = taken.iter_mut().find(of_same) {
            known.widen(one.hostnames);
            continue;
        }
        let is_rival = |other: &&Attachment<'_>| {
            other.draft.kind != one.draft.kind && parent::meet(&other.hostnames, &one.hostnames)
        };
        let Some(rival) = taken.iter().find(is_rival) else {
            taken.push(one);
            continue;
        };
        let Draft { kind, name, .. } = rival.draft;
        let at = match key {
            ParentKey::Producer(to) | ParentKey::Consumer(_, to) => format!("port {}", to.port),
            ParentKey::Gateway(_) => "some hosts".to_owned(),
        };
        let message = format!("{kind} {name} is served at {at}, and kinds are not mixed");
        let of = (one.draft.kind, one.draft.name, one.parent);
        verdicts.insert(of, Some(("Conflicted", message)));
    }
    let routes = taken.into_iter();
    AtParent {
        http: routes
            .map(|one| Arc::new(one.draft.route(one.hostnames)))
            .collect(),
        streams: Vec::new(),
    }
}

fn route_kind(kind: Kind) -> RouteKind {
    match kind {
        Kind::GRPCRoute => RouteKind::Grpc,
        _ => RouteKind::Http,
    }
}

fn drafts<'a>(input: &Input<'a>) -> Vec<Draft<'a>> {
    let references = References::new(input);
    let http = input.objects.http_routes.iter().map(|(name, route)| {
        let draft = Draft {
            kind: Kind::HTTPRoute,
            name,
            parents: &route.spec.parent_refs,
            hostnames: hosts(&route.spec.hostnames),
            created: route.created,
            rules: Vec::new(),
            dropped: Vec::new(),
            unresolved: None,
        };
        draft.with_rules(route.spec.rules.as_deref(), &references, http_rule)
    });
    let grpc = input.objects.grpc_routes.iter().map(|(name, route)| {
        let draft = Draft {
            kind: Kind::GRPCRoute,
            name,
            parents: &route.spec.parent_refs,
            hostnames: hosts(&route.spec.hostnames),
            created: route.created,
            rules: Vec::new(),
            dropped: Vec::new(),
            unresolved: None,
        };
        draft.with_rules(route.spec.rules.as_deref(), &references, grpc_rule)
    });
    http.chain(grpc).collect()
}

/// A filter that fails the rule's requests.
fn unusable_filter(rule: &Rule) -> Option<Problem> {
    let of_backends = rule.backends.iter().map(|backend| &backend.filters);
    let mut all = of_backends.chain([&rule.filters]);
    let name = all.find_map(|filters| filters.unusable.as_ref())?;
    let message = format!("filter {name} is not served: requests that it is for fail with 500");
    Some(("InvalidKind", message))
}

fn hosts(list: &[String]) -> Vec<HostPattern> {
    // Admission has refused what is none.
    list.iter()
        .filter_map(|host| HostPattern::parse(host).ok())
        .collect()
}

impl<'a> Draft<'a> {
    fn with_rules<S>(
        mut self,
        rules: Option<&[S]>,
        references: &References<'_>,
        make: impl Fn(&S, rule::Resolve<'_>) -> Result<Rule, Mistake>,
    ) -> Self {
        let Some(rules) = rules else {
            // As the API server fills it in: one rule that takes everything and leads nowhere.
            self.rules = vec![Rule::default()];
            return self;
        };
        for (place, rule) in rules.iter().enumerate() {
            let mut unresolved = None;
            let mut resolve = |reference: &crate::gateway::BackendRef| {
                let (target, problem) = references.target(self.kind, self.name, reference);
                unresolved = unresolved.take().or(problem);
                target
            };
            match make(rule, &mut resolve) {
                Ok(rule) => {
                    unresolved = unresolved.or_else(|| unusable_filter(&rule));
                    self.rules.push(Rule { place, ..rule });
                }
                Err(Mistake::Invalid(why) | Mistake::Unsupported(why)) => {
                    self.dropped.push(format!("rules[{place}]: {why}"));
                }
            }
            self.unresolved = self.unresolved.take().or(unresolved);
        }
        self
    }

    /// What is said of it at a parent of ours.
    fn describe(&self, parent: &str, problem: Option<&Problem>, statuses: &mut Statuses) {
        let mut add = |condition: Condition| {
            statuses.add(self.kind, self.name, condition.of_parent(parent));
        };
        add(match problem {
            None => Condition::holds(ACCEPTED, "Accepted"),
            Some((reason, message)) => Condition::fails(ACCEPTED, reason, message),
        });
        add(match &self.unresolved {
            None => Condition::holds(RESOLVED_REFS, "ResolvedRefs"),
            Some((reason, message)) => Condition::fails(RESOLVED_REFS, reason, message),
        });
        if !self.dropped.is_empty() && !self.rules.is_empty() {
            // The words that the specification wants the message to begin with.
            let message = format!("Dropped Rule: {}", self.dropped.join("; "));
            add(Condition::holds(PARTIALLY_INVALID, "UnsupportedValue").because(message));
        }
    }

    fn route(&self, hostnames: Vec<HostPattern>) -> Route {
        Route {
            key: RouteKey {
                kind: route_kind(self.kind),
                namespace: self.name.namespace.clone(),
                name: self.name.name.clone(),
            },
            created: self.created,
            hostnames,
            rules: self.rules.clone(),
        }
    }
}
