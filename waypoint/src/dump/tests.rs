//! What an operator looks for in the dump is there, and what says nothing is not.

use std::sync::Arc;

use mesh::route::book::Attached;
use mesh::route::filter::{Filters, PathChange, Rewrite};
use mesh::route::matching::{PathMatch, RequestMatch};
use mesh::route::{Backend, Book, Route, RouteKey, RouteKind, Rule, Table, Target};
use mesh::service::ServiceKey;
use serde_json::json;

use super::routes;

fn web() -> Backend {
    let service = ServiceKey {
        namespace: "shop".into(),
        hostname: "web.shop.svc.cluster.local".into(),
    };
    Backend {
        target: Target::Service { service, port: 80 },
        weight: 95,
        filters: Filters::default().into(),
    }
}

#[test]
fn a_route_is_shown_with_its_conditions_filters_and_backends() {
    let rewrite = Rewrite {
        host: None,
        path: Some(PathChange::Full("/new".into())),
    };
    let rule = Rule {
        name: Some("old".into()),
        matches: vec![RequestMatch {
            path: PathMatch::prefix("/old"),
            method: Some("GET".into()),
            ..RequestMatch::default()
        }],
        filters: Filters {
            rewrite: Some(rewrite),
            ..Filters::default()
        }
        .into(),
        backends: vec![web()],
        ..Rule::default()
    };
    let route = Route {
        key: RouteKey {
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: "web".into(),
        },
        created: None,
        hostnames: Vec::new(),
        rules: vec![rule],
    };
    let mut book = Book::default();
    let attached = Attached {
        http: Arc::new(Table::new([Arc::new(route)])),
        ..Attached::default()
    };
    book.attach("service/shop/web/80".parse().unwrap(), attached);
    let shown = routes::all(&book);
    let rule = &shown[0]["http"][0]["rules"][0];
    assert_eq!(shown[0]["parent"], "service/shop/web/80");
    assert_eq!(rule["name"], "old");
    let clauses = rule["matches"][0].as_array().unwrap();
    assert_eq!(clauses.len(), 2, "{clauses:?}");
    assert_eq!(clauses[1], "method is GET");
    assert_eq!(
        rule["filters"],
        json!({ "rewrite": { "path": { "full": "/new" } } })
    );
    assert_eq!(rule["backends"][0]["weight"], 95);
    assert_eq!(rule.get("retry"), None);
}
