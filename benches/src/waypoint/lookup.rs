//! The lookup of a route alone: `mesh::route::Table`, without a network.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::route::matching::PathMatch;
use mesh::route::{
    Backend, Decision, Filters, Request, RequestMatch, Route, RouteKey, RouteKind, Rule, Table,
    Target, decide,
};
use mesh::service::ServiceKey;

use super::manifests::paths;
use crate::axes::figures;
use crate::figures::Figures;

/// Decisions that are timed.
const LOOKUPS: usize = 64 * 4_700;
/// So many are timed at once. Their paths are written anew right before, as a request's path has
/// just been read when it is looked up: what is timed is the table, not the list of paths.
const BATCH: usize = 64;
/// A prime: requests are spread over all routes.
const STEP: usize = 7919;

/// One round with so many routes of ten matches each: time to make the table, and of a decision.
pub(super) fn run(routes: usize) -> anyhow::Result<Figures> {
    let all: Vec<_> = (0..routes).map(|n| Arc::new(route(n))).collect();
    let begun = Instant::now();
    let table = Table::new(all);
    let made = begun.elapsed();
    let asked: Vec<String> = (0..routes.min(1000))
        .flat_map(|n| paths(n * STEP % routes))
        .collect();
    let mut batch = vec![String::new(); BATCH];
    let (mut found, mut took) = (0, Duration::ZERO);
    for turn in 0..LOOKUPS / BATCH {
        for (at, path) in batch.iter_mut().enumerate() {
            path.clone_from(&asked[(turn * BATCH + at) * STEP % asked.len()]);
        }
        let begun = Instant::now();
        found += batch.iter().filter(|path| is_routed(&table, path)).count();
        took += begun.elapsed();
    }
    anyhow::ensure!(
        found == LOOKUPS,
        "{found} of {LOOKUPS} requests were routed"
    );
    Ok(figures([
        ("lookup_ns", took.as_nanos() as f64 / LOOKUPS as f64),
        ("table_made_ms", made.as_secs_f64() * 1e3),
    ]))
}

fn is_routed(table: &Table, path: &str) -> bool {
    let headers: Vec<(String, String)> = Vec::new();
    let request = Request {
        method: "GET",
        scheme: "http",
        authority: "bench",
        port: 8080,
        path,
        query: None,
        headers: &headers,
    };
    let decision = decide(table, &request, &mut || 7);
    matches!(black_box(decision), Decision::Forward(_))
}

/// Route `n`, with ten matches and a service of its own.
pub(super) fn route(n: usize) -> Route {
    let service = ServiceKey {
        namespace: "mesh".into(),
        hostname: format!("service-{n}.mesh.svc.cluster.local").into(),
    };
    let matches = paths(n).map(|path| RequestMatch {
        path: PathMatch::prefix(&path),
        ..RequestMatch::default()
    });
    Route {
        key: RouteKey {
            kind: RouteKind::Http,
            namespace: "mesh".into(),
            name: format!("route-{n}").into(),
        },
        created: None,
        hostnames: Vec::new(),
        rules: vec![Rule {
            matches: matches.collect(),
            backends: vec![Backend {
                target: Target::Service { service, port: 80 },
                weight: 1,
                filters: Filters::default().into(),
            }],
            ..Rule::default()
        }],
    }
}
