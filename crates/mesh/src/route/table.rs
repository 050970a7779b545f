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
    rule: u32,
    /// None: the rule has no match, and takes everything.
    alternative: Option<u32>,
}

/// In order of rank, once it is sorted.
type List = Arc<Vec<Entry>>;

/// Entries of one host pattern by path.
#[derive(Clone, Debug, Default)]
struct Paths {
    exact: Index<List>,
    /// Regular expressions: tried one by one.
    patterns: List,
    /// By normal form.
    prefixes: Index<List>,
    /// gRPC methods of any service.
    methods: Index<List>,
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
                table.list(&route, push);
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
        self.list(&route, insert);
        self.routes.insert(route.key.clone(), route);
    }

    /// Takes a route out; false when there is none of that name.
    pub fn remove(&mut self, key: &RouteKey) -> bool {
        let Some(route) = self.routes.remove(key) else {
            return false;
        };
        self.list(&route, |list, entry| remove(list, &entry));
        true
    }

    /// Does something with every list that an entry of the route belongs into.
    fn list(&mut self, route: &Arc<Route>, change: impl Fn(&mut List, Entry)) {
        for (rule, of_rule) in route.rules.iter().enumerate() {
            let count = of_rule.matches.len();
            let alternatives = (0..count).map(Some).chain((count == 0).then_some(None));
            for alternative in alternatives {
                let entry = Entry {
                    route: route.clone(),
                    rule: number(rule),
                    alternative: alternative.map(number),
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
        let first = |list| first(list, request);
        let listed = |list: Option<_>| list.and_then(first);
        let prefixes = || {
            let whole = prefixes(path).filter(|prefix| !prefix.is_empty());
            whole.filter_map(|prefix| self.prefixes.get(prefix))
        };
        let method = || {
            let (_, method) = grpc_call(path)?;
            listed(self.methods.get(method))
        };
        let found = listed(self.exact.get(path))
            .or_else(|| first(&self.patterns))
            .or_else(|| prefixes().find_map(first))
            .or_else(method)
            // `*` (OPTIONS of a whole server) has no prefix, and is taken by what takes every path.
            .or_else(|| listed(self.prefixes.get("")))?;
        Some(found.selected())
    }

    /// Changes the list of a place.
    fn change(&mut self, listed: Listed, change: impl FnOnce(&mut List)) {
        let (index, text) = match listed {
            Listed::Pattern => return change(&mut self.patterns),
            Listed::Exact(path) => (&mut self.exact, path),
            Listed::Prefix(prefix) => (&mut self.prefixes, prefix),
            Listed::Method(method) => (&mut self.methods, method),
        };
        index.change(&text, |list| {
            let mut list = list.unwrap_or_default();
            change(&mut list);
            (!list.is_empty()).then_some(list)
        });
    }

    fn is_empty(&self) -> bool {
        let indexes = [&self.exact, &self.prefixes, &self.methods];
        self.patterns.is_empty() && indexes.iter().all(|index| index.is_empty())
    }

    fn sort(&mut self) {
        let sort = |list: &mut List| {
            Arc::make_mut(list).sort_by(|a, b| compare(a.place(), b.place()));
        };
        for index in [&mut self.exact, &mut self.prefixes, &mut self.methods] {
            index.for_each(sort);
        }
        sort(&mut self.patterns);
    }
}

impl Entry {
    fn place(&self) -> Place<'_> {
        let alternative = self.alternative.map(|at| at as usize);
        (&self.route, self.rule as usize, alternative)
    }

    fn selected(&self) -> Selected<'_> {
        Selected {
            route: &self.route,
            rule: &self.route.rules[self.rule as usize],
            rule_index: self.rule as usize,
            matched: rank::matched(self.place()),
        }
    }
}

/// The first that takes the request.
fn first<'a>(list: &'a List, request: &Request<'_>) -> Option<&'a Entry> {
    list.iter().find(|entry| {
        let matched = rank::matched(entry.place());
        matched.is_none_or(|matched| matched.holds(request))
    })
}

/// At the end, wherever it belongs.
fn push(list: &mut List, entry: Entry) {
    Arc::make_mut(list).push(entry);
}

/// Where it belongs, in a sorted list.
fn insert(list: &mut List, entry: Entry) {
    let list = Arc::make_mut(list);
    let is_before = |known: &Entry| compare(known.place(), entry.place()).is_lt();
    let at = list.partition_point(is_before);
    list.insert(at, entry);
}

/// All entries of its route, at the first of them.
fn remove(list: &mut List, entry: &Entry) {
    let is_of_it = |known: &Entry| Arc::ptr_eq(&known.route, &entry.route);
    if list.iter().any(is_of_it) {
        Arc::make_mut(list).retain(|known| !is_of_it(known));
    }
}

/// A route has at most 16 rules and 128 matches.
fn number(index: usize) -> u32 {
    u32::try_from(index).expect("a route has fewer than 2^32 rules and matches")
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
