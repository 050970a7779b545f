//! Which of several matches takes a request that meets them all (Gateway API,
//! `HTTPRouteRule.matches` and `GRPCRouteRule.matches`).
//!
//! The host and the path come first, and [`super::table`] walks them in that order; [`compare`] is
//! for the rest. Where a regular expression stands is left to implementations: here behind exact
//! paths and before prefixes, the longest expression first.

use std::cmp::{Ordering, Reverse};

use super::matching::{PathMatch, RequestMatch, TextMatch};
use super::{Route, RouteKey};

/// One match of a route: the numbers of its rule and of the match in it; None: the rule has none,
/// and takes everything.
pub(super) type Place<'a> = (&'a Route, usize, Option<usize>);

/// Orders matches of equal host and equal path; the least one wins.
pub(super) fn compare(a: Place<'_>, b: Place<'_>) -> Ordering {
    let of_match = specificity(a).cmp(&specificity(b));
    of_match
        .then_with(|| created(a.0).cmp(&created(b.0)))
        .then_with(|| name(&a.0.key).cmp(name(&b.0.key)))
        .then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
}

/// The longest expression (or gRPC service, then method), a method, most headers, most query
/// parameters.
fn specificity(place: Place<'_>) -> Reverse<((usize, usize), bool, usize, usize)> {
    let Some(one) = matched(place) else {
        return Reverse(((0, 0), false, 0, 0));
    };
    let expression = expression_bytes(&one.path);
    let method = one.method.is_some();
    Reverse((expression, method, one.headers.len(), one.query.len()))
}

pub(super) fn matched((route, rule, at): Place<'_>) -> Option<&RequestMatch> {
    route.rules[rule].matches.get(at?)
}

/// The oldest first; unknown last.
fn created(route: &Route) -> u64 {
    route.created.unwrap_or(u64::MAX)
}

/// `namespace/name`, alphabetically.
fn name(key: &RouteKey) -> impl Iterator<Item = u8> + '_ {
    let parts = [&*key.namespace, "/", &*key.name];
    parts.into_iter().flat_map(str::bytes)
}

fn expression_bytes(path: &PathMatch) -> (usize, usize) {
    let length = |text: &Option<TextMatch>| text.as_ref().map_or(0, |text| text.as_str().len());
    match path {
        // Equal where the rank is asked for.
        PathMatch::Exact(_) | PathMatch::Prefix(_) => (0, 0),
        PathMatch::Regex(pattern) => (pattern.as_str().len(), 0),
        PathMatch::Grpc(grpc) => (length(&grpc.service), length(&grpc.method)),
    }
}
