//! Which route takes a request, and what becomes of it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::route::cors::{Cors, Origin};
use mesh::route::explain::explain;
use mesh::route::filter::{HeaderChanges, Mirror, PathChange, Redirect, Rewrite, Share};
use mesh::route::matching::{GrpcMatch, PathMatch, TextMatch, ValueMatch};
use mesh::route::pattern::Pattern;
use mesh::route::{
    Backend, Decision, Failure, Filters, Headers, HostPattern, Request, RequestMatch, Route,
    RouteKey, RouteKind, Rule, Table, Target, decide,
};
use mesh::service::ServiceKey;
use proptest::prelude::*;

fn exact(path: &str) -> RequestMatch {
    at(PathMatch::Exact(path.into()))
}

fn prefix(path: &str) -> RequestMatch {
    at(PathMatch::prefix(path))
}

fn regex(text: &str) -> RequestMatch {
    at(PathMatch::Regex(Pattern::new(text).expect("an expression")))
}

fn at(path: PathMatch) -> RequestMatch {
    RequestMatch {
        path,
        ..RequestMatch::default()
    }
}

fn grpc(service: Option<&str>, method: Option<&str>) -> RequestMatch {
    let text = |text: &str| TextMatch::Exact(text.into());
    at(PathMatch::Grpc(GrpcMatch {
        service: service.map(text),
        method: method.map(text),
    }))
}

fn value(name: &str, text: &str) -> ValueMatch {
    ValueMatch {
        name: name.into(),
        value: TextMatch::Exact(text.into()),
    }
}

fn backend(name: &str, weight: u32) -> Backend {
    Backend {
        target: Target::Service {
            service: ServiceKey {
                namespace: "shop".into(),
                hostname: format!("{name}.shop.svc.cluster.local").into(),
            },
            port: 80,
        },
        weight,
        filters: Filters::default().into(),
    }
}

fn rule(matches: Vec<RequestMatch>) -> Rule {
    Rule {
        matches,
        backends: vec![backend("web", 1)],
        ..Rule::default()
    }
}

fn route(name: &str, rules: Vec<Rule>) -> Route {
    Route {
        key: RouteKey {
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: name.into(),
        },
        created: None,
        hostnames: Vec::new(),
        rules: numbered(rules),
    }
}

fn numbered(rules: Vec<Rule>) -> Vec<Rule> {
    let rules = rules.into_iter().enumerate();
    rules.map(|(place, rule)| Rule { place, ..rule }).collect()
}

fn table(routes: Vec<Route>) -> Table {
    Table::new(routes.into_iter().map(Arc::new))
}

const NO_HEADERS: &Vec<(String, String)> = &Vec::new();

fn get<'a>(path: &'a str, headers: &'a dyn Headers) -> Request<'a> {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    Request {
        method: "GET",
        scheme: "http",
        authority: "web.shop:80",
        port: 80,
        path,
        query,
        headers,
    }
}

/// Route and rule that take the request.
fn taken(table: &Table, request: &Request<'_>) -> Option<(String, usize)> {
    let selected = table.select(request)?;
    Some((selected.route.key.name.to_string(), selected.rule_index))
}

#[test]
fn an_exact_path_comes_before_an_expression_before_the_longest_prefix() {
    let table = table(vec![route(
        "r",
        vec![
            rule(vec![prefix("/")]),
            rule(vec![prefix("/cart")]),
            rule(vec![prefix("/cart/items/")]),
            rule(vec![regex("/cart/[0-9]+")]),
            rule(vec![exact("/cart/7")]),
        ],
    )]);
    for (path, wanted) in [
        ("/cart/7", 4),
        ("/cart/8", 3),
        ("/cart/items/8", 2),
        ("/cart/items", 2),
        ("/cart/x", 1),
        ("/cartoon", 0),
        ("/", 0),
    ] {
        let got = taken(&table, &get(path, NO_HEADERS));
        assert_eq!(got, Some(("r".to_owned(), wanted)), "{path}");
    }
}

#[test]
fn of_equal_paths_the_method_counts_first_then_headers_then_parameters() {
    let with = |method: Option<&str>, headers: &[&str], query: &[&str]| RequestMatch {
        method: method.map(Into::into),
        headers: headers.iter().map(|name| value(name, "1")).collect(),
        query: query.iter().map(|name| value(name, "1")).collect(),
        ..prefix("/a")
    };
    let alternatives = [
        with(None, &[], &[]),
        with(None, &[], &["q"]),
        with(None, &[], &["q", "r"]),
        with(None, &["x-a"], &[]),
        with(None, &["x-a", "x-b"], &[]),
        with(Some("GET"), &[], &[]),
    ];
    let headers = vec![
        ("x-a".to_owned(), "1".to_owned()),
        ("x-b".to_owned(), "1".to_owned()),
    ];
    let request = get("/a/b?q=1&r=1", &headers);
    // However many of them there are, and in whatever order, the last of the list wins.
    for last in 1..=alternatives.len() {
        let rules = alternatives[..last].iter().map(|m| rule(vec![m.clone()]));
        let one = table(vec![route("r", rules.clone().collect())]);
        assert_eq!(taken(&one, &request), Some(("r".to_owned(), last - 1)));
        let one = table(vec![route("r", rules.rev().collect())]);
        assert_eq!(taken(&one, &request), Some(("r".to_owned(), 0)));
    }
}

#[test]
fn of_equal_matches_the_oldest_route_wins_then_the_name_then_the_first_rule() {
    let made = |name: &str, created| Route {
        created,
        ..route(name, vec![rule(vec![prefix("/")]), rule(vec![prefix("/")])])
    };
    for (routes, wanted) in [
        (vec![made("b", Some(10)), made("a", Some(20))], "b"),
        (vec![made("b", Some(10)), made("a", Some(10))], "a"),
        (vec![made("a", None), made("z", Some(99))], "z"),
        (vec![made("b", None), made("a", None)], "a"),
    ] {
        let got = taken(&table(routes), &get("/", NO_HEADERS));
        assert_eq!(got, Some((wanted.to_owned(), 0)));
    }
}

#[test]
fn the_most_specific_host_comes_first_and_leaves_what_it_does_not_take() {
    let of = |name: &str, hosts: &[&str], path: &str| Route {
        hostnames: hosts
            .iter()
            .map(|h| HostPattern::parse(h).unwrap())
            .collect(),
        ..route(name, vec![rule(vec![prefix(path)])])
    };
    let table = table(vec![
        of("any", &[], "/a/b/c"),
        of("wide", &["*.example.com"], "/a/b"),
        of("narrow", &["*.shop.example.com"], "/a"),
        of("exact", &["eu.shop.example.com", "other.org"], "/only"),
    ]);
    for (host, path, wanted) in [
        ("eu.shop.example.com", "/only", Some("exact")),
        ("EU.shop.example.com:8080", "/only", Some("exact")),
        ("eu.shop.example.com", "/a/b/c", Some("narrow")),
        ("us.shop.example.com", "/a/b/c", Some("narrow")),
        ("pay.example.com", "/a/b/c", Some("wide")),
        ("pay.example.com", "/a", None),
        ("example.com", "/a/b/c", Some("any")),
        ("other.org", "/a/b/c", Some("any")),
        ("other.org", "/a", None),
    ] {
        let mut request = get(path, NO_HEADERS);
        request.authority = host;
        let got = taken(&table, &request).map(|(name, _)| name);
        assert_eq!(got.as_deref(), wanted, "{host}{path}");
    }
}

#[test]
fn a_grpc_service_comes_before_a_method_alone() {
    let table = table(vec![route(
        "g",
        vec![
            rule(Vec::new()),
            rule(vec![grpc(None, Some("Ping"))]),
            rule(vec![grpc(Some("pkg.Echo"), None)]),
            rule(vec![grpc(Some("pkg.Echo"), Some("Ping"))]),
        ],
    )]);
    for (path, wanted) in [
        ("/pkg.Echo/Ping", 3),
        ("/pkg.Echo/Pong", 2),
        ("/pkg.Other/Ping", 1),
        ("/pkg.Other/Pong", 0),
        ("/pkg.Echo", 0),
        ("/pkg.Echo/a/Pong", 0),
    ] {
        let got = taken(&table, &get(path, NO_HEADERS));
        assert_eq!(got, Some(("g".to_owned(), wanted)), "{path}");
    }
}

#[test]
fn what_no_rule_takes_is_404_and_a_rule_without_a_usable_backend_is_500() {
    let invalid = Backend {
        target: Target::Invalid("there is no service shop/gone".into()),
        ..backend("gone", 1)
    };
    let with = |path: &str, backends| Rule {
        backends,
        ..rule(vec![exact(path)])
    };
    let table = table(vec![route(
        "r",
        vec![
            with("/none", Vec::new()),
            with("/zero", vec![backend("web", 0), backend("v2", 0)]),
            with("/gone", vec![invalid]),
            Rule {
                filters: Filters {
                    unusable: Some("ExtensionRef shop/mine".into()),
                    ..Filters::default()
                }
                .into(),
                ..rule(vec![exact("/filter")])
            },
        ],
    )]);
    let gone = "there is no service shop/gone";
    for (path, status, wanted) in [
        ("/nowhere", 404, Failure::NoRoute),
        ("/none", 500, Failure::NoBackend),
        ("/zero", 500, Failure::NoWeight),
        ("/gone", 500, Failure::InvalidBackend(gone.into())),
        (
            "/filter",
            500,
            Failure::UnusableFilter("ExtensionRef shop/mine".into()),
        ),
    ] {
        let request = get(path, NO_HEADERS);
        let Decision::Fail { failure, selected } = decide(&table, &request, &mut || 0) else {
            panic!("{path} is not refused");
        };
        assert_eq!((failure.status(), &failure), (status, &wanted));
        assert_eq!(selected.is_none(), failure == Failure::NoRoute);
    }
}

#[test]
fn backends_are_drawn_by_weight_and_a_missing_one_keeps_its_share() {
    let backends = vec![
        backend("v1", 90),
        backend("v2", 0),
        Backend {
            target: Target::Invalid("gone".into()),
            ..backend("gone", 10)
        },
    ];
    let table = table(vec![route(
        "canary",
        vec![Rule {
            backends,
            ..Rule::default()
        }],
    )]);
    let request = get("/", NO_HEADERS);
    let mut seen = BTreeMap::new();
    for drawn in 0..1_000 {
        let to = match decide(&table, &request, &mut || drawn) {
            Decision::Forward(forward) => forward.service.hostname.to_string(),
            Decision::Fail { failure, .. } => failure.to_string(),
            other => panic!("{other:?}"),
        };
        *seen.entry(to).or_insert(0) += 1;
    }
    let wanted = [
        ("the backend is not usable: gone".to_owned(), 100),
        ("v1.shop.svc.cluster.local".to_owned(), 900),
    ];
    assert_eq!(seen, BTreeMap::from(wanted));
}

#[test]
fn filters_of_rule_and_backend_are_applied_from_the_outside_in() {
    let changes = |name: &str| HeaderChanges {
        set: vec![("x-by".into(), name.into())],
        ..HeaderChanges::default()
    };
    let mirror = |name: &str, share| Mirror {
        target: backend(name, 1).target,
        share,
    };
    let half = Share {
        numerator: 1,
        denominator: 2,
    };
    let rule_filters = Filters {
        request_headers: changes("rule"),
        response_headers: changes("rule"),
        rewrite: Some(Rewrite {
            host: Some("inner".into()),
            path: Some(PathChange::Prefix("/v2".into())),
        }),
        mirrors: vec![mirror("shadow", Share::ALL), mirror("sample", half)],
        ..Filters::default()
    };
    let mut to = backend("web", 1);
    to.filters = Filters {
        request_headers: changes("backend"),
        response_headers: changes("backend"),
        ..Filters::default()
    }
    .into();
    let table = table(vec![route(
        "r",
        vec![Rule {
            filters: rule_filters.into(),
            backends: vec![to],
            ..rule(vec![prefix("/api/")])
        }],
    )]);
    let request = get("/api/cart?id=7", NO_HEADERS);
    let Decision::Forward(forward) = decide(&table, &request, &mut || 1) else {
        panic!("not forwarded");
    };
    assert_eq!((forward.host, &*forward.path), (Some("inner"), "/v2/cart"));
    let who = |changes: [&HeaderChanges; 2]| changes.map(|c| c.set[0].1.to_string());
    assert_eq!(who(forward.request_headers), ["rule", "backend"]);
    assert_eq!(who(forward.response_headers), ["backend", "rule"]);
    let mirrors: Vec<_> = forward.mirrors.iter().map(|m| m.target.clone()).collect();
    assert_eq!(mirrors, [backend("shadow", 1).target], "1 is not in a half");
}

#[test]
fn a_redirect_and_a_preflight_are_answered_and_go_nowhere() {
    let cors = Cors {
        origins: vec![Origin::parse("https://ui.example.com").unwrap()],
        credentials: false,
        methods: vec!["PUT".into()],
        headers: Vec::new(),
        expose: Vec::new(),
        max_age_seconds: 5,
    };
    let table = table(vec![route(
        "r",
        vec![
            Rule {
                filters: Filters {
                    redirect: Some(Redirect {
                        scheme: None,
                        host: None,
                        port: None,
                        path: Some(PathChange::Prefix("/new".into())),
                        status: 308,
                    }),
                    ..Filters::default()
                }
                .into(),
                backends: Vec::new(),
                ..rule(vec![prefix("/old")])
            },
            Rule {
                filters: Filters {
                    cors: Some(cors),
                    ..Filters::default()
                }
                .into(),
                ..rule(vec![prefix("/")])
            },
        ],
    )]);
    let Decision::Redirect {
        status, location, ..
    } = decide(&table, &get("/old/x?y", NO_HEADERS), &mut || 0)
    else {
        panic!("no redirect");
    };
    assert_eq!((status, &*location), (308, "http://web.shop/new/x?y"));
    let headers = vec![
        ("origin".to_owned(), "https://ui.example.com".to_owned()),
        ("access-control-request-method".to_owned(), "PUT".to_owned()),
    ];
    let mut request = get("/", &headers);
    request.method = "OPTIONS";
    let Decision::Preflight { headers, .. } = decide(&table, &request, &mut || 0) else {
        panic!("no preflight");
    };
    assert!(headers.iter().any(|(_, value)| value == "PUT"));
    request.method = "PUT";
    let Decision::Forward(forward) = decide(&table, &request, &mut || 0) else {
        panic!("not forwarded");
    };
    assert!(
        forward
            .cors
            .iter()
            .any(|(_, v)| v == "https://ui.example.com")
    );
}

#[test]
fn an_explanation_names_the_clause_that_does_not_hold() {
    let table = table(vec![route(
        "r",
        vec![
            rule(vec![RequestMatch {
                headers: vec![value("version", "v2")],
                ..prefix("/cart")
            }]),
            rule(vec![prefix("/other"), prefix("/")]),
        ],
    )]);
    let reports = explain(&table, &get("/cart/7", NO_HEADERS));
    assert_eq!(reports.len(), 2);
    assert_eq!((reports[0].takes, reports[0].holds()), (None, false));
    let said: Vec<_> = reports[0].alternatives[0]
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        said,
        [
            "yes path is /cart or below",
            "no  header version is v2 (the request has none)",
        ]
    );
    assert_eq!(reports[1].takes, Some(Some(1)), "by its second alternative");
}

/// All matches that hold, by the words of the specification, without any index.
fn by_the_book<'a>(routes: &'a [Route], request: &Request<'_>) -> Option<(&'a str, usize)> {
    let host = request.host();
    let mut holding = Vec::new();
    for route in routes {
        let hosts = route.hostnames.iter().filter(|h| h.matches(&host));
        let specificity = hosts.map(|h| match h {
            HostPattern::Exact(name) => (name.len(), name.len()),
            HostPattern::Below(suffix) => (0, suffix.len() + 1),
        });
        let host = match (route.hostnames.is_empty(), specificity.max()) {
            (true, _) => (0, 0),
            (false, Some(specificity)) => specificity,
            (false, None) => continue,
        };
        for (at, rule) in route.rules.iter().enumerate() {
            for one in rule.matches.iter().filter(|one| one.holds(request)) {
                let path = match &one.path {
                    PathMatch::Exact(_) => (0, 0),
                    PathMatch::Regex(pattern) => (1, pattern.as_str().len()),
                    PathMatch::Prefix(prefix) => (2, prefix.len()),
                    PathMatch::Grpc(_) => unreachable!("none is generated"),
                };
                let order = (
                    Reverse(host),
                    (path.0, Reverse(path.1)),
                    Reverse(one.method.is_some()),
                    Reverse(one.headers.len()),
                    Reverse(one.query.len()),
                    route.created.unwrap_or(u64::MAX),
                    route.key.name.clone(),
                    at,
                );
                holding.push((order, &*route.key.name, at));
            }
        }
    }
    let least = holding.into_iter().min_by(|a, b| a.0.cmp(&b.0))?;
    Some((least.1, least.2))
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..4)
        .prop_map(|segments| format!("/{}", segments.join("/")))
}

fn any_match() -> impl Strategy<Value = RequestMatch> {
    let expressions = vec!["/a.*", "/[ab]/?.*", ".*b", "/a/b"];
    let path = prop_oneof![
        any_path().prop_map(|path| PathMatch::Exact(path.into())),
        any_path().prop_map(|path| PathMatch::prefix(&path)),
        prop::sample::select(expressions)
            .prop_map(|text| PathMatch::Regex(Pattern::new(text).expect("an expression"))),
    ];
    let names = || prop::sample::subsequence(vec!["x", "y"], 0..=2);
    (path, any::<bool>(), names(), names()).prop_map(|(path, get, headers, query)| RequestMatch {
        path,
        method: get.then(|| "GET".into()),
        headers: headers.into_iter().map(|name| value(name, "1")).collect(),
        query: query.into_iter().map(|name| value(name, "1")).collect(),
    })
}

fn any_route() -> impl Strategy<Value = Route> {
    let hosts = vec!["web.shop", "*.shop", "*.web.shop", "eu.web.shop"];
    let rules = prop::collection::vec(prop::collection::vec(any_match(), 1..3), 1..4);
    let created = prop::option::of(0_u64..3);
    (prop::sample::subsequence(hosts, 0..=2), rules, created).prop_map(|(hosts, rules, created)| {
        Route {
            created,
            hostnames: hosts
                .iter()
                .map(|h| HostPattern::parse(h).expect("a host"))
                .collect(),
            ..route("", rules.into_iter().map(rule).collect())
        }
    })
}

proptest! {
    #[test]
    fn the_table_finds_what_the_specification_says(
        mut routes in prop::collection::vec(any_route(), 0..6),
        path in any_path(),
        host in prop::sample::select(vec!["web.shop", "eu.web.shop", "a.eu.web.shop", "shop"]),
        has in prop::collection::vec(any::<bool>(), 4),
        others in prop::collection::vec(any_route(), 0..6),
    ) {
        for (at, route) in routes.iter_mut().enumerate() {
            route.key.name = format!("r{at}").into();
        }
        let mut headers = Vec::new();
        let mut query = Vec::new();
        for (name, at) in [("x", 0), ("y", 1)] {
            if has[at] {
                headers.push((name.to_owned(), "1".to_owned()));
            }
            if has[at + 2] {
                query.push(format!("{name}=1"));
            }
        }
        let query = query.join("&");
        let mut request = get(&path, &headers);
        request.authority = host;
        request.query = Some(&query);
        let wanted = by_the_book(&routes, &request);
        let table = table(routes.clone());
        let got = taken(&table, &request);
        prop_assert_eq!(got.as_ref().map(|(n, at)| (n.as_str(), *at)), wanted);
        let mut changed = Table::default();
        // Others of the same names are replaced, the last of them taken out.
        for (at, mut other) in others.into_iter().enumerate() {
            other.key.name = format!("r{at}").into();
            changed.insert(Arc::new(other));
        }
        for route in &routes {
            changed.insert(Arc::new(route.clone()));
        }
        for at in routes.len()..6 {
            changed.remove(&route(&format!("r{at}"), Vec::new()).key);
        }
        prop_assert_eq!(taken(&changed, &request), got.clone());
        prop_assert_eq!(changed.routes().count(), routes.len());
        let explained = explain(&table, &request);
        let takes = explained.iter().find(|rule| rule.takes.is_some());
        prop_assert_eq!(takes.map(|rule| (&*rule.route.name, rule.rule)), wanted);
    }
}
