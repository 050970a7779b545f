//! What a change costs the translation: 20,000 HTTPRoutes at 200 Services, one object changes.
//!
//! `cargo run --release -p translate --example change`: the median of 15 changes each, in
//! milliseconds, and how many routes were made anew. Says nothing of reading or publishing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use mesh::route::Route;
use translate::{Allocations, Collection, Input, Options, Output, Translator};

const SERVICES: usize = 200;
const ROUTES: usize = 20_000;
const CHANGES: usize = 15;

fn service(number: usize, port: usize) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{number}, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.{}.{}, ports: [{{port: 80}}, {{port: {port}, name: more}}]}}\n",
        number / 250,
        number % 250 + 1
    )
}

fn route(number: usize, weight: usize) -> String {
    let (parent, other) = (number % SERVICES, (number + 1) % SERVICES);
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: r{number}, namespace: shop}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: s{parent}}}], rules: \
         [{{matches: [{{path: {{value: /r{number}}}}}], backendRefs: [{{name: s{parent}, port: 80, \
         weight: {weight}}}, {{name: s{other}, port: 80}}]}}]}}\n"
    )
}

/// All routes of an output, by their places.
fn routes(output: &Output) -> BTreeMap<String, Arc<Route>> {
    let all = output.routes.values().flat_map(|at| &at.http);
    all.map(|route| (route.key.to_string(), Arc::clone(route)))
        .collect()
}

fn main() {
    let mut collection = Collection::default();
    let mut text = String::new();
    for number in 1..SERVICES {
        text.push_str(&service(number, 81));
    }
    collection.load("services.yaml", &text);
    collection.load("a Service.yaml", &service(0, 81));
    text.clear();
    for number in 0..ROUTES - 1 {
        text.push_str(&route(number, 1));
    }
    collection.load("routes.yaml", &text);
    let (options, vips) = (Options::default(), Allocations::new());
    let mut translator = Translator::default();
    let mut translated = |collection: &Collection| {
        let (objects, errors) = collection.objects();
        assert!(errors.is_empty(), "{errors:?}");
        let input = Input {
            objects: &objects,
            reports: &[],
            vips: &vips,
            options: &options,
        };
        let begin = Instant::now();
        let output = translator.translate(&input);
        (begin.elapsed().as_secs_f64() * 1e3, output)
    };
    let (first, mut last) = translated(&collection);
    let mut said = format!("first translation: {first:.1} ms\n");
    type Change = fn(usize) -> String;
    let changes: [(&str, Change); 2] = [
        ("a route", |round| route(ROUTES - 1, round + 2)),
        ("a Service", |round| service(0, 82 + round)),
    ];
    for (what, change) in changes {
        let (mut times, mut anew) = (Vec::new(), 0);
        for round in 0..CHANGES {
            collection.load(&format!("{what}.yaml"), &change(round));
            let (took, output) = translated(&collection);
            times.push(took);
            let before = routes(&last);
            let now = routes(&output);
            let is_same = |(name, route): (&String, &Arc<Route>)| {
                before.get(name).is_some_and(|one| Arc::ptr_eq(one, route))
            };
            anew = now.len() - now.iter().filter(|route| is_same(*route)).count();
            last = output;
        }
        times.sort_by(f64::total_cmp);
        let median = times[CHANGES / 2];
        let _ = writeln!(
            said,
            "{what} changes: {median:.1} ms, {anew} routes made anew"
        );
    }
    print!("{said}");
}
