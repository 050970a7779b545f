//! Waypoints that nobody made by hand, and routes for streams.

use mesh::HBONE_PORT;
use mesh::route::{ParentKey, Target};
use mesh::service::{GatewayDestination, ServiceKey};
use mesh::workload::{Health, TunnelProtocol, Workload, WorkloadUid};
use translate::{Collection, Output};

use super::{replica, translated};

const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.80
  selector: {app: web}
  ports: [{port: 80, name: http}, {port: 443, name: tls}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node-a}
status: {podIP: 10.244.1.2}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
";

fn workload<'a>(output: &'a Output, name: &str) -> Option<&'a Workload> {
    let uid = WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into());
    output.workloads.get(&uid)
}

fn key(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: "shop".into(),
        hostname: format!("{name}.shop.svc.cluster.local").into(),
    }
}

/// Conditions of one kind of an object, one a line.
fn said(output: &Output, object: &str, kind: &str) -> String {
    let all = super::said(output, object);
    let lines = all.lines().filter_map(|line| {
        let (at, rest) = line.split_once(&format!(" {kind} "))?;
        Some(format!("{at}: {}\n", rest.replacen(": ", " ", 1)))
    });
    lines.collect()
}

/// The condition of the Gateway itself.
fn own_programmed(output: &Output) -> String {
    let all = said(output, "Gateway shop/wp", "Programmed");
    let own = all.lines().filter(|line| line.starts_with("-: "));
    own.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_gateway_without_a_service_gets_one_and_its_replicas_are_its_endpoints() {
    let reports = [
        replica("wp-0", "10.244.1.10", true, false),
        replica("wp-16", "10.244.1.11", false, false),
        replica("wp-1", "10.244.1.12", true, true),
    ];
    let output = translated(MESH, &reports);
    let service = &output.services[&key("wp")];
    assert_eq!(service.ports[0].service_port, HBONE_PORT);
    assert_eq!(service.addresses.len(), 1);
    assert_eq!(
        output.vips["shop/wp"].len(),
        1,
        "it is kept for the next time"
    );
    let bound = output.services[&key("web")].waypoint.as_ref().unwrap();
    assert_eq!(bound.destination, GatewayDestination::Hostname(key("wp")));
    for (name, health) in [
        ("wp-0", Health::Healthy),
        ("wp-16", Health::Unhealthy),
        ("wp-1", Health::Unhealthy),
    ] {
        let workload = workload(&output, name).unwrap();
        assert_eq!(workload.health, health, "{name}");
        assert_eq!(workload.tunnel, TunnelProtocol::Hbone);
        assert!(workload.native_tunnel && workload.waypoint.is_none());
        assert_eq!(&*workload.service_account, "wp");
        // Also while it only ends what it has: it must find itself bound.
        assert!(workload.services.contains_key(&key("wp")), "{name}");
    }
    let address = service.addresses[0].cidr.addr();
    let programmed = format!("-: True Programmed addresses {address}; 1 of 3 replicas ready\n");
    assert_eq!(own_programmed(&output), programmed);
    let bound = said(&output, "Service shop/web", "istio.io/WaypointBound");
    assert!(bound.contains("True Bound"), "{bound}");
}

#[test]
fn a_gateway_that_cannot_be_served_says_why_and_gets_nothing() {
    let output = translated(MESH, &[replica("wp-0", "10.244.1.10", false, false)]);
    let programmed = "-: False Pending none of 1 replicas is ready: starting\n";
    assert_eq!(own_programmed(&output), programmed);
    let output = translated(&MESH.replace("protocol: HBONE", "protocol: HTTP"), &[]);
    let accepted = said(&output, "Gateway shop/wp", "Accepted");
    let why = "a listener of protocol HBONE at port 15008";
    assert!(
        accepted.contains("False Invalid") && accepted.contains(why),
        "{accepted}"
    );
    assert!(!output.services.contains_key(&key("wp")));
    let bound = said(&output, "Service shop/web", "istio.io/WaypointBound");
    assert!(bound.contains("WaypointMissing"), "{bound}");
    let other = "apiVersion: v1\nkind: Service\nmetadata: {name: wp, namespace: shop}\n\
                 spec: {ports: [{port: 80}]}\n";
    let output = translated(&format!("{MESH}{other}"), &[]);
    let programmed = said(&output, "Gateway shop/wp", "Programmed");
    assert!(programmed.contains("AddressNotUsable"), "{programmed}");
}

#[test]
fn a_number_of_replicas_that_cannot_be_read_is_told_and_takes_nothing_away() {
    let mesh = MESH.replace(
        "{name: wp, namespace: shop}",
        "{name: wp, namespace: shop, annotations: {culvert.io/replicas: many}}",
    );
    let output = translated(&mesh, &[replica("wp-0", "10.244.1.10", true, false)]);
    let programmed = said(&output, "Gateway shop/wp", "Programmed");
    assert!(programmed.contains("False Invalid"), "{programmed}");
    assert!(
        programmed.contains("not a number from 0 to 16"),
        "{programmed}"
    );
    assert!(output.services[&key("web")].waypoint.is_some());
    assert!(output.services.contains_key(&key("wp")));
}

#[test]
fn a_waypoint_made_by_hand_is_left_as_it_is() {
    let own = "apiVersion: v1\nkind: Service\n\
               metadata: {name: mine, namespace: shop, \
               labels: {gateway.networking.k8s.io/gateway-name: wp}}\n\
               spec: {clusterIP: 10.96.0.99, selector: {app: mine}, ports: [{port: 15008}]}\n---\n\
               apiVersion: v1\nkind: Pod\n\
               metadata: {name: mine, namespace: shop, labels: {app: mine, \
               networking.istio.io/tunnel: http, gateway.networking.k8s.io/gateway-name: wp}}\n\
               spec: {nodeName: node-a, serviceAccountName: wp}\n\
               status: {podIP: 10.244.1.9}\n";
    let output = translated(&format!("{MESH}{own}"), &[]);
    assert!(!output.services.contains_key(&key("wp")) && output.vips.is_empty());
    let bound = output.services[&key("web")].waypoint.as_ref().unwrap();
    assert_eq!(bound.destination, GatewayDestination::Hostname(key("mine")));
    let programmed = "-: True Programmed addresses 10.96.0.99; 1 of 1 replicas ready\n";
    assert_eq!(own_programmed(&output), programmed);
}

/// A route of `shop`; `rest` are further fields of its spec.
fn route(kind: &str, name: &str, parent: &str, rest: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: shop}}\n\
         spec: {{parentRefs: [{parent}], {rest} \
         rules: [{{backendRefs: [{{name: web, port: 443, weight: 3}}, {{name: no, port: 1}}]}}]}}\n\
         ---\n"
    )
}

const WEB_TLS: &str = "{group: '', kind: Service, name: web, port: 443}";
const WAYPOINT: &str = "{name: wp}";

#[test]
fn a_stream_route_is_attached_like_any_other_and_its_backends_are_resolved() {
    let tcp = route("TCPRoute", "tcp", WEB_TLS, "");
    let tls = route(
        "TLSRoute",
        "tls",
        WAYPOINT,
        "hostnames: [a.example, '*.b.example'],",
    );
    let output = translated(&format!("{MESH}{tcp}{tls}"), &[]);
    let parents: Vec<_> = output.routes.keys().map(ToString::to_string).collect();
    let service = "service/shop/web.shop.svc.cluster.local/443";
    assert_eq!(parents, [service, "gateway/shop/wp"]);
    let at = |key: &str| &output.routes[&key.parse::<ParentKey>().unwrap()].streams[0];
    let backends = &at(service).rules[0].backends;
    assert_eq!(backends[0].weight, 3);
    assert!(matches!(
        backends[0].target,
        Target::Service { port: 443, .. }
    ));
    assert!(matches!(backends[1].target, Target::Invalid(_)));
    assert_eq!(at("gateway/shop/wp").hostnames.len(), 2);
    let accepted = said(&output, "TCPRoute shop/tcp", "Accepted");
    assert!(accepted.contains("True Accepted"), "{accepted}");
    let refs = said(&output, "TLSRoute shop/tls", "ResolvedRefs");
    assert!(refs.contains("False BackendNotFound"), "{refs}");
    let listener = said(&output, "Gateway shop/wp", "Accepted");
    assert!(
        listener.contains("listener mesh: True Accepted attached routes: 1"),
        "{listener}"
    );
}

#[test]
fn at_a_port_the_more_specific_kind_is_served_and_the_other_is_told() {
    let http = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                metadata: {name: http, namespace: shop}\n\
                spec: {parentRefs: [{group: '', kind: Service, name: web}]}\n---\n";
    let tls = route("TLSRoute", "tls", WEB_TLS, "");
    let tcp = route("TCPRoute", "tcp", WEB_TLS, "");
    let text = |routes: &[&str]| format!("{MESH}{}", routes.concat());
    let served = |output: &Output, kind: &str, name: &str| {
        let accepted = said(output, &format!("{kind} shop/{name}"), "Accepted");
        (accepted.contains("True"), accepted.contains("Conflicted"))
    };
    let (yes, no) = ((true, false), (false, true));
    let output = translated(&text(&[http, &tls, &tcp]), &[]);
    assert_eq!(served(&output, "HTTPRoute", "http"), yes);
    assert_eq!(served(&output, "TLSRoute", "tls"), no);
    assert_eq!(served(&output, "TCPRoute", "tcp"), no);
    let output = translated(&text(&[&tls, &tcp]), &[]);
    assert_eq!(served(&output, "TLSRoute", "tls"), yes);
    assert_eq!(served(&output, "TCPRoute", "tcp"), no);
    // At a Gateway a port's protocol decides; only two that take everything exclude each other.
    let at = |kind: &str, name: &str| route(kind, name, WAYPOINT, "");
    let all = [
        at("TLSRoute", "tls"),
        at("TCPRoute", "a"),
        at("TCPRoute", "b"),
    ];
    let output = translated(&format!("{MESH}{}", all.concat()), &[]);
    assert_eq!(served(&output, "TLSRoute", "tls"), yes);
    assert_eq!(served(&output, "TCPRoute", "a"), yes);
    assert_eq!(served(&output, "TCPRoute", "b"), no);
}

#[test]
fn a_route_is_attached_to_every_listener_that_takes_it_once() {
    let listeners = "listeners: [{name: mesh, port: 15008, protocol: HBONE, hostname: a.example}, \
                     {name: more, port: 80, protocol: HTTP, hostname: '*.b.example'}, \
                     {name: odd, port: 81, protocol: UDP, \
                     allowedRoutes: {kinds: [{kind: UDPRoute}]}}]";
    let mesh = MESH.replace(
        "listeners: [{name: mesh, port: 15008, protocol: HBONE}]",
        listeners,
    );
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {name: r, namespace: shop}\n\
                 spec: {parentRefs: [{name: wp}, {name: wp, sectionName: mesh}], \
                 hostnames: [a.example, x.b.example, other.example]}\n";
    let output = translated(&format!("{mesh}{route}"), &[]);
    let at = output.routes.values().next().unwrap();
    assert_eq!(at.http.len(), 1, "by two parentRefs, and once");
    let hosts: Vec<_> = at.http[0]
        .hostnames
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(hosts, ["a.example", "x.b.example"]);
    let accepted = said(&output, "Gateway shop/wp", "Accepted");
    for line in [
        "listener mesh: True Accepted attached routes: 1",
        "listener more: True Accepted attached routes: 1",
        "listener odd: False UnsupportedProtocol",
    ] {
        assert!(accepted.contains(line), "{line}\n{accepted}");
    }
    let refs = said(&output, "Gateway shop/wp", "ResolvedRefs");
    assert!(
        refs.contains("listener odd: False InvalidRouteKinds"),
        "{refs}"
    );
}

#[test]
fn what_no_stream_route_can_be_is_refused() {
    let good = route("TCPRoute", "r", WAYPOINT, "");
    for (from, to, why) in [
        (
            "spec: {",
            "spec: {hostnames: [a.example], ",
            "has no spec.hostnames",
        ),
        ("port: 443, ", "", "needs a port"),
        ("weight: 3", "weight: 1000001", "weight"),
        ("weight: 3", "filters: [{type: URLRewrite}]", "no filters"),
        ("weight: 3", "wieght: 3", "unknown field"),
    ] {
        let mut collection = Collection::default();
        collection.load("b.yaml", &good.replacen(from, to, 1));
        let (_, errors) = collection.objects();
        assert!(
            errors.len() == 1 && errors[0].reason.contains(why),
            "{why}: {errors:?}"
        );
    }
}
