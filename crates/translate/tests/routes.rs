//! Manifests with routes to the routes of each parent, and what the routes' conditions say.

#![allow(clippy::unwrap_used)] // The helpers are tests too.

use std::time::Duration;

use mesh::route::filter::{PathChange, Share};
use mesh::route::matching::{GrpcMatch, PathMatch, TextMatch};
use mesh::route::{Cookie, ParentKey, Route, SessionToken, Target};
use translate::{Allocations, Collection, Input, Options, Output, translate};

/// Services `web` and `v2` in `shop`, `pay` in `bank`, a waypoint, and namespaces.
const GROUND: &str = r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}
- {apiVersion: v1, kind: Namespace, metadata: {name: bank}}
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}
  spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: admin, port: 81}]}
- apiVersion: v1
  kind: Service
  metadata: {name: v2, namespace: shop}
  spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
- apiVersion: v1
  kind: Service
  metadata: {name: pay, namespace: bank}
  spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}
- apiVersion: v1
  kind: Service
  metadata: {name: bare, namespace: shop}
  spec: {clusterIP: None, ports: [{port: 80}]}
- apiVersion: v1
  kind: Service
  metadata:
    name: waypoint
    namespace: shop
    labels: {gateway.networking.k8s.io/gateway-name: waypoint}
  spec: {clusterIP: 10.96.0.4, ports: [{port: 15008}]}
- apiVersion: gateway.networking.k8s.io/v1
  kind: Gateway
  metadata: {name: waypoint, namespace: shop}
  spec:
    gatewayClassName: istio-waypoint
    listeners: [{name: mesh, port: 15008, protocol: HBONE}]
- apiVersion: gateway.networking.k8s.io/v1
  kind: Gateway
  metadata: {name: edge, namespace: shop}
  spec:
    gatewayClassName: somebody-elses
    listeners: [{name: http, port: 80, protocol: HTTP}]
"#;

fn translated(text: &str) -> Output {
    let mut collection = Collection::default();
    collection.load("a.yaml", GROUND);
    collection.load("b.yaml", text);
    let (objects, errors) = collection.objects();
    assert!(errors.is_empty(), "{errors:?}");
    translate(&Input {
        objects: &objects,
        reports: &[],
        vips: &Allocations::new(),
        options: &Options::default(),
    })
}

/// What a document is refused with.
fn refusal(text: &str) -> String {
    let mut collection = Collection::default();
    collection.load("b.yaml", text);
    let (_, errors) = collection.objects();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].reason.clone()
}

/// `parents` and `rest` of the spec, in flow style.
fn http(name: &str, parents: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: {name}, namespace: shop}}\n\
         spec: {{parentRefs: [{parents}], {rest}}}\n"
    )
}

const WEB: &str = r#"{group: "", kind: Service, name: web}"#;

/// Every condition of an object in one line each.
fn said(output: &Output, object: &str) -> Vec<String> {
    let all = output.statuses.iter();
    all.filter(|(key, _)| key.to_string() == object)
        .flat_map(|(_, conditions)| conditions)
        .map(|c| {
            let parent = c.parent.as_deref().unwrap_or("-");
            format!(
                "{} {:?} {} at {parent}: {}",
                c.kind, c.status, c.reason, c.message
            )
        })
        .collect()
}

/// The keys in words.
fn parents(output: &Output) -> Vec<String> {
    let words = |key: &ParentKey| match key {
        ParentKey::Producer(to) => format!("{}:{}", to.service.hostname, to.port),
        ParentKey::Consumer(from, to) => format!("{}:{} for {from}", to.service.hostname, to.port),
        ParentKey::Gateway(name) => format!("gateway {name}"),
    };
    output.routes.keys().map(words).collect()
}

fn only_route(output: &Output) -> &Route {
    output.routes.values().next().unwrap().http.first().unwrap()
}

#[test]
fn a_route_for_a_service_is_for_all_its_ports_or_for_the_one_it_names() {
    let web = "web.shop.svc.cluster.local";
    for (parent, wanted) in [
        (WEB, vec![format!("{web}:80"), format!("{web}:81")]),
        (
            r#"{group: "", kind: Service, name: web, port: 81}"#,
            vec![format!("{web}:81")],
        ),
        (
            r#"{group: "", kind: Service, name: web, sectionName: http}"#,
            vec![format!("{web}:80")],
        ),
        (
            r#"{group: "", kind: Service, name: pay, namespace: bank}"#,
            vec!["pay.bank.svc.cluster.local:80 for shop".to_owned()],
        ),
        ("{name: waypoint}", vec!["gateway shop/waypoint".to_owned()]),
        (
            "{name: waypoint, sectionName: mesh, port: 15008}",
            vec!["gateway shop/waypoint".to_owned()],
        ),
    ] {
        let text = http(
            "r",
            parent,
            "rules: [{backendRefs: [{name: v2, port: 80}]}]",
        );
        let output = translated(&text);
        assert_eq!(parents(&output), wanted, "{parent}");
        let said = said(&output, "HTTPRoute shop/r");
        // Nothing is said of a waypoint at the Service that has one.
        let alone = parent.contains("pay");
        assert_eq!(said.len(), 2 + usize::from(alone), "{said:?}");
        let unserved = said.iter().filter(|one| one.contains("False NoWaypoint"));
        assert_eq!(unserved.count(), usize::from(alone));
        assert!(
            said[..2].iter().all(|one| one.contains(" True ")),
            "{said:?}"
        );
    }
}

#[test]
fn a_parent_that_is_not_there_is_said_and_one_of_others_is_not_spoken_of() {
    let rules = "rules: [{backendRefs: [{name: v2, port: 80}]}]";
    for (parent, reason) in [
        (
            r#"{group: "", kind: Service, name: gone}"#,
            "NoMatchingParent",
        ),
        (
            r#"{group: "", kind: Service, name: bare}"#,
            "NoMatchingParent",
        ),
        (
            r#"{group: "", kind: Service, name: web, port: 9}"#,
            "NoMatchingParent",
        ),
        ("{name: waypoint, sectionName: other}", "NoMatchingParent"),
    ] {
        let output = translated(&http("r", parent, rules));
        let said = said(&output, "HTTPRoute shop/r");
        assert!(
            said[0].starts_with(&format!("Accepted False {reason} at ")),
            "{said:?}"
        );
        assert!(output.routes.is_empty());
    }
    for parent in [
        "{name: edge}",
        "{name: nowhere}",
        "{group: x.io, kind: Mesh, name: web}",
    ] {
        let output = translated(&http("r", parent, rules));
        assert!(said(&output, "HTTPRoute shop/r").is_empty(), "{parent}");
        assert!(output.routes.is_empty());
    }
}

#[test]
fn a_waypoint_takes_routes_of_its_own_namespace_unless_it_says_otherwise() {
    let gateway = |allowed: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
             metadata: {{name: gw, namespace: bank}}\n\
             spec: {{gatewayClassName: culvert-waypoint, listeners: \
             [{{name: mesh, port: 15008, protocol: HBONE, hostname: '*.shop.io'{allowed}}}]}}\n"
        )
    };
    let from = |from: &str| format!(", allowedRoutes: {{namespaces: {from}}}");
    let rules = "rules: [{backendRefs: [{name: v2, port: 80}]}]";
    for (allowed, hosts, taken) in [
        (String::new(), "", Err("NotAllowedByListeners")),
        (from("{from: All}"), "", Ok("*.shop.io")),
        (
            from("{from: Selector, selector: {matchLabels: {team: a}}}"),
            "hostnames: [eu.shop.io, other.io],",
            Ok("eu.shop.io"),
        ),
        (
            from("{from: Selector, selector: {matchLabels: {team: b}}}"),
            "",
            Err("NotAllowedByListeners"),
        ),
        (
            from(
                "{from: Selector, selector: {matchLabels: {team: a}, \
                 matchExpressions: [{key: team, operator: NotIn, values: [c, a]}]}}",
            ),
            "",
            Err("NotAllowedByListeners"),
        ),
        (
            from(
                "{from: Selector, selector: {matchExpressions: \
                 [{key: team, operator: In, values: [b, a]}, {key: team, operator: Exists}, \
                 {key: other, operator: DoesNotExist}]}}",
            ),
            "",
            Ok("*.shop.io"),
        ),
        (
            from("{from: All}"),
            "hostnames: [other.io],",
            Err("NoMatchingListenerHostname"),
        ),
    ] {
        let route = http(
            "r",
            "{name: gw, namespace: bank}",
            &format!("{hosts}{rules}"),
        );
        let output = translated(&format!("{}{route}", gateway(&allowed)));
        let said = said(&output, "HTTPRoute shop/r");
        match taken {
            Ok(host) => {
                let hosts = &only_route(&output).hostnames;
                let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
                assert_eq!(hosts, [host]);
            }
            Err(reason) => {
                assert!(output.routes.is_empty());
                assert!(said[0].contains(reason), "{said:?}");
            }
        }
    }
}

#[test]
fn a_reference_that_leads_nowhere_keeps_its_share_and_is_said() {
    for (backend, reason) in [
        ("{name: gone, port: 80}", "BackendNotFound"),
        ("{name: v2, port: 9}", "BackendNotFound"),
        ("{name: pay, namespace: bank, port: 80}", "RefNotPermitted"),
        ("{kind: Bucket, name: b, group: x.io}", "InvalidKind"),
    ] {
        let rest = format!("rules: [{{backendRefs: [{{name: v2, port: 80}}, {backend}]}}]");
        let output = translated(&http("r", WEB, &rest));
        let backends = &only_route(&output).rules[0].backends;
        assert!(matches!(backends[0].target, Target::Service { .. }));
        assert!(
            matches!(backends[1].target, Target::Invalid(_)),
            "{backend}"
        );
        let said = said(&output, "HTTPRoute shop/r");
        let wanted = format!("ResolvedRefs False {reason} at Service shop/web");
        assert!(said.iter().any(|one| one.starts_with(&wanted)), "{said:?}");
    }
}

#[test]
fn a_reference_grant_lets_a_route_lead_into_another_namespace() {
    let grant = |from: &str, to: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
             metadata: {{name: g, namespace: bank}}\nspec: {{from: [{from}], to: [{to}]}}\n"
        )
    };
    let from = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}";
    let other = "{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: shop}";
    let backend = "rules: [{backendRefs: [{name: pay, namespace: bank, port: 80}]}]";
    for (grant, may) in [
        (grant(from, r#"{group: "", kind: Service}"#), true),
        (
            grant(from, r#"{group: "", kind: Service, name: pay}"#),
            true,
        ),
        (
            grant(from, r#"{group: "", kind: Service, name: web}"#),
            false,
        ),
        (grant(from, r#"{group: "", kind: Secret}"#), false),
        (grant(other, r#"{group: "", kind: Service}"#), false),
    ] {
        let output = translated(&format!("{grant}{}", http("r", WEB, backend)));
        let target = &only_route(&output).rules[0].backends[0].target;
        assert_eq!(matches!(target, Target::Service { .. }), may, "{grant}");
    }
}

#[test]
fn a_consumers_route_needs_no_grant_for_the_service_that_is_its_only_parent() {
    let pay = "{group: '', kind: Service, name: pay, namespace: bank}";
    let web = "{group: '', kind: Service, name: web}";
    for (parents, backend, may) in [
        (pay.to_owned(), "pay", true),
        (pay.to_owned(), "vault", false),
        // The clients of web did not ask for pay.
        (format!("{pay}, {web}"), "pay", false),
        (web.to_owned(), "pay", false),
    ] {
        let route = format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: r, namespace: shop}}\nspec: {{parentRefs: [{parents}], rules: \
             [{{backendRefs: [{{name: {backend}, namespace: bank, port: 80}}]}}]}}\n"
        );
        let output = translated(&route);
        let refused = said(&output, "HTTPRoute shop/r")
            .iter()
            .any(|one| one.starts_with("ResolvedRefs False RefNotPermitted"));
        assert_eq!(!refused, may, "{parents}: {backend}");
    }
}

#[test]
fn kinds_are_not_mixed_at_one_port() {
    let grpc = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\n\
                metadata: {name: g, namespace: shop}\n\
                spec: {parentRefs: [{group: '', kind: Service, name: web, port: 80}], rules: \
                [{matches: [{method: {service: pkg.Echo}}], \
                backendRefs: [{name: v2, port: 80}]}]}\n";
    let http = http("h", WEB, "rules: [{backendRefs: [{name: v2, port: 80}]}]");
    let output = translated(&format!("{grpc}{http}"));
    let kinds: Vec<_> = output
        .routes
        .values()
        .map(|routes| {
            routes
                .http
                .iter()
                .map(|r| r.key.to_string())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(
        kinds,
        [["GRPCRoute shop/g"], ["HTTPRoute shop/h"]],
        "80, then 81"
    );
    let said = said(&output, "HTTPRoute shop/h");
    assert!(
        said.iter()
            .any(|one| one.starts_with("Accepted False Conflicted")),
        "{said:?}"
    );
    let service = &output.routes.values().next().unwrap().http[0].rules[0].matches[0].path;
    let echo = GrpcMatch {
        service: Some(TextMatch::Exact("pkg.Echo".into())),
        method: None,
    };
    assert_eq!(service, &PathMatch::Grpc(echo));
}

#[test]
fn a_rule_that_is_not_served_is_dropped_and_said() {
    let rules = "rules: [{matches: [{path: {type: RegularExpression, value: '('}}]}, \
                 {backendRefs: [{name: v2, port: 80}]}]";
    let output = translated(&http("r", WEB, rules));
    let route = only_route(&output);
    assert_eq!((route.rules.len(), route.rules[0].place), (1, 1));
    let said_of = said(&output, "HTTPRoute shop/r");
    let partly = said_of
        .iter()
        .find(|one| one.starts_with("PartiallyInvalid"));
    let partly = partly.unwrap();
    assert!(partly.contains("True UnsupportedValue"), "{partly}");
    assert!(
        partly.contains(": Dropped Rule: rules[0]: matches[0]: `(`"),
        "{partly}"
    );

    let alone = "rules: [{matches: [{path: {type: Glob, value: '*'}}]}]";
    let output = translated(&http("r", WEB, alone));
    assert!(output.routes.is_empty());
    let said = said(&output, "HTTPRoute shop/r");
    assert!(
        said[0].starts_with("Accepted False UnsupportedValue"),
        "{said:?}"
    );
}

#[test]
fn all_fields_of_a_rule_arrive() {
    let rules = r#"rules: [{name: canary,
        matches: [{path: {value: /api}, method: POST,
          headers: [{name: X-A, value: "1"}, {name: x-a, value: "2"}],
          queryParams: [{name: Q, value: v, type: RegularExpression}]}],
        filters: [
          {type: RequestHeaderModifier, requestHeaderModifier:
            {set: [{name: A, value: b}], add: [{name: C, value: d}], remove: [E]}},
          {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Server]}},
          {type: URLRewrite, urlRewrite:
            {hostname: inner.io, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}},
          {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 5}},
          {type: RequestMirror, requestMirror:
            {backendRef: {name: v2, port: 80}, fraction: {numerator: 1, denominator: 1000}}},
          {type: CORS, cors:
            {allowOrigins: ["https://*.ui.io"], allowMethods: [PUT], allowCredentials: true}}],
        backendRefs: [{name: v2, port: 80, weight: 0, filters:
          [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: v, value: "2"}]}}]}],
        timeouts: {request: 10s, backendRequest: 500ms},
        retry: {codes: [503], attempts: 4, backoff: 10ms},
        sessionPersistence: {type: Cookie, absoluteTimeout: 1h,
          cookieConfig: {lifetimeType: Permanent}}}]"#;
    let output = translated(&http("r", WEB, rules));
    let rule = &only_route(&output).rules[0];
    assert_eq!(rule.name.as_deref(), Some("canary"));
    let one = &rule.matches[0];
    assert_eq!(one.path, PathMatch::prefix("/api"));
    assert_eq!(one.method.as_deref(), Some("POST"));
    assert_eq!(one.headers.len(), 1, "of equal names the first counts");
    assert_eq!(
        (&*one.headers[0].name, one.headers[0].value.as_str()),
        ("x-a", "1")
    );
    assert!(matches!(one.query[0].value, TextMatch::Regex(_)) && &*one.query[0].name == "Q");
    let filters = &rule.filters;
    assert_eq!(filters.request_headers.set, [("a".into(), "b".into())]);
    assert_eq!(filters.request_headers.add, [("c".into(), "d".into())]);
    assert_eq!(filters.request_headers.remove, ["e".into()]);
    assert_eq!(filters.response_headers.remove, ["server".into()]);
    let rewrite = filters.rewrite.as_ref().unwrap();
    assert_eq!(rewrite.host.as_deref(), Some("inner.io"));
    assert_eq!(rewrite.path, Some(PathChange::Prefix("/".into())));
    let shares: Vec<_> = filters.mirrors.iter().map(|mirror| mirror.share).collect();
    let share = |numerator, denominator| Share {
        numerator,
        denominator,
    };
    assert_eq!(shares, [share(5, 100), share(1, 1_000)]);
    assert!(filters.cors.as_ref().unwrap().credentials);
    let backend = &rule.backends[0];
    assert_eq!(
        (backend.weight, backend.filters.request_headers.set.len()),
        (0, 1)
    );
    assert_eq!(rule.timeouts.request, Some(Duration::from_secs(10)));
    assert_eq!(
        rule.timeouts.backend_request,
        Some(Duration::from_millis(500))
    );
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!((&retry.codes[..], retry.attempts), (&[503][..], 4));
    let session = rule.persistence.as_ref().unwrap();
    assert_eq!(session.token, SessionToken::Cookie(Cookie::Permanent));
}

#[test]
fn what_the_api_server_would_refuse_is_refused_with_its_place() {
    for (rest, wanted) in [
        ("rules: [{backendRefs: [{name: v2}]}]", "needs a port"),
        ("rules: [{matches: [{path: {value: a}}]}]", "begin with /"),
        ("rules: [{matches: [{method: FETCH}]}]", "`FETCH`"),
        (
            "rules: [{matches: [{headers: [{name: 'a b', value: c}]}]}]",
            "`a b`",
        ),
        ("rules: [{timeouts: {request: 1.5s}}]", "`1.5s`"),
        (
            "rules: [{timeouts: {request: 1s, backendRequest: 2s}}]",
            "longer",
        ),
        ("rules: [{retry: {codes: [200]}}]", "200"),
        (
            "rules: [{filters: [{type: URLRewrite, urlRewrite: {}}, \
             {type: URLRewrite, urlRewrite: {}}]}]",
            "twice",
        ),
        ("rules: [{filters: [{type: URLRewrite}]}]", "missing"),
        (
            "rules: [{filters: [{type: RequestRedirect, requestRedirect: {}}], \
             backendRefs: [{name: v2, port: 80}]}]",
            "exclude",
        ),
        (
            "rules: [{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, \
             urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]}]",
            "exactly one match",
        ),
        (
            "rules: [{filters: [{type: RequestMirror, requestMirror: \
             {backendRef: {name: v2, port: 80}, percent: 101}}]}]",
            "more than all",
        ),
        (
            "rules: [{backendRefs: [{name: v2, port: 80, weight: 1000001}]}]",
            "weight",
        ),
        ("rules: [{name: a}, {name: a}]", "`a`"),
        ("hostnames: [10.0.0.1]", "10.0.0.1"),
        ("rules: [{matchs: []}]", "matchs"),
    ] {
        let why = refusal(&http("r", WEB, rest));
        assert!(why.contains(wanted), "{rest}: {why}");
    }
    let many = vec!["{}"; 17].join(", ");
    let why = refusal(&http("r", WEB, &format!("rules: [{many}]")));
    let wanted = "spec.rules has 17 entries, 1 more than the 16";
    assert!(why.contains(wanted), "{why}");
}

#[test]
fn a_filter_that_is_not_served_fails_requests_instead_of_being_skipped() {
    for (filter, name) in [
        (
            "{type: ExtensionRef, extensionRef: {group: x.io, kind: Wasm, name: w}}",
            "ExtensionRef Wasm w",
        ),
        (
            "{type: ExternalAuth, externalAuth: {protocol: HTTP}}",
            "ExternalAuth",
        ),
    ] {
        let rest =
            format!("rules: [{{filters: [{filter}], backendRefs: [{{name: v2, port: 80}}]}}]");
        let output = translated(&http("r", WEB, &rest));
        let unusable = only_route(&output).rules[0].filters.unusable.as_deref();
        assert_eq!(unusable, Some(name));
        let said = said(&output, "HTTPRoute shop/r");
        assert!(said.iter().any(|one| one.contains(name)), "{said:?}");
    }
}
