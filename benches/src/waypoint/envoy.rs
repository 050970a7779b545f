//! Envoy as a waypoint: HBONE in, HTTP routed, HBONE out, as the ecosystem configures it.
//!
//! ```text
//!   :15008 mTLS h2 CONNECT ── internal listener (HTTP, routes) ── internal listener (CONNECT) ──
//!   mTLS h2 to the endpoint's ztunnel
//! ```
//!
//! Only its configuration. It must not know how it is started.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::manifests::{Front, VERSION_HEADER, paths};
use super::{H2_PORT, HBONE_PORT, HTTP_PORT};
use crate::peers::certificates::Certificates;
use crate::peers::envoy::{circuit_breakers, cluster, common_tls, http2, kind, listener};

/// What it is told.
pub(super) struct Plan<'a> {
    /// Services that it is the waypoint of.
    pub(super) fronts: &'a [Front],
    /// The pod behind all of them.
    pub(super) server: std::net::IpAddr,
    /// Its own identity and the root.
    pub(super) certificates: &'a Certificates,
}

/// The whole configuration.
pub(super) fn config(plan: &Plan<'_>) -> Value {
    let mut listeners = vec![hbone(plan)];
    let mut clusters = Vec::new();
    for port in [HTTP_PORT, H2_PORT] {
        let target = SocketAddr::new(plan.server, port);
        listeners.push(originate(target));
        clusters.push(endpoint(target, port));
        clusters.push(ztunnel(target, plan));
        for front in plan.fronts {
            listeners.push(routed(front, target));
            clusters.push(internal(&main(front, port)));
        }
    }
    let internal_listeners = json!({
        "name": "envoy.bootstrap.internal_listener",
        "typed_config": {"@type": kind("bootstrap.internal_listener.v3.InternalListener")},
    });
    json!({
        "bootstrap_extensions": [internal_listeners],
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

/// Takes tunnels; their CONNECT names the service.
fn hbone(plan: &Plan<'_>) -> Value {
    let ports = [HTTP_PORT, H2_PORT];
    let fronts = plan.fronts.iter();
    let fronts = fronts.flat_map(|front| ports.map(|port| (front, port)));
    let hosts: Vec<_> = fronts
        .map(|(front, port)| {
            let authority = SocketAddr::new(front.address, port).to_string();
            let route = json!({
                "match": {"connect_matcher": {}},
                "route": {
                    "cluster": main(front, port),
                    "timeout": "0s",
                    "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                },
            });
            json!({"name": authority, "domains": [authority], "routes": [route]})
        })
        .collect();
    let mut http = connection_manager("hbone", "HTTP2", &hosts);
    http["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}]);
    let tls = json!({
        "@type": kind("transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": common_tls(plan.certificates),
    });
    let mut chain = chain(&http);
    chain["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": tls});
    let any = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), HBONE_PORT);
    listener(any, &json!([chain]))
}

/// The service's HTTP: its routes, one after the other as they would be translated.
fn routed(front: &Front, target: SocketAddr) -> Value {
    let to = json!({"cluster": endpoint_name(target), "timeout": "0s"});
    let mut routes = Vec::new();
    if target.port() == HTTP_PORT {
        for n in 0..front.routes {
            routes.extend(paths(n).map(|path| {
                let mut route = json!({
                    "match": {"path_separated_prefix": path}, "route": to,
                });
                if n + 1 == front.routes {
                    route["response_headers_to_add"] = json!([{
                        "header": {"key": VERSION_HEADER, "value": "1"},
                    }]);
                }
                route
            }));
        }
    }
    routes.push(json!({"match": {"prefix": "/"}, "route": to}));
    let hosts = [json!({"name": "all", "domains": ["*"], "routes": routes})];
    let http = connection_manager("main", "AUTO", &hosts);
    internal_listener(&main(front, target.port()), &chain(&http))
}

/// Makes the tunnel to the endpoint.
fn originate(target: SocketAddr) -> Value {
    let proxy = json!({
        "@type": kind("filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "originate",
        "cluster": ztunnel_name(target),
        "tunneling_config": {"hostname": target.to_string()},
    });
    let chain = json!({
        "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}],
    });
    internal_listener(&originate_name(target), &chain)
}

/// The servers, reached through the listener that makes tunnels.
fn endpoint(target: SocketAddr, port: u16) -> Value {
    let mut cluster = internal(&originate_name(target));
    cluster["name"] = endpoint_name(target).into();
    if port == H2_PORT {
        cluster["typed_extension_protocol_options"] = http2_upstream();
    }
    cluster
}

fn ztunnel(target: SocketAddr, plan: &Plan<'_>) -> Value {
    let peer = SocketAddr::new(plan.server, HBONE_PORT);
    let mut cluster = cluster(&ztunnel_name(target), peer);
    let tls = json!({
        "@type": kind("transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": common_tls(plan.certificates),
    });
    cluster["transport_socket"] =
        json!({"name": "envoy.transport_sockets.tls", "typed_config": tls});
    cluster["typed_extension_protocol_options"] = http2_upstream();
    cluster
}

fn http2_upstream() -> Value {
    let protocols = json!({
        "@type": kind("upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": http2()},
    });
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocols})
}

/// A cluster whose only endpoint is a listener of the same process, of the same name.
fn internal(name: &str) -> Value {
    let address = json!({"envoy_internal_address": {"server_listener_name": name}});
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": circuit_breakers(),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    })
}

fn internal_listener(name: &str, chain: &Value) -> Value {
    json!({"name": name, "internal_listener": {}, "filter_chains": [chain]})
}

fn connection_manager(name: &str, codec: &str, hosts: &[Value]) -> Value {
    json!({
        "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": name,
        "codec_type": codec,
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": hosts},
        "http2_protocol_options": http2(),
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": kind("filters.http.router.v3.Router")},
        }],
    })
}

fn chain(http: &Value) -> Value {
    json!({
        "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": http,
        }],
    })
}

fn main(front: &Front, port: u16) -> String {
    format!("main-{}-{port}", front.name)
}

fn endpoint_name(target: SocketAddr) -> String {
    format!("endpoint-{}", target.port())
}

fn originate_name(target: SocketAddr) -> String {
    format!("originate-{}", target.port())
}

fn ztunnel_name(target: SocketAddr) -> String {
    format!("ztunnel-{}", target.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waypoint::manifests::fronts;

    #[test]
    fn every_cluster_that_is_named_is_there() {
        let fronts = fronts("envoy", 1);
        let config = config(&Plan {
            fronts: &fronts[..1],
            server: "10.244.2.3".parse().unwrap(),
            certificates: &Certificates::at("/x".as_ref()),
        });
        let clusters = config["static_resources"]["clusters"].as_array().unwrap();
        let names: Vec<_> = clusters
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        let text = config.to_string();
        let used = text.split("\"cluster\":\"").skip(1);
        let used: Vec<_> = used.map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(used.len() > 100, "{used:?}");
        assert!(used.iter().all(|name| names.contains(name)), "{used:?}");
    }
}
