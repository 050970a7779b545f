//! Routes and targeted policies as `/config_dump` shows them, in the words of `culvert route
//! explain`. Pure.

use std::time::Duration;

use mesh::policy::targeted::{PolicyTarget, TargetedPolicy};
use mesh::route::book::Attached;
use mesh::route::filter::{Filters, HeaderChanges, Mirror, PathChange, Redirect, Rewrite};
use mesh::route::host::HostPattern;
use mesh::route::matching::RequestMatch;
use mesh::route::stream::{StreamBackend, StreamRoute, StreamRule};
use mesh::route::{Backend, Book, ParentKey, Route, Rule};
use process::admin::domain;
use serde_json::{Map, Value, json};

/// Which routes are attached to what.
pub fn all(book: &Book) -> Value {
    let mut all: Vec<_> = book.parents().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let parent = |(parent, attached): (ParentKey, &Attached)| {
        let streams = attached.streams.routes().iter();
        json!({
            "parent": parent.to_string(),
            "http": attached.http.routes().map(|it| route(it)).collect::<Vec<_>>(),
            "streams": streams.map(|it| stream(it)).collect::<Vec<_>>(),
            "refused": attached.http.refusal(),
        })
    };
    all.into_iter().map(parent).collect()
}

/// One policy with what it is for.
pub fn policy(targeted: &TargetedPolicy) -> Value {
    let target = |target: &PolicyTarget| match target {
        PolicyTarget::Service(key) => format!("Service {key}"),
        PolicyTarget::Gateway(key) => format!("Gateway {key}"),
    };
    let mut shown = domain::policy(&targeted.policy);
    if let Value::Object(fields) = &mut shown {
        // Nothing is selected by labels.
        fields.remove("scope");
        let targets: Vec<_> = targeted.targets.iter().map(target).collect();
        fields.insert("targets".to_owned(), json!(targets));
        fields.insert("unenforceable".to_owned(), json!(targeted.unenforceable));
        if targeted.audit {
            // On the wire it is a dry run of another action.
            fields.insert("action".to_owned(), json!("Audit"));
            fields.remove("dryRun");
        }
    }
    shown
}

fn route(route: &Route) -> Value {
    json!({
        "route": route.key.to_string(),
        "hostnames": hosts(&route.hostnames),
        "rules": route.rules.iter().map(rule).collect::<Vec<_>>(),
    })
}

fn rule(rule: &Rule) -> Value {
    let text = |time: Option<Duration>| time.map(|time| format!("{time:?}"));
    let retry = rule.retry.as_ref().map(|retry| {
        json!({
            "codes": retry.codes,
            "attempts": retry.attempts,
            "backoff": format!("{:?}", retry.backoff),
        })
    });
    let timeouts = [
        ("request", text(rule.timeouts.request)),
        ("backendRequest", text(rule.timeouts.backend_request)),
    ];
    given([
        ("rule", json!(rule.place)),
        ("name", json!(rule.name)),
        (
            "matches",
            json!(rule.matches.iter().map(clauses).collect::<Vec<_>>()),
        ),
        ("filters", filters(&rule.filters)),
        (
            "backends",
            json!(rule.backends.iter().map(backend).collect::<Vec<_>>()),
        ),
        (
            "timeouts",
            given(timeouts.map(|(name, time)| (name, json!(time)))),
        ),
        ("retry", json!(retry)),
        (
            "session",
            json!(rule.persistence.as_ref().map(|session| &session.name)),
        ),
    ])
}

/// What one alternative wants, all of it.
fn clauses(one: &RequestMatch) -> Vec<String> {
    let method = one
        .method
        .iter()
        .map(|method| format!("method is {method}"));
    let headers = one.headers.iter().map(|header| format!("header {header}"));
    let query = one
        .query
        .iter()
        .map(|value| format!("query parameter {value}"));
    let path = std::iter::once(one.path.to_string());
    path.chain(method).chain(headers).chain(query).collect()
}

fn backend(backend: &Backend) -> Value {
    given([
        ("backend", json!(backend.target.to_string())),
        ("weight", json!(backend.weight)),
        ("filters", filters(&backend.filters)),
    ])
}

fn filters(filters: &Filters) -> Value {
    let redirect = |it: &Redirect| {
        given([
            ("scheme", json!(it.scheme.map(|scheme| scheme.as_str()))),
            ("hostname", json!(it.host)),
            ("port", json!(it.port)),
            ("path", path(it.path.as_ref())),
            ("statusCode", json!(it.status)),
        ])
    };
    let rewrite = |it: &Rewrite| {
        given([
            ("hostname", json!(it.host)),
            ("path", path(it.path.as_ref())),
        ])
    };
    let mirror = |it: &Mirror| {
        let share = format!("{} of {}", it.share.numerator, it.share.denominator);
        json!({ "backend": it.target.to_string(), "share": share })
    };
    let cors = filters.cors.as_ref().map(|cors| format!("{cors:?}"));
    given([
        ("requestHeaders", headers(&filters.request_headers)),
        ("responseHeaders", headers(&filters.response_headers)),
        ("redirect", json!(filters.redirect.as_ref().map(redirect))),
        ("rewrite", json!(filters.rewrite.as_ref().map(rewrite))),
        (
            "mirrors",
            json!(filters.mirrors.iter().map(mirror).collect::<Vec<_>>()),
        ),
        ("cors", json!(cors)),
        ("unusable", json!(filters.unusable)),
    ])
}

fn headers(changes: &HeaderChanges) -> Value {
    given([
        ("set", json!(changes.set)),
        ("add", json!(changes.add)),
        ("remove", json!(changes.remove)),
    ])
}

fn path(change: Option<&PathChange>) -> Value {
    match change {
        None => Value::Null,
        Some(PathChange::Full(path)) => json!({ "full": path }),
        Some(PathChange::Prefix(path)) => json!({ "prefix": path }),
    }
}

fn stream(route: &StreamRoute) -> Value {
    let backend =
        |it: &StreamBackend| json!({ "backend": it.target.to_string(), "weight": it.weight });
    let rule = |it: &StreamRule| {
        given([
            ("rule", json!(it.place)),
            ("name", json!(it.name)),
            (
                "backends",
                json!(it.backends.iter().map(backend).collect::<Vec<_>>()),
            ),
        ])
    };
    json!({
        "route": route.key.to_string(),
        "hostnames": hosts(&route.hostnames),
        "rules": route.rules.iter().map(rule).collect::<Vec<_>>(),
    })
}

fn hosts(hosts: &[HostPattern]) -> Vec<String> {
    hosts.iter().map(ToString::to_string).collect()
}

/// The fields that say something.
fn given<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    let fields = fields.into_iter().filter(|(_, value)| says(value));
    let fields: Map<_, _> = fields
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Value::Object(fields)
}
