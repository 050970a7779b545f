//! The routes of one parent, arranged so that the one which takes a request is found in a number of
//! steps that grows with the request (labels of its host, segments of its path), not with the
//! number of routes. Cloning one is cheap, and a change of one route touches its own matches alone.

use std::sync::Arc;

use super::host::{HostPattern, suffixes};
use super::index::Index;
use super::matching::{GrpcMatch, PathMatch, RequestMatch, TextMatch, grpc_call};
use super::path::prefixes;
use super::rank::{self, Place, compare};
use super::request::Request;
use super::{Route, RouteKey, Rule};

/// The routes of one parent, each name at most once.
#[derive(Clone, Debug, Default)]
pub struct Table {
    routes: imbl::OrdMap<RouteKey, Arc<Route>>,
    exact_hosts: Index<Arc<Paths>>,
    /// By suffix with its dot.
    wildcards: Index<Arc<Paths>>,
    any_host: Arc<Paths>,
    refusal: Option<Arc<str>>,
}

/// One match of one rule.
#[derive(Clone, Debug)]
struct Entry {
    route: Arc<Route>,
    rule: u16,
    /// None: the rule has no match, and takes everything.
    alternative: Option<u16>,
    /// Whether being listed says all: it has no condition but the path that it is listed under.
    is_plain: bool,
}

/// In order of rank, once it is sorted. Nearly every list has one entry.
#[derive(Clone, Debug, Default)]
enum List {
    #[default]
    None,
    One(Entry),
    Many(Arc<Vec<Entry>>),
}

/// Entries of one host pattern by path.
#[derive(Clone, Debug, Default)]
struct Paths {
    at: Index<AtPath>,
    /// Regular expressions: tried one by one.
    patterns: List,
    /// gRPC methods of any service.
    methods: Index<List>,
    /// Bit `n`: there may be a prefix of `n` segments (of [`DEPTH_MAX`] or more).
    depths: u64,
}

/// Prefixes of so many segments are not told from longer ones.
const DEPTH_MAX: u32 = u64::BITS - 1;

/// Entries of one path.
#[derive(Clone, Debug, Default)]
pub(super) struct AtPath {
    exact: List,
    /// Under its normal form.
    prefix: List,
}

/// The match that took a request.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// The route.
    pub route: &'a Arc<Route>,
    /// Its rule.
    pub rule: &'a Rule,
    /// Number of the rule in the route, from 0.
    pub rule_index: usize,
    /// The condition that held; None: the rule has none.
    pub matched: Option<&'a RequestMatch>,
}

/// Where an entry is listed.
#[derive(Clone)]
enum Listed {
    Exact(Arc<str>),
    Pattern,
    Prefix(Arc<str>),
    Method(Arc<str>),
}

impl Table {
    /// Arranges routes; their order says nothing.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = Arc<Route>>) -> Self {
        let mut table = Self::default();
        for route in routes {
            if table
                .routes
                .insert(route.key.clone(), route.clone())
                .is_none()
            {
                table.list(&route, List::push);
            }
        }
        // Sorted once at the end: sorted insertion costs the square of what one path has.
        let sort = |paths: &mut Arc<Paths>| Arc::make_mut(paths).sort();
        table.exact_hosts.for_each(sort);
        table.wildcards.for_each(sort);
        sort(&mut table.any_host);
        table
    }

    /// Of a parent whose routes cannot be read: every request fails.
    #[must_use]
    pub fn refusing(why: &str) -> Self {
        Self {
            refusal: Some(why.into()),
            ..Self::default()
        }
    }

    /// Why every request fails, if it does.
    #[must_use]
    pub fn refusal(&self) -> Option<&Arc<str>> {
        self.refusal.as_ref()
    }

    /// Adds a route, in place of the one of that name.
    pub fn insert(&mut self, route: Arc<Route>) {
        self.remove(&route.key);
        self.list(&route, List::insert);
        self.routes.insert(route.key.clone(), route);
    }

    /// Takes a route out; false when there is none of that name.
    pub fn remove(&mut self, key: &RouteKey) -> bool {
        let Some(route) = self.routes.remove(key) else {
            return false;
        };
        self.list(&route, |list, entry| list.remove(&entry));
        true
    }

    /// Does something with every list that an entry of the route belongs into.
    fn list(&mut self, route: &Arc<Route>, change: impl Fn(&mut List, Entry)) {
        for (rule, of_rule) in route.rules.iter().enumerate() {
            let count = of_rule.matches.len();
            let alternatives = (0..count).map(Some).chain((count == 0).then_some(None));
            for alternative in alternatives {
                let matched = alternative.map(|at| &of_rule.matches[at]);
                let entry = Entry {
                    route: route.clone(),
                    rule: number(rule),
                    alternative: alternative.map(number),
                    is_plain: matched.is_none_or(is_plain),
                };
                self.list_entry(entry, &change);
            }
        }
    }

    fn list_entry(&mut self, entry: Entry, change: &impl Fn(&mut List, Entry)) {
        let every = RequestMatch::default();
        let route = entry.route.clone();
        let listed = listed(&rank::matched(entry.place()).unwrap_or(&every).path);
        if route.hostnames.is_empty() {
            return Arc::make_mut(&mut self.any_host).change(listed, |list| change(list, entry));
        }
        for (at, host) in route.hostnames.iter().enumerate() {
            // A host may be written twice.
            if route.hostnames[..at].contains(host) {
                continue;
            }
            let (hosts, name) = match host {
                HostPattern::Exact(name) => (&mut self.exact_hosts, name),
                HostPattern::Below(suffix) => (&mut self.wildcards, suffix),
            };
            hosts.change(name, |paths| {
                let mut paths = paths.unwrap_or_default();
                let own = Arc::make_mut(&mut paths);
                own.change(listed.clone(), |list| change(list, entry.clone()));
                (!own.is_empty()).then_some(paths)
            });
        }
    }

    /// The routes, by name.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values()
    }

    /// Whether there is no route: the parent has its ordinary behaviour.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.refusal.is_none()
    }

    /// The match that takes the request: the most specific host first, then the most specific path,
    /// then the [rank](super::rank). A host whose routes do not take it leaves it to the next.
    #[must_use]
    pub fn select(&self, request: &Request<'_>) -> Option<Selected<'_>> {
        if self.exact_hosts.is_empty() && self.wildcards.is_empty() {
            return self.any_host.select(request);
        }
        let host = request.host();
        let exact = self.exact_hosts.get(&host);
        let wild = suffixes(&host).filter_map(|suffix| self.wildcards.get(suffix));
        let mut hosts = exact.into_iter().chain(wild).chain([&self.any_host]);
        hosts.find_map(|paths| paths.select(request))
    }
}

impl Paths {
    fn select(&self, request: &Request<'_>) -> Option<Selected<'_>> {
        let path = request.path;
        let whole = self.at.get(path);
        let found = whole
            .and_then(|at| at.exact.first(request))
            .or_else(|| self.patterns.first(request))
            .or_else(|| whole.and_then(|at| at.prefix.first(request)))
            .or_else(|| self.below(request))
            .or_else(|| {
                let (_, method) = grpc_call(path)?;
                self.methods.get(method)?.first(request)
            })
            // `*` (OPTIONS of a whole server) has no prefix, and is taken by what takes every path.
            .or_else(|| self.at.get("")?.prefix.first(request))?;
        Some(found.selected())
    }

    /// What takes a path by a prefix that is neither the whole path nor empty.
    fn below(&self, request: &Request<'_>) -> Option<&Entry> {
        let path = request.path;
        let mut depth = segments(path);
        let shorter = prefixes(path).skip(1).filter(|prefix| !prefix.is_empty());
        for prefix in shorter {
            depth -= 1;
            if self.depths & (1 << depth.min(DEPTH_MAX)) == 0 {
                continue;
            }
            let at = self.at.get(prefix);
            if let Some(found) = at.and_then(|at| at.prefix.first(request)) {
                return Some(found);
            }
        }
        None
    }

    /// Changes the list of a place.
    fn change(&mut self, listed: Listed, change: impl FnOnce(&mut List)) {
        let (path, is_exact) = match listed {
            Listed::Pattern => return change(&mut self.patterns),
            Listed::Method(method) => {
                return self.methods.change(&method, |list| {
                    let mut list = list.unwrap_or_default();
                    change(&mut list);
                    (!list.is_empty()).then_some(list)
                });
            }
            Listed::Exact(path) => (path, true),
            Listed::Prefix(prefix) => (prefix, false),
        };
        if !is_exact {
            // A bit too many costs a look in vain, so it stays when its prefixes go.
            self.depths |= 1 << segments(&path).min(DEPTH_MAX);
        }
        self.at.change(&path, |at| {
            let mut at = at.unwrap_or_default();
            change(match is_exact {
                true => &mut at.exact,
                false => &mut at.prefix,
            });
            let none = at.exact.is_empty() && at.prefix.is_empty();
            (!none).then_some(at)
        });
    }

    fn is_empty(&self) -> bool {
        self.patterns.is_empty() && self.at.is_empty() && self.methods.is_empty()
    }

    fn sort(&mut self) {
        self.at.for_each(|at| {
            at.exact.sort();
            at.prefix.sort();
        });
        self.methods.for_each(List::sort);
        self.patterns.sort();
    }
}

/// Segments of a path or prefix.
fn segments(path: &str) -> u32 {
    let slashes = path.bytes().filter(|byte| *byte == b'/').count();
    u32::try_from(slashes).unwrap_or(u32::MAX)
}

impl Entry {
    fn place(&self) -> Place<'_> {
        let alternative = self.alternative.map(usize::from);
        (&self.route, self.rule.into(), alternative)
    }

    fn selected(&self) -> Selected<'_> {
        Selected {
            route: &self.route,
            rule: &self.route.rules[usize::from(self.rule)],
            rule_index: self.rule.into(),
            matched: rank::matched(self.place()),
        }
    }
}

impl List {
    /// The first that takes a request whose path it is listed under.
    fn first(&self, request: &Request<'_>) -> Option<&Entry> {
        let holds = |entry: &&Entry| {
            entry.is_plain
                || rank::matched(entry.place()).is_none_or(|matched| matched.holds(request))
        };
        match self {
            Self::None => None,
            Self::One(entry) => Some(entry).filter(holds),
            Self::Many(list) => list.iter().find(holds),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::One(_) => false,
            Self::Many(list) => list.is_empty(),
        }
    }

    /// At the end, wherever it belongs.
    fn push(&mut self, entry: Entry) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(entry),
            Self::One(first) => Self::Many(Arc::new(vec![first, entry])),
            Self::Many(mut list) => {
                Arc::make_mut(&mut list).push(entry);
                Self::Many(list)
            }
        };
    }

    fn sort(&mut self) {
        if let Self::Many(list) = self {
            Arc::make_mut(list).sort_by(|a, b| compare(a.place(), b.place()));
        }
    }

    /// Where it belongs, in a sorted list.
    fn insert(&mut self, entry: Entry) {
        match self {
            Self::Many(list) => {
                let is_before = |known: &Entry| compare(known.place(), entry.place()).is_lt();
                let at = list.partition_point(is_before);
                Arc::make_mut(list).insert(at, entry);
            }
            Self::None | Self::One(_) => {
                self.push(entry);
                self.sort();
            }
        }
    }

    /// Takes out all entries of its route, at the first of them.
    fn remove(&mut self, entry: &Entry) {
        let is_of_it = |known: &Entry| Arc::ptr_eq(&known.route, &entry.route);
        match self {
            Self::One(known) if is_of_it(known) => *self = Self::None,
            Self::Many(list) if list.iter().any(is_of_it) => {
                Arc::make_mut(list).retain(|known| !is_of_it(known));
            }
            _ => {}
        }
    }
}

/// Whether the path is its only condition, and one that the index proves.
fn is_plain(one: &RequestMatch) -> bool {
    let by_index = matches!(one.path, PathMatch::Exact(_) | PathMatch::Prefix(_));
    by_index && one.method.is_none() && one.headers.is_empty() && one.query.is_empty()
}

/// A route has at most 16 rules and 128 matches.
fn number(index: usize) -> u16 {
    u16::try_from(index).expect("a route has fewer than 2^16 rules and matches")
}

fn listed(path: &PathMatch) -> Listed {
    use TextMatch::Exact;
    match path {
        PathMatch::Exact(path) => Listed::Exact(path.clone()),
        PathMatch::Prefix(prefix) => Listed::Prefix(prefix.clone()),
        PathMatch::Regex(_) => Listed::Pattern,
        PathMatch::Grpc(GrpcMatch { service, method }) => match (service, method) {
            (Some(Exact(service)), Some(Exact(method))) => {
                Listed::Exact(format!("/{service}/{method}").into())
            }
            (Some(Exact(service)), None) => Listed::Prefix(format!("/{service}").into()),
            (None, Some(Exact(method))) => Listed::Method(method.clone()),
            (None, None) => Listed::Prefix("".into()),
            _ => Listed::Pattern,
        },
    }
}
