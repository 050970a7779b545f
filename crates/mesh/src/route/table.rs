//! The routes of one parent, arranged so that the one which takes a request is found in a number of
//! steps that grows with the request (labels of its host, segments of its path), not with the
//! number of routes. Cloning one is cheap, and a change of one route touches its own matches alone.

use std::cmp::Ordering;
use std::sync::Arc;

use super::filter::OwnFilters;
use super::host::{HostPattern, suffixes};
use super::index::Index;
use super::matching::{GrpcMatch, PathMatch, RequestMatch, TextMatch, grpc_call};
use super::path::prefixes;
use super::rank::{self, Place, compare};
use super::request::Request;
use super::{Backend, Route, RouteKey, Rule};

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

/// What a decision reads of a rule, in one place: among ten thousand routes each pointer that it
/// follows leads to a line that is in no cache, and in most cases to a page that no TLB knows.
/// Filters and backend come first, and fill one line; the rest is read of by its address alone.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Ruling {
    pub(super) filters: OwnFilters,
    backends: Backends,
    route: Arc<Route>,
    rule: u16,
}

/// Copies of a rule's backends.
#[derive(Debug)]
enum Backends {
    One(Backend),
    Others(Box<[Backend]>),
}

impl Ruling {
    fn new(route: &Arc<Route>, at: usize) -> Self {
        let rule = &route.rules[at];
        Self {
            route: route.clone(),
            rule: number(at),
            filters: rule.filters.clone(),
            backends: match &rule.backends[..] {
                [one] => Backends::One(one.clone()),
                others => Backends::Others(others.into()),
            },
        }
    }

    /// Of every rule of a route.
    fn all(route: &Arc<Route>) -> impl Iterator<Item = Arc<Self>> {
        let rules = 0..route.rules.len();
        rules.map(move |at| Arc::new(Self::new(route, at)))
    }

    pub(super) fn backends(&self) -> &[Backend] {
        match &self.backends {
            Backends::One(one) => std::slice::from_ref(one),
            Backends::Others(others) => others,
        }
    }

    fn place(&self, alternative: Option<u16>) -> Place<'_> {
        let alternative = alternative.map(usize::from);
        (&self.route, self.rule.into(), alternative)
    }
}

/// One match of one rule. All that is needed to pass it by is here: the rule is not read.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    ruling: Arc<Ruling>,
    rule: u16,
    /// None: the rule has no match, and takes everything.
    alternative: Option<u16>,
    /// Whether being listed says all: it has no condition but the path that it is listed under.
    is_plain: bool,
    /// Whether it takes the path that it is listed under alone.
    is_exact: bool,
}

/// In order of rank, once it is sorted. Nearly every list has one entry.
#[derive(Clone, Debug, Default)]
pub(super) enum List {
    #[default]
    None,
    One(Entry),
    Many(Arc<Vec<Entry>>),
}

/// Entries of one host pattern by path.
#[derive(Clone, Debug, Default)]
struct Paths {
    /// Exact paths, and prefixes under their normal form.
    at: Index<List>,
    /// Regular expressions: tried one by one.
    patterns: List,
    /// gRPC methods of any service.
    methods: Index<List>,
    /// Bit `n`: there may be a prefix of `n` segments (of [`DEPTH_MAX`] or more).
    depths: u64,
}

/// Prefixes of so many segments are not told from longer ones.
const DEPTH_MAX: u32 = u64::BITS - 1;

/// The match that took a request.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// The route.
    pub route: &'a Arc<Route>,
    /// Number of the rule in the route, from 0.
    pub rule_index: usize,
    ruling: &'a Ruling,
    alternative: Option<u16>,
}

impl<'a> Selected<'a> {
    /// The rule.
    #[must_use]
    pub fn rule(&self) -> &'a Rule {
        &self.ruling.route.rules[self.rule_index]
    }

    /// What a decision reads of it.
    pub(super) fn ruling(&self) -> &'a Ruling {
        self.ruling
    }

    /// The condition that held, and its number in the rule; None: the rule has none.
    #[must_use]
    pub fn matched(&self) -> Option<(usize, &'a RequestMatch)> {
        let at = usize::from(self.alternative?);
        Some((at, &self.rule().matches[at]))
    }
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
        // All of them first: so they lie side by side, apart from all that no decision reads.
        let mut rulings = Vec::new();
        for route in routes {
            let key = route.key.clone();
            if table.routes.insert(key, route.clone()).is_none() {
                rulings.extend(Ruling::all(&route));
            }
        }
        for ruling in rulings {
            table.list(&ruling, &List::push);
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
        for ruling in Ruling::all(&route) {
            self.list(&ruling, &List::insert);
        }
        self.routes.insert(route.key.clone(), route);
    }

    /// Takes a route out; false when there is none of that name.
    pub fn remove(&mut self, key: &RouteKey) -> bool {
        let Some(route) = self.routes.remove(key) else {
            return false;
        };
        for ruling in Ruling::all(&route) {
            self.list(&ruling, &|list: &mut List, entry| list.remove(&entry));
        }
        true
    }

    /// Does something with every list that an entry of the rule belongs into.
    fn list(&mut self, ruling: &Arc<Ruling>, change: &impl Fn(&mut List, Entry)) {
        let every = RequestMatch::default();
        let matches = &ruling.route.rules[usize::from(ruling.rule)].matches;
        let none = matches.is_empty().then_some(None);
        for alternative in (0..matches.len()).map(Some).chain(none) {
            let matched = alternative.map_or(&every, |at| &matches[at]);
            let listed = listed(&matched.path);
            let entry = Entry {
                ruling: ruling.clone(),
                rule: ruling.rule,
                alternative: alternative.map(number),
                is_plain: is_plain(matched),
                is_exact: matches!(listed, Listed::Exact(_)),
            };
            self.list_entry(entry, listed, change);
        }
    }

    fn list_entry(&mut self, entry: Entry, listed: Listed, change: &impl Fn(&mut List, Entry)) {
        let route = entry.ruling.route.clone();
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
            .and_then(|at| at.first(true, request))
            .or_else(|| self.patterns.first(false, request))
            .or_else(|| whole.and_then(|at| at.first(false, request)))
            .or_else(|| self.below(request))
            .or_else(|| {
                let (_, method) = grpc_call(path)?;
                self.methods.get(method)?.first(false, request)
            })
            // `*` (OPTIONS of a whole server) has no prefix, and is taken by what takes every path.
            .or_else(|| self.at.get("")?.first(false, request))?;
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
            if let Some(found) = at.and_then(|at| at.first(false, request)) {
                return Some(found);
            }
        }
        None
    }

    /// Changes the list of a place.
    fn change(&mut self, listed: Listed, change: impl FnOnce(&mut List)) {
        let (lists, name) = match listed {
            Listed::Pattern => return change(&mut self.patterns),
            Listed::Method(method) => (&mut self.methods, method),
            Listed::Exact(path) => (&mut self.at, path),
            Listed::Prefix(prefix) => {
                // A bit too many costs a look in vain, so it stays when its prefixes go.
                self.depths |= 1 << segments(&prefix).min(DEPTH_MAX);
                (&mut self.at, prefix)
            }
        };
        lists.change(&name, |list| {
            let mut list = list.unwrap_or_default();
            change(&mut list);
            (!list.is_empty()).then_some(list)
        });
    }

    fn is_empty(&self) -> bool {
        self.patterns.is_empty() && self.at.is_empty() && self.methods.is_empty()
    }

    fn sort(&mut self) {
        self.at.for_each(List::sort);
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
        self.ruling.place(self.alternative)
    }

    /// In the order of a list: of one path the exact ones first.
    fn compare(&self, other: &Self) -> Ordering {
        let is_prefix = [self, other].map(|one| !one.is_exact);
        is_prefix[0]
            .cmp(&is_prefix[1])
            .then_with(|| compare(self.place(), other.place()))
    }

    fn selected(&self) -> Selected<'_> {
        Selected {
            route: &self.ruling.route,
            rule_index: self.rule.into(),
            ruling: &self.ruling,
            alternative: self.alternative,
        }
    }
}

impl List {
    /// The first of the exact or of the other ones that takes a request whose path it is listed
    /// under.
    fn first(&self, is_exact: bool, request: &Request<'_>) -> Option<&Entry> {
        let holds = |entry: &&Entry| {
            let conditions = || rank::matched(entry.place());
            entry.is_exact == is_exact
                && (entry.is_plain || conditions().is_none_or(|matched| matched.holds(request)))
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
            Arc::make_mut(list).sort_by(Entry::compare);
        }
    }

    /// Where it belongs, in a sorted list.
    fn insert(&mut self, entry: Entry) {
        match self {
            Self::Many(list) => {
                let is_before = |known: &Entry| known.compare(&entry).is_lt();
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
        let is_of_it = |known: &Entry| Arc::ptr_eq(&known.ruling.route, &entry.ruling.route);
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

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn what_a_decision_reads_of_a_rule_is_one_line_of_the_cache() {
        assert!(offset_of!(Ruling, backends) + size_of::<Backends>() <= 64);
        assert_eq!(size_of::<Entry>(), 16);
        assert_eq!(size_of::<List>(), 16);
    }
}
