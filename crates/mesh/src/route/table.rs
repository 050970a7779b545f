//! The routes of one parent, arranged so that the one which takes a request is found in a number of
//! steps that grows with the request (labels of its host, segments of its path), not with the
//! number of routes.

use std::collections::HashMap;
use std::sync::Arc;

use super::host::{HostPattern, suffixes};
use super::matching::{GrpcMatch, PathMatch, RequestMatch, TextMatch, grpc_call};
use super::path::prefixes;
use super::rank::Rank;
use super::request::Request;
use super::{Route, Rule};

/// The routes of one parent. Making it costs a sort of all matches; it is then only read.
#[derive(Clone, Debug, Default)]
pub struct Table {
    routes: Vec<Arc<Route>>,
    entries: Vec<Entry>,
    exact_hosts: HashMap<Arc<str>, Paths>,
    /// By suffix with its dot.
    wildcards: HashMap<Arc<str>, Paths>,
    any_host: Paths,
    refusal: Option<Arc<str>>,
}

/// One match of one rule.
#[derive(Clone, Debug)]
struct Entry {
    route: u32,
    rule: u32,
    /// None: the rule has no match, and takes everything.
    alternative: Option<u32>,
}

/// Entries of one host pattern by path; every list is in order of rank.
#[derive(Clone, Debug, Default)]
struct Paths {
    exact: HashMap<Arc<str>, Vec<u32>>,
    /// Regular expressions: tried one by one.
    patterns: Vec<u32>,
    /// By normal form.
    prefixes: HashMap<Arc<str>, Vec<u32>>,
    /// gRPC methods of any service.
    methods: HashMap<Arc<str>, Vec<u32>>,
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
enum Place<'a> {
    Exact(Arc<str>),
    Pattern,
    Prefix(Arc<str>),
    Method(&'a Arc<str>),
}

impl Table {
    /// Arranges routes; their order says nothing.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = Arc<Route>>) -> Self {
        let mut table = Self {
            routes: routes.into_iter().collect(),
            ..Self::default()
        };
        let every = RequestMatch::default();
        let mut ranked = Vec::new();
        for (at, route) in table.routes.iter().enumerate() {
            for (rule_at, rule) in route.rules.iter().enumerate() {
                let entry = |alternative| Entry {
                    route: number(at),
                    rule: number(rule_at),
                    alternative,
                };
                if rule.matches.is_empty() {
                    ranked.push((Rank::of(route, rule_at, (0, &every)), entry(None)));
                }
                for (i, one) in rule.matches.iter().enumerate() {
                    let rank = Rank::of(route, rule_at, (i, one));
                    ranked.push((rank, entry(Some(number(i)))));
                }
            }
        }
        // Listed by rank, so that every list below is in that order by itself.
        ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
        table.entries = ranked.into_iter().map(|(_, entry)| entry).collect();
        table.list();
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

    fn list(&mut self) {
        let every = RequestMatch::default();
        for (at, entry) in self.entries.iter().enumerate() {
            let route = &self.routes[entry.route as usize];
            let one = alternative(route, entry).unwrap_or(&every);
            let at = number(at);
            if route.hostnames.is_empty() {
                self.any_host.add(&one.path, at);
            }
            for host in &route.hostnames {
                let (hosts, name) = match host {
                    HostPattern::Exact(name) => (&mut self.exact_hosts, name),
                    HostPattern::Below(suffix) => (&mut self.wildcards, suffix),
                };
                hosts.entry(name.clone()).or_default().add(&one.path, at);
            }
        }
    }

    /// The routes, in no particular order.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
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
        let host = request.host();
        let exact = self.exact_hosts.get(&*host);
        let wild = suffixes(&host).filter_map(|suffix| self.wildcards.get(suffix));
        let mut hosts = exact.into_iter().chain(wild).chain([&self.any_host]);
        hosts.find_map(|paths| self.select_in(paths, request))
    }

    fn select_in(&self, paths: &Paths, request: &Request<'_>) -> Option<Selected<'_>> {
        let path = request.path;
        let listed = |list: Option<&'_ Vec<u32>>| {
            let list = list.map(Vec::as_slice).unwrap_or_default();
            let mut listed = list.iter().map(|at| self.selected(*at));
            listed.find(|one| one.matched.is_none_or(|matched| matched.holds(request)))
        };
        if let Some(found) = listed(paths.exact.get(path)) {
            return Some(found);
        }
        if let Some(found) = listed(Some(&paths.patterns)) {
            return Some(found);
        }
        for prefix in prefixes(path).filter(|prefix| !prefix.is_empty()) {
            if let Some(found) = listed(paths.prefixes.get(prefix)) {
                return Some(found);
            }
        }
        if let Some((_, method)) = grpc_call(path)
            && let Some(found) = listed(paths.methods.get(method))
        {
            return Some(found);
        }
        // `*` (OPTIONS of a whole server) has no prefix, and is taken by what takes every path.
        listed(paths.prefixes.get(""))
    }

    fn selected(&self, at: u32) -> Selected<'_> {
        let entry = &self.entries[at as usize];
        let route = &self.routes[entry.route as usize];
        Selected {
            route,
            rule: &route.rules[entry.rule as usize],
            rule_index: entry.rule as usize,
            matched: alternative(route, entry),
        }
    }
}

fn alternative<'a>(route: &'a Route, entry: &Entry) -> Option<&'a RequestMatch> {
    let at = entry.alternative?;
    route.rules[entry.rule as usize].matches.get(at as usize)
}

/// Routes, rules and matches are far fewer: a route has at most 16 rules and 128 matches.
fn number(index: usize) -> u32 {
    u32::try_from(index).expect("a parent has fewer than 2^32 matches")
}

impl Paths {
    fn add(&mut self, path: &PathMatch, at: u32) {
        let list = match place(path) {
            Place::Exact(path) => self.exact.entry(path).or_default(),
            Place::Pattern => &mut self.patterns,
            Place::Prefix(prefix) => self.prefixes.entry(prefix).or_default(),
            Place::Method(method) => self.methods.entry(method.clone()).or_default(),
        };
        // Two host names of a route may be the same one, written twice.
        if list.last() != Some(&at) {
            list.push(at);
        }
    }
}

fn place(path: &PathMatch) -> Place<'_> {
    use TextMatch::Exact;
    match path {
        PathMatch::Exact(path) => Place::Exact(path.clone()),
        PathMatch::Prefix(prefix) => Place::Prefix(prefix.clone()),
        PathMatch::Regex(_) => Place::Pattern,
        PathMatch::Grpc(GrpcMatch { service, method }) => match (service, method) {
            (Some(Exact(service)), Some(Exact(method))) => {
                Place::Exact(format!("/{service}/{method}").into())
            }
            (Some(Exact(service)), None) => Place::Prefix(format!("/{service}").into()),
            (None, Some(Exact(method))) => Place::Method(method),
            (None, None) => Place::Prefix("".into()),
            _ => Place::Pattern,
        },
    }
}
