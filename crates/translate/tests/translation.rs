//! Small manifests to the mesh that they are.

#![allow(clippy::unwrap_used)] // The helpers are tests too.

use std::net::IpAddr;

use mesh::service::{
    AppProtocol, GatewayDestination, HealthPolicy, IpFamilies, LoadBalancingMode, LocalityScope,
    Service, ServiceKey, Visibility,
};
use mesh::workload::{Health, NetworkMode, TunnelProtocol, Workload, WorkloadKind, WorkloadUid};
use proptest::prelude::*;
use translate::object::Name;
use translate::{
    Allocations, Collection, Condition, Input, Options, Output, PodReport, Status, translate,
};

const MESH: &str = include_str!("mesh.yaml");

fn translated(text: &str, reports: &[PodReport]) -> Output {
    translated_after(text, reports, &Allocations::new())
}

fn translated_after(text: &str, reports: &[PodReport], vips: &Allocations) -> Output {
    let mut collection = Collection::default();
    collection.load("f.yaml", text);
    let (objects, errors) = collection.objects();
    assert!(errors.is_empty(), "{errors:?}");
    translate(&Input {
        objects: &objects,
        reports,
        vips,
        options: &Options::default(),
    })
}

fn report(node: &str, name: &str, ips: &[&str], enrolled: bool) -> PodReport {
    PodReport {
        node: node.into(),
        name: Name::new("shop", name),
        uid: "u-1".into(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        enrolled,
        waypoint: None,
    }
}

fn reports() -> Vec<PodReport> {
    vec![
        report(
            "node-a",
            "client",
            &["10.244.1.2", "fd00:10:244:1::2"],
            true,
        ),
        report("node-b", "web-7d9c-x1", &["10.244.2.2"], true),
    ]
}

fn pod<'a>(output: &'a Output, name: &str) -> Option<&'a Workload> {
    output
        .workloads
        .get(&WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into()))
}

fn service<'a>(output: &'a Output, name: &str) -> &'a Service {
    &output.services[&key(name)]
}

fn key(name: &str) -> ServiceKey {
    let hostname = format!("{name}.shop.svc.cluster.local");
    ServiceKey {
        namespace: "shop".into(),
        hostname: hostname.into(),
    }
}

fn conditions<'a>(output: &'a Output, object: &str) -> Vec<&'a Condition> {
    let all = output.statuses.iter();
    all.filter(|(key, _)| key.to_string() == object)
        .flat_map(|(_, c)| c)
        .collect()
}

/// A manifest of one service and the pod `w` behind it.
fn with_service(metadata: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: shop{metadata}}}, \
         spec: {{clusterIP: 10.96.0.9, selector: {{app: w}}, ports: [{{port: 80}}]{spec}}}}}\n\
         ---\n{{apiVersion: v1, kind: Pod, metadata: {{name: w, namespace: shop, \
         labels: {{app: w}}}}, spec: {{nodeName: n}}, status: {{podIP: 10.244.3.3}}}}\n"
    )
}

#[test]
fn a_pod_is_a_workload_with_all_that_its_manifest_and_its_node_say() {
    let output = translated(MESH, &reports());
    let web = pod(&output, "web-7d9c-x1").unwrap();
    assert_eq!(*web.addresses, ["10.244.2.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        (web.tunnel, web.health),
        (TunnelProtocol::Hbone, Health::Healthy)
    );
    assert_eq!((&*web.service_account, &*web.node), ("web", "node-b"));
    assert_eq!(
        (&*web.canonical_name, &*web.canonical_revision),
        ("web", "v1")
    );
    // The Deployment behind the ReplicaSet.
    assert_eq!((web.kind, &*web.workload_name), (WorkloadKind::Pod, "web"));
    let ports: Vec<_> = web.services[&key("web")]
        .iter()
        .map(|p| (p.service_port, p.target_port))
        .collect();
    assert_eq!(ports, [(80, 8080), (81, 9090)]);
    let listed: Vec<String> = web.policies.iter().map(ToString::to_string).collect();
    assert_eq!(
        listed,
        [
            "istio-system/istio_converted_static_strict",
            "shop/web-callers"
        ]
    );
    let client = pod(&output, "client").unwrap();
    assert_eq!(
        (&*client.locality.region, &*client.locality.zone),
        ("r1", "z1")
    );
    assert_eq!((client.addresses.len(), client.services.len()), (2, 0));
    assert_eq!(
        (&*client.canonical_name, &*client.canonical_revision),
        ("client", "latest")
    );
}

#[test]
fn a_service_is_what_its_manifest_says() {
    let output = translated(MESH, &[]);
    let web = service(&output, "web");
    let addresses: Vec<String> = web.addresses.iter().map(|a| a.cidr.to_string()).collect();
    assert_eq!(addresses, ["10.96.0.80/32", "fd00:10:96::80/128"]);
    assert_eq!((web.ip_families, web.canonical), (IpFamilies::Dual, true));
    let ports: Vec<_> = web
        .ports
        .iter()
        .map(|p| (p.service_port, p.target_port, p.protocol))
        .collect();
    assert_eq!(
        ports,
        [
            (80, 0, AppProtocol::Http11),
            (81, 9090, AppProtocol::Unknown)
        ]
    );
}

#[test]
fn a_pod_is_hbone_only_when_its_own_node_reports_it_captured() {
    let tunnel = |reports: &[PodReport], text: &str| {
        pod(&translated(text, reports), "client").map(|w| w.tunnel)
    };
    let hbone = Some(TunnelProtocol::Hbone);
    let plain = Some(TunnelProtocol::None);
    assert_eq!(tunnel(&[], MESH), None, "it has no address");
    assert_eq!(
        tunnel(&[report("node-a", "client", &["10.244.1.2"], false)], MESH),
        plain
    );
    assert_eq!(
        tunnel(&[report("node-a", "client", &["10.244.1.2"], true)], MESH),
        hbone
    );
    assert_eq!(
        tunnel(&[report("node-b", "client", &["10.244.1.2"], true)], MESH),
        None
    );
    // An address that is not of the node's ranges is not believed.
    assert_eq!(
        tunnel(&[report("node-a", "client", &["10.244.2.9"], true)], MESH),
        None
    );
    let other_uid = MESH.replace("  name: client\n", "  name: client\n  uid: u-2\n");
    assert_eq!(
        tunnel(
            &[report("node-a", "client", &["10.244.1.2"], true)],
            &other_uid
        ),
        None
    );
    let unbound = MESH.replace("nodeName: node-a, ", "");
    let output = translated(&unbound, &reports());
    assert!(pod(&output, "client").is_none());
    assert_eq!(
        conditions(&output, "Pod shop/client")[0].reason,
        "NotScheduled"
    );
    for mark in [
        "labels: {networking.istio.io/tunnel: http}",
        "annotations: {ambient.istio.io/redirection: enabled}",
    ] {
        let marked = MESH.replace("  name: client\n", &format!("  name: client\n  {mark}\n"));
        let reports = [report("node-a", "client", &["10.244.1.2"], false)];
        assert_eq!(tunnel(&reports, &marked), hbone, "{mark}");
    }
}

#[test]
fn pods_that_are_not_ready_being_deleted_or_done_are_no_healthy_endpoints() {
    let base = with_service("", "");
    let health = |status: &str, metadata: &str| {
        let text = base
            .replace("podIP: 10.244.3.3", &format!("podIP: 10.244.3.3{status}"))
            .replace("labels: {app: w}", &format!("labels: {{app: w}}{metadata}"));
        pod(&translated(&text, &[]), "w").map(|w| w.health)
    };
    assert_eq!(health("", ""), Some(Health::Healthy));
    let condition = |s: &str| format!(", conditions: [{{type: Ready, status: '{s}'}}]");
    assert_eq!(health(&condition("True"), ""), Some(Health::Healthy));
    assert_eq!(health(&condition("False"), ""), Some(Health::Unhealthy));
    let deleting = ", deletionTimestamp: '2026-01-01T00:00:00Z'";
    assert_eq!(health("", deleting), Some(Health::Unhealthy));
    assert_eq!(health(", phase: Succeeded", ""), None);
}

#[test]
fn a_host_network_pod_has_its_nodes_addresses_and_is_never_captured() {
    let text = "
apiVersion: v1
kind: Node
metadata: {name: n}
status: {addresses: [{type: InternalIP, address: 172.30.0.1}, {type: Hostname, address: n}]}
---
apiVersion: v1
kind: Pod
metadata: {name: w, namespace: shop}
spec: {nodeName: n, hostNetwork: true}
";
    let output = translated(text, &[report("n", "w", &[], true)]);
    let workload = pod(&output, "w").unwrap();
    assert_eq!(workload.network_mode, NetworkMode::HostNetwork);
    assert_eq!(
        *workload.addresses,
        ["172.30.0.1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(workload.tunnel, TunnelProtocol::None);
}

#[test]
fn traffic_policies_become_routing_preferences() {
    use LocalityScope::{Network, Node, Region, Subzone, Zone};
    let preference = |metadata: &str, spec: &str| {
        let output = translated(&with_service(metadata, spec), &[]);
        let balancing = service(&output, "s").load_balancing.clone();
        (balancing.mode, balancing.routing_preference)
    };
    let close = (LoadBalancingMode::Failover, vec![Network, Region, Zone]);
    assert_eq!(preference("", "").0, LoadBalancingMode::Unspecified);
    let local = preference("", ", internalTrafficPolicy: Local");
    assert_eq!(local, (LoadBalancingMode::Strict, vec![Node]));
    assert_eq!(preference("", ", trafficDistribution: PreferClose"), close);
    assert_eq!(
        preference("", ", trafficDistribution: PreferSameZone"),
        close
    );
    let node = preference("", ", trafficDistribution: PreferSameNode").1;
    assert_eq!(node, [Network, Region, Zone, Subzone, Node]);
    let annotation = ", annotations: {networking.istio.io/traffic-distribution: PreferClose}";
    assert_eq!(preference(annotation, ""), close);
}

#[test]
fn health_visibility_and_kinds_of_services() {
    let made = |metadata: &str, spec: &str| {
        service(&translated(&with_service(metadata, spec), &[]), "s").clone()
    };
    let published = made("", ", publishNotReadyAddresses: true");
    assert_eq!(published.load_balancing.health, HealthPolicy::AllowAll);
    let export = ", annotations: {networking.istio.io/exportTo: .}";
    assert_eq!(made(export, "").visibility, Visibility::Namespace);
    let headless = with_service("", "").replace("clusterIP: 10.96.0.9", "clusterIP: None");
    let output = translated(&headless, &[]);
    assert!(service(&output, "s").addresses.is_empty());
    assert_eq!(pod(&output, "w").unwrap().services.len(), 1);
    let external = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, \
                    spec: {type: ExternalName, externalName: example.org}}";
    let output = translated(external, &[]);
    assert!(output.services.is_empty());
    assert_eq!(
        conditions(&output, "Service shop/s")[0].reason,
        "ExternalName"
    );
}

#[test]
fn an_endpoint_slice_decides_where_it_is_given() {
    let slice = |endpoints: &str| {
        format!(
            "{}---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
             metadata: {{name: s-1, namespace: shop, labels: {{kubernetes.io/service-name: s}}}}, \
             endpoints: [{endpoints}], ports: [{{name: '', port: 8443}}]}}\n",
            with_service("", "")
        )
    };
    let by_pod = "{addresses: [10.244.3.3], targetRef: {kind: Pod, name: w}}";
    let output = translated(&slice(by_pod), &[]);
    let ports = &pod(&output, "w").unwrap().services[&key("s")];
    assert_eq!((ports[0].service_port, ports[0].target_port), (80, 8443));
    // The selector counts no more.
    let output = translated(&slice(""), &[]);
    assert!(pod(&output, "w").unwrap().services.is_empty());
    let unready = by_pod.replace("addresses:", "conditions: {ready: false}, addresses:");
    assert!(
        pod(&translated(&slice(&unready), &[]), "w")
            .unwrap()
            .services
            .is_empty()
    );
    // An address without a pod is a workload of its own, unless a pod has it.
    let output = translated(
        &slice("{addresses: [192.0.2.7], conditions: {ready: false}}"),
        &[],
    );
    let uid = "Kubernetes/discovery.k8s.io/EndpointSlice/shop/s-1/192.0.2.7";
    let workload = &output.workloads[&WorkloadUid(uid.into())];
    assert_eq!(
        (workload.tunnel, workload.health),
        (TunnelProtocol::None, Health::Unhealthy)
    );
    let output = translated(&slice("{addresses: [10.244.3.3]}"), &[]);
    assert_eq!(output.workloads.len(), 1);
    assert_eq!(pod(&output, "w").unwrap().services.len(), 1);
}

#[test]
fn an_address_belongs_to_one_only() {
    let two = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{nodeName: n}}, status: {{podIP: 10.96.0.9}}}}\n"
        )
    };
    let output = translated(&format!("{}---\n{}", two("a"), two("b")), &[]);
    assert!(pod(&output, "a").is_some() && pod(&output, "b").is_none());
    let [condition] = conditions(&output, "Pod shop/b")[..] else {
        panic!("no condition")
    };
    assert!(condition.status == Status::False && condition.message.contains("shop/a"));
    // A service's address is nobody else's.
    let output = translated(&format!("{}---\n{}", with_service("", ""), two("a")), &[]);
    assert!(pod(&output, "a").is_none());
    let clash = with_service("", "").replace("name: s,", "name: r,");
    let clash: String = clash.split("---").take(1).collect();
    let output = translated(&format!("{}---\n{clash}", with_service("", "")), &[]);
    assert_eq!(service(&output, "r").addresses.len(), 1);
    assert!(service(&output, "s").addresses.is_empty());
    assert_eq!(
        conditions(&output, "Service shop/s")[0].reason,
        "AddressConflict"
    );
}

#[test]
fn a_service_without_an_address_gets_one_and_keeps_it() {
    let bare = |name: &str, spec: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{ports: [{{port: 80}}]{spec}}}}}\n"
        )
    };
    let first = translated(&bare("a", ", ipFamilyPolicy: RequireDualStack"), &[]);
    let addresses = service(&first, "a").addresses.clone();
    assert_eq!(addresses.len(), 2);
    assert!(
        addresses[0].cidr.to_string().starts_with("10.96."),
        "{addresses:?}"
    );
    assert!(
        addresses[1].cidr.to_string().starts_with("fd00:10:96::"),
        "{addresses:?}"
    );
    // The same without a memory, and with it even if the place is contested by a newcomer.
    assert_eq!(
        translated(&bare("a", ", ipFamilyPolicy: RequireDualStack"), &[]),
        first
    );
    let stolen: Allocations = [("shop/b".to_owned(), first.vips["shop/a"].clone())].into();
    let both = bare("a", "") + &bare("b", "");
    let second = translated_after(&both, &[], &stolen);
    assert_eq!(service(&second, "b").addresses[0], addresses[0]);
    assert_ne!(service(&second, "a").addresses[0], addresses[0]);
    // A given address goes before an allocated one.
    let taken = format!(", clusterIP: {}", addresses[0].cidr.addr());
    let third = translated_after(&(bare("a", "") + &bare("c", &taken)), &[], &first.vips);
    assert_eq!(service(&third, "c").addresses[0], addresses[0]);
    assert_ne!(service(&third, "a").addresses[0], addresses[0]);
}

#[test]
fn a_waypoint_is_bound_only_when_it_is_there() {
    let used = with_service(", labels: {istio.io/use-waypoint: wp}", "");
    let output = translated(&used, &[]);
    assert_eq!(service(&output, "s").waypoint, None);
    assert_eq!(
        conditions(&output, "Service shop/s")[0].reason,
        "WaypointMissing"
    );
    let waypoint = "---\n{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: shop, \
                    labels: {gateway.networking.k8s.io/gateway-name: wp}}, \
                    spec: {clusterIP: 10.96.0.15, ports: [{port: 15008}]}}\n";
    let output = translated(&(used + waypoint), &[]);
    let bound = service(&output, "s").waypoint.clone().unwrap();
    assert_eq!(bound.destination, GatewayDestination::Hostname(key("wp")));
    assert_eq!(bound.hbone_mtls_port, 15008);
    assert_eq!(service(&output, "wp").waypoint, None);
}

#[test]
fn what_a_waypoint_made_by_hand_is_for_may_stand_at_its_gateway() {
    let used = with_service(", labels: {istio.io/use-waypoint: wp}", "");
    let waypoint = "---\n{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: shop, \
                    labels: {gateway.networking.k8s.io/gateway-name: wp}}, \
                    spec: {clusterIP: 10.96.0.15, ports: [{port: 15008}]}}\n\
                    ---\n{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, \
                    metadata: {name: wp, namespace: shop, \
                    labels: {istio.io/waypoint-for: SCOPE}}, \
                    spec: {gatewayClassName: istio-waypoint, \
                    listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}\n";
    for (scope, is_bound) in [("workload", false), ("all", true)] {
        let mesh = format!("{used}{}", waypoint.replace("SCOPE", scope));
        let output = translated(&mesh, &[]);
        assert_eq!(
            service(&output, "s").waypoint.is_some(),
            is_bound,
            "{scope}"
        );
    }
}

proptest! {
    #[test]
    fn the_order_and_the_files_of_documents_do_not_matter(
        order in Just((0..7usize).collect::<Vec<_>>()).prop_shuffle(),
        files in proptest::collection::vec(0..3u8, 7),
        swap in any::<bool>(),
    ) {
        let documents: Vec<&str> = MESH.split("---\n").collect();
        prop_assert_eq!(documents.len(), 7);
        let mut texts = [String::new(), String::new(), String::new()];
        for index in order {
            let text = &mut texts[usize::from(files[index])];
            text.push_str("---\n");
            text.push_str(documents[index]);
        }
        let mut collection = Collection::default();
        for (index, text) in texts.iter().enumerate() {
            collection.load(&format!("{index}.yaml"), text);
        }
        let (objects, errors) = collection.objects();
        prop_assert!(errors.is_empty());
        let mut reports = reports();
        if swap {
            reports.reverse();
        }
        let vips = Allocations::new();
        let options = Options::default();
        let input = Input { objects: &objects, reports: &reports, vips: &vips, options: &options };
        prop_assert_eq!(translate(&input), translated(MESH, &self::reports()));
    }

    #[test]
    fn no_two_services_share_an_address(
        names in proptest::collection::btree_set("[a-z]{1,8}", 1..40),
        given in proptest::collection::vec(0..3u8, 40),
    ) {
        let mut text = String::new();
        for (index, name) in names.iter().enumerate() {
            let ip = match given[index] {
                0 => format!(", clusterIP: 10.96.0.{}", index + 1),
                _ => String::new(),
            };
            text += &format!(
                "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
                 spec: {{ports: [{{port: 80}}]{ip}}}}}\n"
            );
        }
        let first = translated(&text, &[]);
        let mut all: Vec<_> =
            first.services.values().flat_map(|s| &s.addresses).cloned().collect();
        prop_assert_eq!(all.len(), names.len());
        all.sort();
        all.dedup();
        prop_assert_eq!(all.len(), names.len());
        // Translated again with its own memory nothing moves.
        let again = translated_after(&text, &[], &first.vips);
        prop_assert_eq!(again, first);
    }
}
