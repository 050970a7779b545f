//! What the mesh of the bench is declared to be: pods, services, waypoints and their routes.
//!
//! Pure text. It must not know which program a waypoint is.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::{H2_PORT, HTTP_PORT};

/// Namespace of everything.
pub(super) const NAMESPACE: &str = "mesh";
/// The service without a waypoint.
pub(super) const DIRECT: &str = "direct";
/// Matches of each route.
pub(super) const MATCHES: usize = 10;
/// Routes of a waypoint in all cases but one.
pub(super) const FEW: usize = 10;
/// Routes in that one.
pub(super) const MANY: usize = 10_000;
/// A header of the answers that took the last route: which version of the route it was.
pub(super) const VERSION_HEADER: &str = "x-bench-version";
/// Group of routes and gateways.
const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

/// A service in front of the servers, bound to a waypoint.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Front {
    /// Its name.
    pub(super) name: String,
    /// Its address, which load programs connect to.
    pub(super) address: IpAddr,
    /// Routes on its HTTP port.
    pub(super) routes: usize,
}

/// The two services of a waypoint: with few routes and with many.
pub(super) fn fronts(waypoint: &str, index: u8) -> [Front; 2] {
    let front = |what: &str, host, routes| Front {
        name: format!("{what}-{waypoint}"),
        address: address(index, host),
        routes,
    };
    [front("few", 2, FEW), front("many", 3, MANY)]
}

/// Address `host` of the ten that each waypoint's services have; waypoint 0 is none.
pub(super) fn address(index: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(10, 96, 9, index * 10 + host).into()
}

/// The pods of load and servers, and the service without a waypoint.
pub(super) fn base() -> String {
    let labels = json!({"istio.io/dataplane-mode": "ambient"});
    let pod = |name: &str, node: &str| {
        object(
            ("v1", "Pod", name),
            &json!({"app": name}),
            json!({
                "nodeName": node, "serviceAccountName": name, "containers": [{"name": "app"}],
            }),
        )
    };
    text(&[
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": labels},
        }),
        pod("client", "node-1"),
        pod("server", "node-2"),
        service(DIRECT, address(0, 2), &json!({})),
    ])
}

/// A waypoint: its pod, its own service, its gateway and the two services in front of the servers.
/// Routes are apart.
pub(super) fn waypoint(name: &str, index: u8) -> String {
    let of_gateway = json!({
        "app": name,
        "gateway.networking.k8s.io/gateway-name": name,
        "istio.io/dataplane-mode": "none",
        "networking.istio.io/tunnel": "http",
    });
    let pod = json!({
        "nodeName": "node-1", "serviceAccountName": name, "containers": [{"name": "proxy"}],
    });
    let own = json!({
        "selector": {"app": name},
        "clusterIP": address(index, 1),
        "ports": [{"name": "hbone", "port": 15008}],
    });
    let gateway = json!({
        "gatewayClassName": "istio-waypoint",
        "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
    });
    let mut all = vec![
        object(("v1", "Pod", name), &of_gateway, pod),
        object(("v1", "Service", name), &of_gateway, own),
        object((GATEWAY_API, "Gateway", name), &json!({}), gateway),
    ];
    let bound = json!({"istio.io/use-waypoint": name});
    let fronts = fronts(name, index);
    all.extend(fronts.map(|front| service(&front.name, front.address, &bound)));
    text(&all)
}

/// The routes of a service's HTTP port but the last one, and one rule for its HTTP/2 port.
pub(super) fn routes(front: &Front) -> String {
    let numbered = 0..front.routes - 1;
    let mut all: Vec<_> = numbered.map(|n| route(front, n, None)).collect();
    let every = json!([{"path": {"type": "PathPrefix", "value": "/"}}]);
    for port in [HTTP_PORT, H2_PORT] {
        let name = format!("{}-every-{port}", front.name);
        all.push(http_route(front, &name, (port, &every, None)));
    }
    text(&all)
}

/// The last route of a service's HTTP port in one of its versions.
pub(super) fn last_route(front: &Front, version: u64) -> String {
    text(&[route(front, front.routes - 1, Some(version))])
}

/// The paths of route `n`.
pub(super) fn paths(n: usize) -> impl Iterator<Item = String> {
    (0..MATCHES).map(move |m| format!("/r{n}/m{m}"))
}

fn route(front: &Front, n: usize, version: Option<u64>) -> Value {
    let matches = paths(n).map(|path| json!({"path": {"type": "PathPrefix", "value": path}}));
    let matches = Value::from(matches.collect::<Vec<_>>());
    let name = format!("{}-{n}", front.name);
    http_route(front, &name, (HTTP_PORT, &matches, version))
}

fn http_route(
    front: &Front,
    name: &str,
    (port, matches, version): (u16, &Value, Option<u64>),
) -> Value {
    let mut rule = json!({
        "matches": matches,
        "backendRefs": [{"name": front.name, "port": port}],
    });
    if let Some(version) = version {
        rule["filters"] = json!([{
            "type": "ResponseHeaderModifier",
            "responseHeaderModifier": {
                "set": [{"name": VERSION_HEADER, "value": version.to_string()}],
            },
        }]);
    }
    let parent = json!({"group": "", "kind": "Service", "name": front.name, "port": port});
    object(
        (GATEWAY_API, "HTTPRoute", name),
        &json!({}),
        json!({"parentRefs": [parent], "rules": [rule]}),
    )
}

fn service(name: &str, address: IpAddr, labels: &Value) -> Value {
    object(
        ("v1", "Service", name),
        labels,
        json!({
            "selector": {"app": "server"},
            "clusterIP": address,
            "ports": [
                {"name": "http", "port": HTTP_PORT},
                {"name": "h2", "port": H2_PORT, "appProtocol": "kubernetes.io/h2c"},
            ],
        }),
    )
}

fn object((version, kind, name): (&str, &str, &str), labels: &Value, spec: Value) -> Value {
    json!({
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": spec,
    })
}

/// JSON is YAML.
fn text(objects: &[Value]) -> String {
    let objects: Vec<_> = objects.iter().map(Value::to_string).collect();
    objects.join("\n---\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_has_as_many_routes_as_it_says() {
        let [few, _] = fronts("envoy", 3);
        let all = routes(&few) + "---\n" + &last_route(&few, 7);
        let objects = all.split("\n---\n").filter(|one| one.contains("/r"));
        assert_eq!(objects.count(), FEW);
        assert!(last_route(&few, 7).contains("/r9/m9"));
        assert!(last_route(&few, 7).contains(r#""value":"7""#));
    }

    #[test]
    fn every_service_has_an_address_of_its_own() {
        let mut all: Vec<_> = (0..4)
            .flat_map(|i| [1, 2, 3].map(|host| address(i, host)))
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 12);
    }
}
