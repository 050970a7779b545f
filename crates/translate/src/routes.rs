//! Routes as written, to the routes of each parent, with the conditions of the Gateway API for
//! every route and parent.
//!
//! A route for a Service of its own namespace is a producer route: for all clients. One for a
//! Service of another namespace is a consumer route: for clients of the route's namespace, who then
//! have it instead of the producer's (GEP-1426).

mod draft;
mod filter;
mod kept;
mod parent;
mod reference;
mod rule;

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::route::book::Attached;
use mesh::route::stream::{StreamRoute, Streams};
use mesh::route::{Book, HostPattern, ParentKey, Route, RouteKind, Table};

pub(crate) use kept::Kept;
pub(crate) use rule::{Mistake, grpc_rule, http_rule, stream_rule};

use crate::object::{Kind, Name};
use crate::status::{Condition, SERVED};
use crate::translation::{Input, Statuses};
use crate::waypoints::Waypoints;
use draft::{Draft, drafts};
use parent::{Found, Parent, Parents};
use reference::Problem;

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

/// How many routes are attached to each listener of each Gateway.
pub(crate) type AttachedRoutes = BTreeMap<(Name, String), usize>;

/// A draft at one parent.
struct Attachment<'a> {
    draft: &'a Draft<'a>,
    /// The parent in words, for the route's conditions.
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

/// What is said of a route at a parent: served, or why not.
type Verdicts<'a> = BTreeMap<(Kind, &'a Name, String), Option<Problem>>;

pub(crate) fn routes(
    input: &Input<'_>,
    waypoints: &Waypoints<'_>,
    kept: &mut Kept,
    statuses: &mut Statuses,
) -> (Routes, AttachedRoutes) {
    let drafts = drafts(input, kept);
    let parents = Parents::new(input, waypoints);
    let mut at_parents: BTreeMap<ParentKey, Vec<Attachment<'_>>> = BTreeMap::new();
    let mut attached = Vec::new();
    let mut verdicts = Verdicts::new();
    for draft in &drafts {
        for reference in draft.parents {
            let Some(parent) = parents.find(draft.name, reference) else {
                // Of another controller.
                continue;
            };
            let verdict = (draft.kind, draft.name, parent.text.clone());
            let Found { keys, hostnames } = match parents.attach(draft, &parent) {
                Ok(found) => found,
                Err(problem) => {
                    verdicts.insert(verdict, Some(problem));
                    continue;
                }
            };
            verdicts.insert(verdict, None);
            if let Some(why) = parents.unserved(&parent) {
                let condition = Condition::fails(SERVED, "NoWaypoint", why);
                statuses.add(draft.kind, draft.name, condition.of_parent(&parent.text));
            }
            for key in keys {
                at_parents.entry(key).or_default().push(Attachment {
                    draft,
                    parent: parent.text.clone(),
                    hostnames: hostnames.clone(),
                });
            }
            attached.push((draft, parent));
        }
    }
    let made = at_parents.into_iter().map(|(key, attachments)| {
        let routes = accepted(&key, attachments, &mut verdicts);
        (key, routes)
    });
    let made = made.collect();
    let counts = counted(&parents, &attached, &verdicts);
    for draft in &drafts {
        let own = verdicts.range((draft.kind, draft.name, String::new())..);
        let own = own.take_while(|((kind, name, _), _)| (*kind, *name) == (draft.kind, draft.name));
        for ((.., parent), problem) in own {
            draft.describe(parent, problem.as_ref(), statuses);
        }
        if draft.wants_default && !parents.has_default() {
            let why = "spec.useDefaultGateways: there is no default Gateway, a waypoint is none";
            let condition = Condition::fails(SERVED, "NoDefaultGateway", why);
            statuses.add(draft.kind, draft.name, condition);
        }
    }
    (made, counts)
}

/// How many routes each listener has, of those that are served.
fn counted<'a>(
    parents: &Parents<'a>,
    attached: &[(&Draft<'_>, Parent<'a>)],
    verdicts: &Verdicts<'_>,
) -> AttachedRoutes {
    let mut counts = AttachedRoutes::new();
    // A route may have several parentRefs for one listener; they come one after the other.
    let mut last = BTreeMap::new();
    for (draft, parent) in attached {
        let route = (draft.kind, draft.name);
        for listener in parents.listeners(draft, parent) {
            let verdict = (draft.kind, draft.name, parent.text.clone());
            let is_served = matches!(verdicts.get(&verdict), Some(None));
            let place = (parent.name.clone(), listener.to_owned());
            if is_served && last.insert(place.clone(), route) != Some(route) {
                *counts.entry(place).or_default() += 1;
            }
        }
    }
    counts
}

/// Those of the routes at one parent that are served there.
fn accepted<'a>(
    key: &ParentKey,
    mut attachments: Vec<Attachment<'a>>,
    verdicts: &mut Verdicts<'a>,
) -> AtParent {
    attachments.sort_by_cached_key(|one| {
        let draft = one.draft;
        // At a Service the more specific kind wins, at a Gateway the older route.
        let kind = match key {
            ParentKey::Gateway(_) => RouteKind::Grpc,
            _ => draft.route_kind(),
        };
        let created = draft.created.unwrap_or(u64::MAX);
        (kind, created, draft.name.to_string())
    });
    let mut taken = Taken::default();
    for one in attachments {
        if let Err((one, rival)) = taken.take(key, one) {
            let at = match key {
                ParentKey::Producer(to) | ParentKey::Consumer(_, to) => format!("port {}", to.port),
                ParentKey::Gateway(_) => "some hosts".to_owned(),
            };
            let message = format!("{rival} is served at {at}, and only one of the two can be");
            let of = (one.draft.kind, one.draft.name, one.parent);
            verdicts.insert(of, Some(("Conflicted", message)));
        }
    }
    let mut at = AtParent::default();
    for one in taken.all {
        match one.draft.route_kind() {
            RouteKind::Http | RouteKind::Grpc => {
                at.http.extend(one.draft.route(one.hostnames));
            }
            RouteKind::Tls | RouteKind::Tcp => {
                at.streams.extend(one.draft.stream_route(one.hostnames));
            }
        }
    }
    at
}

/// The attachments of one parent that are taken, and what tells rivals fast: ten thousand routes
/// may be at one parent, nearly always all of one kind.
#[derive(Default)]
struct Taken<'a> {
    all: Vec<Attachment<'a>>,
    kinds: Vec<RouteKind>,
}

impl<'a> Taken<'a> {
    /// Takes one, or hands it back with its rival in words.
    fn take(
        &mut self,
        key: &ParentKey,
        one: Attachment<'a>,
    ) -> Result<(), (Attachment<'a>, String)> {
        // By two listeners, or as a port and by its name: they come one after the other.
        if let Some(last) = self.all.last_mut()
            && std::ptr::eq(last.draft, one.draft)
        {
            last.widen(one.hostnames);
            return Ok(());
        }
        let kind = one.draft.route_kind();
        let is_rival = |other: RouteKind| excludes(key, kind, other);
        if self.kinds.iter().any(|other| is_rival(*other)) {
            let meets = |known: &&Attachment<'_>| {
                is_rival(known.draft.route_kind()) && parent::meet(&known.hostnames, &one.hostnames)
            };
            if let Some(rival) = self.all.iter().find(meets) {
                let rival = format!("{} {}", rival.draft.kind, rival.draft.name);
                return Err((one, rival));
            }
        }
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
        self.all.push(one);
        Ok(())
    }
}

/// Whether routes of two kinds are not both served at a parent, where their hosts meet.
fn excludes(key: &ParentKey, one: RouteKind, other: RouteKind) -> bool {
    use RouteKind::{Grpc, Http, Tcp};
    match (one, other) {
        // The older takes everything.
        (Tcp, Tcp) => true,
        _ if one == other => false,
        (Http, Grpc) | (Grpc, Http) => true,
        _ => !matches!(key, ParentKey::Gateway(_)),
    }
}
