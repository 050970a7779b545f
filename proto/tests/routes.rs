//! Routes and policies with targets, there and back: what is written is what is read, and what no
//! route can be is refused by name.

use std::sync::Arc;
use std::time::Duration;

use mesh::policy::StringMatch;
use mesh::policy::targeted::{PolicyTarget, TargetedPolicy};
use mesh::policy::{Action, Clause, Match, Policy, PolicyKey, Rule as PolicyRule, Scope};
use mesh::route::cors::{Cors, Origin};
use mesh::route::filter::{HeaderChanges, Mirror, PathChange, Redirect, Rewrite, Scheme, Share};
use mesh::route::matching::{GrpcMatch, PathMatch, TextMatch, ValueMatch};
use mesh::route::pattern::Pattern;
use mesh::route::stream::{StreamBackend, StreamRoute, StreamRule};
use mesh::route::{
    Backend, Cookie, Filters, GatewayKey, HostPattern, OwnFilters, Persistence, RequestMatch,
    Retry, Route, RouteKey, RouteKind, Rule, SessionToken, Target, Timeouts,
};
use mesh::service::ServiceKey;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message;
use proto::routed::AnyRoute;
use proto::wire::discovery::Resource;
use proto::wire::route as wire;
use proto::{Routed, RoutedName, decode, encode};

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z]{1,8}".prop_map(Arc::from)
}

fn pattern() -> impl Strategy<Value = Pattern> {
    select(vec!["a.*", "[0-9]+", "x|y"]).prop_map(|text| Pattern::new(text).expect("an expression"))
}

fn text_match() -> impl Strategy<Value = TextMatch> {
    prop_oneof![
        text().prop_map(TextMatch::Exact),
        pattern().prop_map(TextMatch::Regex),
    ]
}

fn values() -> impl Strategy<Value = Vec<ValueMatch>> {
    vec((text(), text_match()), 0..3).prop_map(|list| {
        list.into_iter()
            .map(|(name, value)| ValueMatch { name, value })
            .collect()
    })
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    let path = || "(/[a-z]{1,3}){1,3}";
    let grpc = (option::of(text_match()), option::of(text_match()));
    prop_oneof![
        path().prop_map(|path| PathMatch::Exact(path.into())),
        path().prop_map(|path| PathMatch::prefix(&path)),
        Just(PathMatch::default()),
        pattern().prop_map(PathMatch::Regex),
        grpc.prop_map(|(service, method)| PathMatch::Grpc(GrpcMatch { service, method })),
    ]
}

fn one_match() -> impl Strategy<Value = RequestMatch> {
    (path_match(), option::of(text()), values(), values()).prop_map(
        |(path, method, headers, query)| RequestMatch {
            path,
            method,
            headers,
            query,
        },
    )
}

fn changes() -> impl Strategy<Value = HeaderChanges> {
    let pairs = || vec((text(), text()), 0..3);
    (pairs(), pairs(), vec(text(), 0..3)).prop_map(|(set, add, remove)| HeaderChanges {
        set,
        add,
        remove,
    })
}

fn path_change() -> impl Strategy<Value = PathChange> {
    prop_oneof![
        text().prop_map(PathChange::Full),
        text().prop_map(PathChange::Prefix),
    ]
}

fn redirect() -> impl Strategy<Value = Redirect> {
    (
        option::of(select(vec![Scheme::Http, Scheme::Https])),
        option::of(text()),
        option::of(1_u16..),
        option::of(path_change()),
        select(vec![301_u16, 302, 303, 307, 308]),
    )
        .prop_map(|(scheme, host, port, path, status)| Redirect {
            scheme,
            host,
            port,
            path,
            status,
        })
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (text(), text(), 1_u16..).prop_map(|(namespace, hostname, port)| Target::Service {
            service: ServiceKey {
                namespace,
                hostname,
            },
            port,
        }),
        text().prop_map(Target::Invalid),
    ]
}

fn cors() -> impl Strategy<Value = Cors> {
    let origin = prop_oneof![
        Just(Origin::Any),
        (text(), option::of(text())).prop_map(|(before, behind)| Origin::Like { before, behind }),
    ];
    let texts = || vec(text(), 0..3);
    (
        vec(origin, 0..3),
        any::<bool>(),
        texts(),
        texts(),
        texts(),
        any::<u32>(),
    )
        .prop_map(
            |(origins, credentials, methods, headers, expose, max_age_seconds)| Cors {
                origins,
                credentials,
                methods,
                headers,
                expose,
                max_age_seconds,
            },
        )
}

fn filters() -> impl Strategy<Value = OwnFilters> {
    let mirror =
        (target(), 0_u32..5, 5_u32..9).prop_map(|(target, numerator, denominator)| Mirror {
            target,
            share: Share {
                numerator,
                denominator,
            },
        });
    let rewrite = (option::of(text()), option::of(path_change()));
    let rewrite = rewrite.prop_map(|(host, path)| Rewrite { host, path });
    (
        changes(),
        changes(),
        option::of(redirect()),
        option::of(rewrite),
        vec(mirror, 0..3),
        option::of(cors()),
        option::of(text()),
    )
        .prop_map(
            |(request, response, redirect, rewrite, mirrors, cors, unusable)| {
                let filters = Filters {
                    request_headers: request,
                    response_headers: response,
                    redirect,
                    rewrite,
                    mirrors,
                    cors,
                    unusable,
                };
                filters.into()
            },
        )
}

fn duration() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_nanos)
}

fn persistence() -> impl Strategy<Value = Persistence> {
    let tokens = vec![
        SessionToken::Cookie(Cookie::Session),
        SessionToken::Cookie(Cookie::Permanent),
        SessionToken::Header,
    ];
    (
        text(),
        select(tokens),
        option::of(duration()),
        option::of(duration()),
    )
        .prop_map(
            |(name, token, absolute_timeout, idle_timeout)| Persistence {
                name,
                token,
                absolute_timeout,
                idle_timeout,
            },
        )
}

fn retry() -> impl Strategy<Value = Retry> {
    (vec(400_u16..600, 0..4), any::<u32>(), duration()).prop_map(|(codes, attempts, backoff)| {
        Retry {
            codes,
            attempts,
            backoff,
        }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let backend = (target(), 0_u32..=1_000_000, filters());
    let backend = backend.prop_map(|(target, weight, filters)| Backend {
        target,
        weight,
        filters,
    });
    let timeouts = (option::of(duration()), option::of(duration()));
    (
        (0_usize..16, option::of(text())),
        vec(one_match(), 0..3),
        filters(),
        vec(backend, 0..3),
        timeouts,
        option::of(retry()),
        option::of(persistence()),
    )
        .prop_map(
            |(named, matches, filters, backends, timeouts, retry, persistence)| Rule {
                place: named.0,
                name: named.1,
                matches,
                filters,
                backends,
                timeouts: Timeouts {
                    request: timeouts.0,
                    backend_request: timeouts.1,
                },
                retry,
                persistence,
            },
        )
}

fn hostnames() -> impl Strategy<Value = Vec<HostPattern>> {
    let hosts = vec!["a.example", "*.example", "b.a.example"];
    proptest::sample::subsequence(hosts, 0..=3).prop_map(|hosts| {
        hosts
            .iter()
            .map(|host| HostPattern::parse(host).expect("a host"))
            .collect()
    })
}

fn stream_rule() -> impl Strategy<Value = StreamRule> {
    let backend = (target(), 0_u32..=1_000_000);
    let backend = backend.prop_map(|(target, weight)| StreamBackend { target, weight });
    (0_usize..16, option::of(text()), vec(backend, 0..3)).prop_map(|(place, name, backends)| {
        StreamRule {
            place,
            name,
            backends,
        }
    })
}

fn key(kinds: [RouteKind; 2]) -> impl Strategy<Value = RouteKey> {
    (select(kinds.to_vec()), text(), text()).prop_map(|(kind, namespace, name)| RouteKey {
        kind,
        namespace,
        name,
    })
}

fn routed() -> impl Strategy<Value = Routed> {
    let created = || option::of(any::<u64>());
    let http = key([RouteKind::Http, RouteKind::Grpc]);
    let http = (http, created(), hostnames(), vec(rule(), 1..3)).prop_map(
        |(key, created, hostnames, rules)| {
            AnyRoute::Http(Arc::new(Route {
                key,
                created,
                hostnames,
                rules,
            }))
        },
    );
    let stream = key([RouteKind::Tls, RouteKind::Tcp]);
    let stream = (stream, created(), hostnames(), vec(stream_rule(), 1..3)).prop_map(
        |(key, created, hostnames, rules)| {
            AnyRoute::Stream(Arc::new(StreamRoute {
                key,
                created,
                hostnames,
                rules,
            }))
        },
    );
    let parents = vec![
        "service/shop/web.shop.svc/80",
        "consumer/bank/shop/web.shop.svc/80",
        "gateway/shop/waypoint",
    ];
    (select(parents), prop_oneof![http, stream]).prop_map(|(parent, route)| Routed {
        parent: parent.parse().expect("a parent"),
        route,
    })
}

fn target_policy() -> impl Strategy<Value = TargetedPolicy> {
    let target = prop_oneof![
        (text(), text()).prop_map(|(namespace, hostname)| {
            PolicyTarget::Service(ServiceKey {
                namespace,
                hostname,
            })
        }),
        (text(), text())
            .prop_map(|(namespace, name)| PolicyTarget::Gateway(GatewayKey { namespace, name })),
    ];
    (
        text(),
        text(),
        vec(target, 0..3),
        option::of(text()),
        any::<bool>(),
    )
        .prop_map(|(namespace, name, targets, unenforceable, deny)| {
            let matches = vec![Match {
                principals: vec![StringMatch::Prefix(name.clone())],
                destination_ports: vec![80],
                ..Match::default()
            }];
            let clauses = vec![Clause { matches }];
            TargetedPolicy {
                policy: Policy {
                    key: PolicyKey { namespace, name },
                    scope: Scope::WorkloadSelector,
                    action: if deny { Action::Deny } else { Action::Allow },
                    rules: vec![PolicyRule { clauses }],
                    dry_run: deny,
                },
                targets,
                unenforceable,
                audit: deny,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_route_that_is_written_is_read_the_same(routed in routed()) {
        let resource = encode::routed(&routed, "1");
        let name: RoutedName = resource.name.parse().unwrap();
        prop_assert_eq!(&name, &routed.name());
        prop_assert_eq!(decode::routed(&resource).unwrap(), routed);
    }

    #[test]
    fn a_policy_that_is_written_is_read_the_same(policy in target_policy()) {
        let resource = encode::target_policy(&policy, "1");
        prop_assert_eq!(decode::target_policy(&resource).unwrap(), policy);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        routed in routed(), at in any::<usize>(), byte in any::<u8>(),
    ) {
        let mut resource = encode::routed(&routed, "1");
        let bytes = &mut resource.resource.as_mut().unwrap().value;
        let at = at % bytes.len();
        bytes[at] = byte;
        // What is read is what would be written, but for an order or a default of the wire.
        if let Ok(read) = decode::routed(&resource) {
            prop_assert_eq!(decode::routed(&encode::routed(&read, "1")).unwrap(), read);
        }
        let bytes = &mut resource.resource.as_mut().unwrap().value;
        bytes.truncate(at);
        let _ = decode::routed(&resource);
    }
}

/// A plain route with one rule that has one match, one filter and one backend.
fn message() -> wire::Route {
    let service = wire::ServicePort {
        namespace: "shop".to_owned(),
        hostname: "web".to_owned(),
        port: 80,
    };
    let target = wire::Target {
        target: Some(wire::target::Target::Service(service)),
    };
    let changes = wire::HeaderChanges {
        set: vec![wire::Header {
            name: "x-a".to_owned(),
            value: "1".to_owned(),
        }],
        ..Default::default()
    };
    wire::Route {
        parent: "gateway/shop/wp".to_owned(),
        kind: "HTTPRoute".to_owned(),
        namespace: "shop".to_owned(),
        name: "r".to_owned(),
        rules: vec![wire::Rule {
            matches: vec![wire::Match {
                path: Some(wire::r#match::Path::Prefix("/a".to_owned())),
                ..Default::default()
            }],
            filters: Some(wire::Filters {
                request_headers: Some(changes),
                ..Default::default()
            }),
            backends: vec![wire::Backend {
                target: Some(target),
                weight: 1,
                filters: None,
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn read(message: &wire::Route) -> Result<Routed, String> {
    let resource = Resource {
        name: "gateway/shop/wp/HTTPRoute/shop/r".to_owned(),
        resource: Some(prost_types::Any {
            type_url: proto::ROUTE_TYPE_URL.to_owned(),
            value: message.encode_to_vec(),
        }),
        ..Default::default()
    };
    decode::routed(&resource).map_err(|error| error.to_string())
}

type Spoil = fn(&mut wire::Route);

#[test]
fn what_no_route_can_be_is_refused_with_its_field() {
    assert!(read(&message()).is_ok());
    let spoiled: [(Spoil, &str); 14] = [
        (|m| m.parent = "gateway/shop".to_owned(), "parent"),
        (|m| m.kind = "UDPRoute".to_owned(), "kind"),
        (|m| m.name.clear(), "name"),
        (|m| m.name = "other".to_owned(), "name"),
        (|m| m.hostnames = vec!["a b".to_owned()], "hostnames[0]"),
        (|m| m.rules.clear(), "rules"),
        (
            |m| m.rules = vec![m.rules[0].clone(); 17],
            "rules: is more than 16",
        ),
        (
            |m| m.rules[0].matches = vec![m.rules[0].matches[0].clone(); 129],
            "more than 128",
        ),
        (
            |m| m.rules[0].matches[0].path = None,
            "rules[0].matches[0].path",
        ),
        (
            |m| m.rules[0].matches[0].path = Some(wire::r#match::Path::Regex("(".to_owned())),
            "rules[0].matches[0].regex",
        ),
        (
            |m| m.rules[0].backends[0].weight = 1_000_001,
            "rules[0].backends[0].weight",
        ),
        (
            |m| m.rules[0].backends[0].target = None,
            "rules[0].backends[0].target",
        ),
        (
            |m| header(m).name = "X A".to_owned(),
            "filters.request_headers.set[0].name",
        ),
        (
            |m| header(m).value = "1\r\nx: 2".to_owned(),
            "filters.request_headers.set[0].value",
        ),
    ];
    for (spoil, field) in spoiled {
        let mut message = message();
        spoil(&mut message);
        let error = read(&message).unwrap_err();
        assert!(
            error.contains(field) && error.contains("shop/r"),
            "{error}, not {field}"
        );
    }
}

fn header(message: &mut wire::Route) -> &mut wire::Header {
    let filters = message.rules[0]
        .filters
        .as_mut()
        .expect("the filter of the plain route");
    &mut filters
        .request_headers
        .as_mut()
        .expect("the filter of the plain route")
        .set[0]
}
