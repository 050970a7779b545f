//! Fields of Gateways, their classes and routes that a waypoint does not serve: each is told of in
//! the Gateway API's own condition, and none of them takes a waypoint away.

use translate::deployment::wanted;
use translate::{Objects, Output};

use super::{HBONE, gateway, loaded, replica, said};

fn translated(text: &str) -> (Objects, Output) {
    (loaded(text).0, super::translated(text, &[]))
}

/// That a Gateway is told so, and gets its waypoint all the same.
fn told_and_run(spec: &str, listeners: &str, wanted_line: &str) {
    let (objects, output) = translated(&gateway(spec, listeners));
    let all = said(&output, "Gateway shop/wp");
    assert!(all.contains(wanted_line), "{spec}{listeners}: {all}");
    assert_eq!(wanted(&objects).len(), 1, "{spec}{listeners}");
    let services: Vec<_> = output.services.keys().map(ToString::to_string).collect();
    assert_eq!(services, ["shop/wp.shop.svc.cluster.local"]);
}

#[test]
fn what_a_gateway_asks_for_in_vain_is_told_in_the_conditions_of_the_gateway_api() {
    let reference = "{group: '', kind: ConfigMap, name: big}";
    for (spec, line) in [
        (
            format!("  infrastructure: {{parametersRef: {reference}}}\n"),
            "- Accepted False InvalidParameters: spec.infrastructure.parametersRef",
        ),
        (
            "  addresses: [{type: example.com/pool, value: a}]\n".to_owned(),
            "- Accepted False UnsupportedAddress: spec.addresses: a waypoint has no address of \
             type example.com/pool",
        ),
        (
            "  addresses: [{value: 10.1.2.3}]\n".to_owned(),
            "- Programmed False AddressNotUsable: spec.addresses: 10.1.2.3 cannot be given",
        ),
        (
            "  addresses: [{type: Hostname, value: wp.example}]\n".to_owned(),
            "- Programmed False AddressNotUsable: spec.addresses: wp.example cannot be given",
        ),
        (
            "  tls: {backend: {clientCertificateRef: {name: own}}}\n".to_owned(),
            "- ResolvedRefs False InvalidClientCertificateRef: spec.tls.backend",
        ),
        (
            "  backendTLS: {clientCertificateRef: {name: own}}\n".to_owned(),
            "- ResolvedRefs False InvalidClientCertificateRef: spec.backendTLS",
        ),
        (
            "  tls: {frontend: {default: {}}}\n".to_owned(),
            "- Accepted True Accepted: spec.tls.frontend is ignored",
        ),
        (
            "  allowedListeners: {namespaces: {from: All}}\n".to_owned(),
            "- Accepted True Accepted: spec.allowedListeners is ignored",
        ),
        (
            "  defaultScope: All\n".to_owned(),
            "- Accepted True Accepted: spec.defaultScope is ignored",
        ),
    ] {
        told_and_run(&spec, HBONE, line);
    }
}

#[test]
fn what_a_gateway_has_anyway_or_asks_not_to_have_is_no_mistake() {
    for spec in [
        "",
        "  addresses: [{type: Hostname, value: wp.shop.svc.cluster.local}, {type: IPAddress}]\n",
        "  allowedListeners: {namespaces: {from: None}}\n",
        "  defaultScope: None\n",
        "  infrastructure: {labels: {team: a}}\n",
    ] {
        let (_, output) = translated(&gateway(spec, HBONE));
        let all = said(&output, "Gateway shop/wp");
        assert!(
            all.contains("- Accepted True Accepted: \n"),
            "{spec}: {all}"
        );
        assert!(!all.contains("ResolvedRefs False"), "{spec}: {all}");
        assert!(all.contains("- Programmed False Pending"), "{spec}: {all}");
    }
    // The address that it was given may be asked for.
    let (_, output) = translated(&gateway("", HBONE));
    let own = output.services.values().next().unwrap().addresses[0]
        .cidr
        .addr();
    let (_, output) = translated(&gateway(
        &format!("  addresses: [{{value: {own}}}]\n"),
        HBONE,
    ));
    let all = said(&output, "Gateway shop/wp");
    assert!(all.contains("- Programmed False Pending"), "{all}");
}

#[test]
fn tls_of_a_listener_that_a_waypoint_does_not_do_is_told_at_the_listener() {
    let listener = |protocol: &str, port: u16, tls: &str| {
        format!("{HBONE}  - {{name: more, port: {port}, protocol: {protocol}, tls: {tls}}}\n")
    };
    let refs = "certificateRefs: [{name: own}]";
    for (listeners, line) in [
        (
            listener("TLS", 443, "{mode: Terminate}"),
            "listener more Accepted False UnsupportedValue: tls.mode: a waypoint passes TLS",
        ),
        (
            listener("TLS", 443, &format!("{{{refs}}}")),
            "listener more ResolvedRefs False InvalidCertificateRef: tls.certificateRefs",
        ),
        (
            listener("TLS", 443, &format!("{{mode: Passthrough, {refs}}}")),
            "listener more ResolvedRefs True ResolvedRefs",
        ),
        (
            listener("TLS", 443, "{mode: Passthrough, frontendValidation: {}}"),
            "listener more ResolvedRefs False InvalidCACertificateRef: tls.frontendValidation",
        ),
        (
            listener("HBONE", 15009, "{mode: Passthrough}"),
            "listener more Accepted False UnsupportedValue: tls.mode: a waypoint ends the TLS",
        ),
        (
            listener("HBONE", 15009, &format!("{{mode: Terminate, {refs}}}")),
            "listener more ResolvedRefs False InvalidCertificateRef",
        ),
        (
            listener("HBONE", 15009, "{mode: Terminate, options: {a: b}}"),
            "listener more Accepted True Accepted: attached routes: 0",
        ),
        (
            listener("HTTPS", 443, "{mode: Terminate}"),
            "listener more Accepted False UnsupportedProtocol",
        ),
        (
            listener("HTTPS", 443, "{}"),
            "- Accepted True ListenersNotValid: not all listeners are served: more",
        ),
    ] {
        told_and_run("", &listeners, line);
    }
}

#[test]
fn a_route_is_not_attached_to_a_listener_that_is_not_served() {
    let route = "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TLSRoute\n\
                 metadata: {name: r, namespace: shop}\n\
                 spec: {parentRefs: [{name: wp, sectionName: more}], hostnames: [a.example], \
                 rules: [{backendRefs: [{name: web, port: 443}]}]}\n";
    let at = |mode: &str| {
        let more =
            format!("{HBONE}  - {{name: more, port: 443, protocol: TLS, tls: {{mode: {mode}}}}}\n");
        let (_, output) = translated(&format!("{}{route}", gateway("", &more)));
        (output.routes.len(), said(&output, "TLSRoute shop/r"))
    };
    // It would be passed through, and its author means to have the TLS ended.
    let (routes, all) = at("Terminate");
    assert_eq!(routes, 0);
    assert!(
        all.contains("Accepted False NotAllowedByListeners"),
        "{all}"
    );
    let (routes, all) = at("Passthrough");
    assert_eq!(routes, 1, "{all}");
}

#[test]
fn kinds_of_another_group_are_none_that_a_waypoint_serves() {
    let kinds = "{kinds: [{group: example.com, kind: HTTPRoute}]}";
    let listeners =
        format!("  - {{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {kinds}}}\n");
    told_and_run(
        "",
        &listeners,
        "listener mesh ResolvedRefs False InvalidRouteKinds",
    );
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {name: r, namespace: shop}\nspec: {parentRefs: [{name: wp}]}\n";
    let (_, output) = translated(&format!("{}{route}", gateway("", &listeners)));
    let all = said(&output, "HTTPRoute shop/r");
    assert!(
        all.contains("Accepted False NotAllowedByListeners"),
        "{all}"
    );
}

#[test]
fn labels_and_annotations_of_the_infrastructure_are_those_of_the_waypoints_service_and_pods() {
    // Another Service selects the waypoint's pods by the label.
    let metrics = "apiVersion: v1\nkind: Service\nmetadata: {name: metrics, namespace: shop}\n\
                   spec: {clusterIP: 10.96.0.7, selector: {team: a}, ports: [{port: 80}]}\n---\n";
    let asks = "  infrastructure: {labels: {team: a, \
                gateway.networking.k8s.io/gateway-name: other}}\n";
    let text = format!("{metrics}{}", gateway(asks, HBONE));
    let output = super::translated(&text, &[replica("wp-0", "10.244.1.10", true, false)]);
    let workload = output.workloads.values().next().unwrap();
    let mut of: Vec<_> = workload.services.keys().map(|key| &*key.hostname).collect();
    of.sort_unstable();
    // What makes it a waypoint of this Gateway is not the author's to change.
    assert_eq!(
        of,
        [
            "metrics.shop.svc.cluster.local",
            "wp.shop.svc.cluster.local"
        ]
    );
}

#[test]
fn a_class_of_waypoints_with_parameters_is_told_that_there_are_none() {
    let class = |name: &str, more: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n\
             metadata: {{name: {name}}}\nspec: {{controllerName: culvert.dev/waypoint{more}}}\n"
        )
    };
    let more = ", parametersRef: {group: '', kind: ConfigMap, name: c, namespace: d}";
    let (_, output) = translated(&class("culvert-waypoint", more));
    let all = said(&output, "GatewayClass culvert-waypoint");
    let line = "- Accepted False InvalidParameters: spec.parametersRef: ";
    assert!(
        all.starts_with(line) && all.contains("ConfigMap c"),
        "{all}"
    );
    let (_, output) = translated(&class("istio-waypoint", ", description: ours"));
    assert_eq!(
        said(&output, "GatewayClass istio-waypoint"),
        "- Accepted True Accepted: \n"
    );
    let (_, output) = translated(&class("nginx", more));
    assert_eq!(
        said(&output, "GatewayClass nginx"),
        "",
        "its controller's to say"
    );
    let (_, errors) = loaded(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n\
                              metadata: {name: culvert-waypoint}\n",
    );
    assert_eq!(errors, ["spec.controllerName is missing"]);
}

#[test]
fn a_route_for_default_gateways_hears_that_there_are_none_unless_another_controller_has_one() {
    let route = |scope: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: r, namespace: shop}}\nspec: {{useDefaultGateways: {scope}}}\n---\n"
        )
    };
    let (_, output) = translated(&route("All"));
    let all = said(&output, "HTTPRoute shop/r");
    assert!(
        all.contains("- culvert.dev/Served False NoDefaultGateway"),
        "{all}"
    );
    let (_, output) = translated(&route("None"));
    assert_eq!(said(&output, "HTTPRoute shop/r"), "");
    let other = gateway("  defaultScope: All\n", HBONE).replace("culvert-waypoint", "nginx");
    let (_, output) = translated(&format!("{}{other}", route("All")));
    assert_eq!(said(&output, "HTTPRoute shop/r"), "");
}

#[test]
fn a_gateway_that_the_api_server_would_refuse_is_refused() {
    let two = format!("{HBONE}{HBONE}");
    let of = |protocol: &str, rest: &str| {
        format!("{HBONE}  - {{name: more, port: 80, protocol: {protocol}, {rest}}}\n")
    };
    let tls = "tls: {mode: Passthrough}";
    for (listeners, why) in [
        (
            two,
            "spec.listeners[1]: the name `mesh` is another listener's",
        ),
        (
            of("HTTP", tls),
            "spec.listeners[1]: protocol HTTP has no tls",
        ),
        (of("TCP", tls), "protocol TCP has no tls"),
        (
            of("TCP", "hostname: a.example"),
            "protocol TCP has no hostname",
        ),
        (of("HTTPS", tls), "tls.mode of protocol HTTPS is Terminate"),
        (
            of("TLS", "tls: {mode: Other}"),
            "neither Terminate nor Passthrough",
        ),
    ] {
        let (_, errors) = loaded(&gateway("", &listeners));
        assert!(
            errors.len() == 1 && errors[0].contains(why),
            "{why}: {errors:?}"
        );
    }
    let many: String = (0..65)
        .map(|n| format!("  - {{name: l{n}, port: {}, protocol: HTTP}}\n", 80 + n))
        .collect();
    let (_, errors) = loaded(&gateway("", &many));
    assert!(
        errors[0].contains("spec.listeners has 65 entries, 1 more than the 64"),
        "{errors:?}"
    );
}
