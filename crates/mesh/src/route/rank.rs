//! Which of several matches takes a request that meets them all (Gateway API,
//! `HTTPRouteRule.matches` and `GRPCRouteRule.matches`).
//!
//! The host and the path come first, and [`super::table`] walks them in that order; the rest is the
//! [`Rank`]. Where a regular expression stands is left to implementations: here behind exact paths
//! and before prefixes, the longest expression first.

use std::cmp::Reverse;

use super::matching::{PathMatch, RequestMatch, TextMatch};
use super::{Route, RouteKey};

/// Orders matches of equal host and equal path; the least one wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// The longest expression, or service and then method, first.
    expression_bytes: Reverse<(usize, usize)>,
    has_method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// The oldest first; unknown last.
    created: u64,
    /// `namespace/name`, alphabetically.
    name: String,
    rule: usize,
    alternative: usize,
}

impl Rank {
    pub(super) fn of(route: &Route, rule: usize, (at, one): (usize, &RequestMatch)) -> Self {
        let RouteKey {
            namespace, name, ..
        } = &route.key;
        Self {
            expression_bytes: Reverse(expression_bytes(&one.path)),
            has_method: Reverse(one.method.is_some()),
            headers: Reverse(one.headers.len()),
            query: Reverse(one.query.len()),
            created: route.created.unwrap_or(u64::MAX),
            name: format!("{namespace}/{name}"),
            rule,
            alternative: at,
        }
    }
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
