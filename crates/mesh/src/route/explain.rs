//! The same decision, told clause by clause: for `culvert route explain`.

use std::fmt;

use super::matching::RequestMatch;
use super::request::Request;
use super::table::{Selected, Table};
use super::{Route, RouteKey};

/// One rule of one route and what it said to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleReport {
    /// Its route.
    pub route: RouteKey,
    /// Number of the rule in the object that it is written in, from 0.
    pub rule: usize,
    /// Its name.
    pub name: Option<String>,
    /// Whether the route is for the request's host.
    pub host_holds: bool,
    /// Its alternatives with their clauses; empty: the rule takes everything.
    pub alternatives: Vec<Vec<Clause>>,
    /// Whether this is the rule that takes the request, and by which alternative (from 0; None:
    /// the rule has none).
    pub takes: Option<Option<usize>>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// What is wanted, such as `path is /cart or below`.
    pub wanted: String,
    /// What the request has; None: nothing of that name.
    pub has: Option<String>,
    /// Whether it holds.
    pub holds: bool,
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.holds { "yes" } else { "no " };
        write!(f, "{mark} {}", self.wanted)?;
        match &self.has {
            Some(has) if !self.holds => write!(f, " (the request has {has})"),
            None => f.write_str(" (the request has none)"),
            Some(_) => Ok(()),
        }
    }
}

impl RuleReport {
    /// Whether some alternative holds for the request, so that only a better match took it.
    #[must_use]
    pub fn holds(&self) -> bool {
        let all_hold = |clauses: &Vec<Clause>| clauses.iter().all(|clause| clause.holds);
        self.host_holds && (self.alternatives.is_empty() || self.alternatives.iter().any(all_hold))
    }
}

/// Every rule of the table, the routes by name, the rules in their order; at most one takes the
/// request.
#[must_use]
pub fn explain(table: &Table, request: &Request<'_>) -> Vec<RuleReport> {
    let taken = table.select(request);
    let mut routes: Vec<_> = table.routes().collect();
    routes.sort_by(|a, b| a.key.cmp(&b.key));
    let rules = routes
        .into_iter()
        .flat_map(|route| (0..route.rules.len()).map(move |rule| (route, rule)));
    rules
        .map(|(route, rule)| report(route, rule, taken.as_ref(), request))
        .collect()
}

fn report(
    route: &Route,
    at: usize,
    taken: Option<&Selected<'_>>,
    request: &Request<'_>,
) -> RuleReport {
    let rule = &route.rules[at];
    let host = request.host();
    let is_this = |one: &&Selected<'_>| one.route.key == route.key && one.rule_index == at;
    let which = |one: &Selected<'_>| one.matched().map(|(at, _)| at);
    RuleReport {
        route: route.key.clone(),
        rule: rule.place,
        name: rule.name.as_deref().map(str::to_owned),
        host_holds: route.hostnames.is_empty() || route.hostnames.iter().any(|h| h.matches(&host)),
        alternatives: rule
            .matches
            .iter()
            .map(|one| clauses(one, request))
            .collect(),
        takes: taken.filter(is_this).map(which),
    }
}

fn clauses(one: &RequestMatch, request: &Request<'_>) -> Vec<Clause> {
    let path = Clause {
        wanted: one.path.to_string(),
        has: Some(request.path.to_owned()),
        holds: one.path.holds(request.path),
    };
    let method = one.method.as_ref().map(|method| Clause {
        wanted: format!("method is {method}"),
        has: Some(request.method.to_owned()),
        holds: **method == *request.method,
    });
    let headers = one.headers.iter().map(|header| {
        let has = request.header(&header.name);
        Clause {
            wanted: format!("header {header}"),
            holds: has.as_ref().is_some_and(|has| header.value.holds(has)),
            has: has.map(|has| has.into_owned()),
        }
    });
    let query = one.query.iter().map(|parameter| {
        let has = request.query_value(&parameter.name);
        Clause {
            wanted: format!("query parameter {parameter}"),
            holds: has.as_ref().is_some_and(|has| parameter.value.holds(has)),
            has: has.map(|has| has.into_owned()),
        }
    });
    [path]
        .into_iter()
        .chain(method)
        .chain(headers)
        .chain(query)
        .collect()
}
