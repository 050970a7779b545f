//! Routes: what the index of a table selects holds, and it selects something when anything holds.

use std::sync::Arc;

use mesh::route::matching::{PathMatch, RequestMatch, TextMatch, ValueMatch};
use mesh::route::pattern::Pattern;
use mesh::route::{Request, Route, RouteKey, RouteKind, Rule, Table, decide};

/// Most rules of one input: more add nothing.
const RULES: usize = 8;

/// Input: lines of rules (`=/exact`, `^/prefix`, `~regex`, `?query=value`, `:header=value`), an
/// empty line, then the target of a request and its headers (`name=value`).
pub fn holds(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let (rules, request) = text.split_once("\n\n").unwrap_or((text, "/"));
    let matches: Vec<_> = rules.lines().take(RULES).filter_map(one_match).collect();
    let mut lines = request.lines();
    let target = lines.next().unwrap_or("/");
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let headers = lines.filter_map(|line| line.split_once('='));
    let headers: Vec<_> = headers
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let request = Request {
        method: "GET",
        scheme: "http",
        authority: "shop:80",
        port: 80,
        path,
        query,
        headers: &headers,
    };
    let is_held = matches.iter().any(|one| one.holds(&request));
    let table = Table::new([Arc::new(route(matches))]);
    let selected = table.select(&request);
    assert_eq!(
        selected.is_some(),
        is_held,
        "the index and a walk over all differ"
    );
    let holds = selected
        .and_then(|one| one.matched())
        .is_none_or(|(_, one)| one.holds(&request));
    assert!(holds, "what was selected does not hold");
    let _ = decide(&table, &request, &mut || 7);
}

fn one_match(line: &str) -> Option<RequestMatch> {
    let (kind, rest) = line.split_at_checked(1)?;
    let mut one = RequestMatch::default();
    let value = || {
        let (name, value) = rest.split_once('=')?;
        Some(ValueMatch {
            name: name.into(),
            value: TextMatch::Exact(value.into()),
        })
    };
    match kind {
        "=" => one.path = PathMatch::Exact(rest.into()),
        "^" => {
            mesh::route::path::check(rest).ok()?;
            one.path = PathMatch::prefix(rest);
        }
        "~" => one.path = PathMatch::Regex(Pattern::new(rest).ok()?),
        "?" => one.query = vec![value()?],
        ":" => one.headers = vec![value()?],
        _ => return None,
    }
    Some(one)
}

fn route(matches: Vec<RequestMatch>) -> Route {
    let rules = matches.into_iter().map(|one| Rule {
        matches: vec![one],
        ..Rule::default()
    });
    Route {
        key: RouteKey {
            kind: RouteKind::Http,
            namespace: "a".into(),
            name: "b".into(),
        },
        created: None,
        hostnames: Vec::new(),
        rules: rules.collect(),
    }
}
