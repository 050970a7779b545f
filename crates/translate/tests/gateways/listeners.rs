//! The status of listeners (Gateway API 1.4, "Distinct Listeners" and `ListenerStatus`).

use translate::Output;
use translate::deployment::wanted;

use super::{HBONE, gateway, loaded, replica, said, translated};

fn listener(name: &str, port: u16, protocol: &str, more: &str) -> String {
    format!("  - {{name: {name}, port: {port}, protocol: {protocol}{more}}}\n")
}

fn with(listeners: &[String]) -> String {
    gateway("", &format!("{HBONE}{}", listeners.concat()))
}

/// The names of conflicted listeners with the reason, and of those that are accepted.
fn verdicts(output: &Output) -> (Vec<String>, Vec<String>) {
    let all = said(output, "Gateway shop/wp");
    let (mut conflicted, mut accepted) = (Vec::new(), Vec::new());
    for line in all.lines() {
        let Some(rest) = line.strip_prefix("listener ") else {
            continue;
        };
        let words: Vec<_> = rest.split([' ', ':']).collect();
        match words[1..4] {
            ["Conflicted", "True", reason] => {
                conflicted.push(format!("{} {reason}", words[0]));
                // The same is said of it by the two other conditions.
                for kind in ["Accepted", "Programmed"] {
                    let same = format!("listener {} {kind} False {reason}: ", words[0]);
                    assert!(all.contains(&same), "{same}\n{all}");
                }
            }
            ["Accepted", "True", _] => accepted.push(words[0].to_owned()),
            _ => {}
        }
    }
    conflicted.sort();
    (conflicted, accepted)
}

#[test]
fn of_listeners_that_cannot_be_told_apart_none_is_served_and_the_others_are() {
    let host = |host: &str| format!(", hostname: '{host}'");
    for (listeners, conflicted) in [
        (
            vec![
                listener("a", 80, "HTTP", &host("A.example")),
                listener("b", 80, "HTTP", &host("a.example")),
                listener("c", 80, "HTTP", &host("*.example")),
                listener("d", 81, "HTTP", &host("a.example")),
            ],
            vec!["a HostnameConflict", "b HostnameConflict"],
        ),
        (
            vec![
                listener("a", 80, "HTTP", ""),
                listener("b", 80, "HTTP", ", hostname: ''"),
                listener("c", 80, "HTTP", &host("a.example")),
            ],
            vec!["a HostnameConflict", "b HostnameConflict"],
        ),
        (
            vec![
                listener("a", 90, "TCP", ""),
                listener("b", 90, "HTTP", &host("a.example")),
                listener("c", 91, "TCP", ""),
            ],
            vec!["a ProtocolConflict", "b ProtocolConflict"],
        ),
        (
            vec![
                listener("a", 90, "TCP", ""),
                listener("b", 90, "TCP", ""),
                listener("c", 15009, "HBONE", ""),
            ],
            vec!["a HostnameConflict", "b HostnameConflict"],
        ),
        // One that is not served for its protocol's sake is in nobody's way.
        (
            vec![
                listener("a", 90, "TCP", ""),
                listener("b", 90, "UDP", ""),
                listener("c", 443, "HTTPS", ""),
                listener("d", 443, "TLS", ", tls: {mode: Passthrough}"),
            ],
            vec![],
        ),
    ] {
        let output = translated(&with(&listeners), &[]);
        let (told, accepted) = verdicts(&output);
        assert_eq!(told, conflicted, "{listeners:?}");
        assert!(accepted.contains(&"mesh".to_owned()), "{listeners:?}");
        let conflicted: Vec<_> = conflicted.iter().map(|text| &text[..1]).collect();
        assert!(accepted.iter().all(|one| !conflicted.contains(&&**one)));
        let all = said(&output, "Gateway shop/wp");
        let gateway = all.lines().find(|line| line.starts_with("- Accepted True"));
        let names = conflicted.iter().map(|name| format!("{name} (conflicted)"));
        let names: Vec<_> = names.collect();
        assert!(gateway.unwrap().contains(&names.join(", ")), "{all}");
    }
}

#[test]
fn a_gateway_without_a_listener_that_is_served_is_not_accepted_and_its_waypoint_runs_on() {
    let text = with(&[listener("other", 15008, "TCP", "")]);
    let output = translated(&text, &[replica("wp-0", "10.244.1.10", true, false)]);
    let all = said(&output, "Gateway shop/wp");
    for line in [
        "- Accepted False ListenersNotValid: no listener is served: mesh (conflicted), other \
         (conflicted)\n",
        "- Programmed True Programmed: ",
        "listener mesh Programmed False ProtocolConflict: port 15008 has another protocol too, \
         by listener other\n",
    ] {
        assert!(all.contains(line), "{line}{all}");
    }
    // What its policies refuse stays refused.
    assert_eq!(wanted(&loaded(&text).0).len(), 1);
}

#[test]
fn a_route_at_a_conflicted_listener_is_not_attached_and_at_another_it_is() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {name: r, namespace: shop}\n\
                 spec: {parentRefs: [{name: wp, sectionName: a}]}\n";
    let (a, b) = (listener("a", 80, "HTTP", ""), listener("b", 80, "TCP", ""));
    let both = format!("{}{route}", with(&[a.clone(), b]));
    let output = translated(&both, &[]);
    assert!(output.routes.is_empty());
    let all = said(&output, "HTTPRoute shop/r");
    let why = "Accepted False NotAllowedByListeners: listener a is not served: port 80 has";
    assert!(all.contains(why), "{all}");
    let output = translated(&format!("{}{route}", with(&[a])), &[]);
    assert_eq!(output.routes.len(), 1);
}

#[test]
fn listeners_say_whether_they_are_programmed_once_a_replica_is_ready() {
    let text = with(&[listener("gone", 443, "HTTPS", "")]);
    let output = translated(&text, &[]);
    let all = said(&output, "Gateway shop/wp");
    assert!(
        all.contains("listener mesh Programmed False Pending"),
        "{all}"
    );
    let output = translated(&text, &[replica("wp-0", "10.244.1.10", true, false)]);
    let all = said(&output, "Gateway shop/wp");
    assert!(
        all.contains("listener mesh Programmed True Programmed"),
        "{all}"
    );
    assert!(
        all.contains("listener gone Programmed False Invalid"),
        "{all}"
    );
}

#[test]
fn the_kinds_of_a_listener_are_those_of_its_protocol_that_it_asks_for() {
    let kinds = |of: &str| format!(", allowedRoutes: {{kinds: [{of}]}}");
    for (listener, supported, resolved) in [
        (listener("x", 80, "HTTP", ""), "HTTPRoute GRPCRoute", true),
        (listener("x", 90, "TCP", ""), "TCPRoute", true),
        (
            listener("x", 443, "TLS", ", tls: {mode: Passthrough}"),
            "TLSRoute",
            true,
        ),
        (
            listener("x", 443, "TLS", ", tls: {mode: Terminate}"),
            "",
            true,
        ),
        (listener("x", 53, "UDP", ""), "", true),
        (
            listener("x", 15009, "HBONE", ""),
            "HTTPRoute GRPCRoute TCPRoute TLSRoute",
            true,
        ),
        (
            listener("x", 80, "HTTP", &kinds("{kind: GRPCRoute}")),
            "GRPCRoute",
            true,
        ),
        // Of a list with some that cannot be, the others are supported.
        (
            listener(
                "x",
                80,
                "HTTP",
                &kinds("{kind: TCPRoute}, {kind: HTTPRoute}"),
            ),
            "HTTPRoute",
            false,
        ),
        (
            listener(
                "x",
                80,
                "HTTP",
                &kinds("{kind: HTTPRoute, group: example.com}"),
            ),
            "",
            false,
        ),
        (
            listener("x", 53, "UDP", &kinds("{kind: UDPRoute}")),
            "",
            false,
        ),
    ] {
        let output = translated(&with(std::slice::from_ref(&listener)), &[]);
        let listeners = output.listeners.values().next().unwrap();
        assert_eq!(listeners[0].name, "mesh");
        let own = listeners[1].supported_kinds.iter();
        assert!(
            own.clone()
                .all(|kind| kind.group == "gateway.networking.k8s.io")
        );
        let own: Vec<_> = own.map(|kind| &*kind.kind).collect();
        assert_eq!(own.join(" "), supported, "{listener}");
        let all = said(&output, "Gateway shop/wp");
        let fails = all.contains("listener x ResolvedRefs False InvalidRouteKinds");
        assert_eq!(fails, !resolved, "{listener}{all}");
    }
}

#[test]
fn routes_are_counted_once_at_each_listener_that_takes_them_and_only_when_they_are_accepted() {
    let route = |kind: &str, name: &str, parents: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: {kind}\n\
             metadata: {{name: {name}, namespace: shop}}\n\
             spec: {{parentRefs: [{parents}], rules: [{{backendRefs: [{{name: v, port: 1}}]}}]}}\n\
             ---\n"
        )
    };
    let listeners = with(&[
        listener("web", 80, "HTTP", ""),
        listener("tcp", 90, "TCP", ""),
    ]);
    let text = [
        listeners,
        // By the whole Gateway and by its listener.
        route("TCPRoute", "a", "{name: wp}, {name: wp, sectionName: tcp}"),
        // The older one by name takes everything.
        route("TCPRoute", "b", "{name: wp, sectionName: tcp}"),
        // None for the protocol.
        route("TCPRoute", "c", "{name: wp, sectionName: web}"),
        route("TLSRoute", "d", "{name: wp}"),
    ];
    let output = translated(&text.concat(), &[]);
    let counts = output.listeners.values().flatten();
    let counts: Vec<_> = counts.map(|l| (&*l.name, l.attached_routes)).collect();
    assert_eq!(counts, [("mesh", 2), ("web", 0), ("tcp", 1)]);
    let all = said(&output, "TCPRoute shop/b");
    assert!(all.contains("Accepted False Conflicted"), "{all}");
    let all = said(&output, "TCPRoute shop/c");
    assert!(
        all.contains("Accepted False NotAllowedByListeners"),
        "{all}"
    );
    let all = said(&output, "Gateway shop/wp");
    let line = "listener mesh Accepted True Accepted: attached routes: 2\n";
    assert!(all.contains(line), "{all}");
}
