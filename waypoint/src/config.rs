//! The flags of the program and what they mean. Knows no socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use carrier::limits::Limits;
use clap::Parser;
use mesh::Identity;
use mesh::identity::IdentityError;
use mesh::route::GatewayKey;
use mesh::workload::WorkloadUid;
use netio::Choice;
use netio::executor::Spin;
use process::flags::{Flags, Variables};
use process::otlp::TracingFlags;
use serde::{Serialize, Serializer};

/// The L7 proxy of Culvert: applies routes to what is bound to one Gateway.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "waypoint", version)]
pub struct Config {
    /// What all proxies have.
    #[command(flatten)]
    #[serde(flatten)]
    pub flags: Flags,
    /// Whether requests are traced.
    #[command(flatten)]
    #[serde(flatten)]
    pub tracing: TracingFlags,
    /// The Gateway whose waypoint this is, `NAMESPACE/NAME`.
    #[arg(long, env = "GATEWAY", value_parser = gateway)]
    #[serde(serialize_with = "as_text")]
    pub gateway: GatewayKey,
    /// Name of the waypoint's own pod, as discovery knows it.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,
    /// Namespace of the waypoint's own pod.
    #[arg(long, env = "POD_NAMESPACE")]
    pub pod_namespace: String,
    /// UID of the waypoint's own pod; shown in dumps alone.
    #[arg(long, env = "POD_UID", default_value = "")]
    pub pod_uid: String,
    /// Service account of the waypoint's own pod: the last part of its identity.
    #[arg(long, env = "SERVICE_ACCOUNT")]
    pub service_account: String,
    /// Where clients' proxies reach it.
    #[arg(long, default_value = "[::]:15008")]
    pub listen_addr: SocketAddr,
    /// I/O back end: auto (which is epoll), io_uring or epoll.
    #[arg(long, default_value_t = Choice::Auto)]
    #[serde(serialize_with = "as_text")]
    pub io: Choice,
    /// How long a worker looks for work before it sleeps, while its waits are short: `off`, up to
    /// `200us`, or `auto` (100us, off where the process has one core or a CPU limit).
    #[arg(long, env = "WAYPOINT_SPIN", default_value_t = Spin::Auto)]
    #[serde(serialize_with = "as_text")]
    pub spin: Spin,
    /// How long open connections may go on after SIGTERM; a few seconds less than who sends it
    /// waits before it kills.
    #[arg(
        long,
        env = "DRAIN_DEADLINE",
        default_value = "45s",
        value_parser = process::config::duration
    )]
    pub drain_deadline: Duration,
}

/// The environment variables that are the waypoint's own.
pub const VARIABLES: Variables = Variables {
    workers: "WAYPOINT_WORKER_THREADS",
    limits: "WAYPOINT_LIMITS",
};

fn gateway(text: &str) -> Result<GatewayKey, String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(GatewayKey {
                namespace: namespace.into(),
                name: name.into(),
            })
        }
        _ => Err(format!("`{text}` is not NAMESPACE/NAME")),
    }
}

fn as_text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

impl Config {
    /// What the workers need of it.
    ///
    /// # Errors
    /// Trust domain, namespace and service account make no identity.
    pub fn data_path(&self, limits: Limits) -> Result<DataPath, IdentityError> {
        let (domain, namespace) = (&self.flags.trust_domain, &self.pod_namespace);
        let identity = Identity::new(domain, namespace, &self.service_account)?;
        let uid = format!(
            "{}//Pod/{namespace}/{}",
            self.flags.cluster_id, self.pod_name
        );
        Ok(DataPath {
            gateway: self.gateway.clone(),
            workload: WorkloadUid(uid.into()),
            identity,
            drain_deadline: self.drain_deadline,
            tunnel_idle: self.flags.tunnel_idle,
            limits,
        })
    }
}

/// The part of the configuration that the data path needs.
#[derive(Clone, Debug)]
pub struct DataPath {
    /// Whose waypoint it is.
    pub gateway: GatewayKey,
    /// The waypoint's own name in discovery.
    pub workload: WorkloadUid,
    /// Who it is, towards clients and endpoints.
    pub identity: Identity,
    /// How long open connections may go on at shutdown.
    pub drain_deadline: Duration,
    /// How long a tunnel of ours is kept without connections.
    pub tunnel_idle: Duration,
    /// What it may take up.
    pub limits: Limits,
}

impl DataPath {
    /// Trust domain of this mesh; peers of another one are refused.
    pub fn trust_domain(&self) -> Arc<str> {
        self.identity.trust_domain().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: [&str; 19] = [
        "waypoint",
        "--gateway",
        "shop/waypoint",
        "--pod-name",
        "waypoint-0",
        "--pod-namespace",
        "shop",
        "--service-account",
        "waypoint",
        "--node-name",
        "n1",
        "--xds-address",
        "https://127.0.0.1:15012",
        "--ca-address",
        "https://127.0.0.1:15012",
        "--root-cert",
        "/root.pem",
        "--token-file",
        "/token",
    ];

    #[test]
    fn it_knows_who_it_is() {
        let config = Config::try_parse_from(NEEDED).unwrap();
        assert_eq!(config.listen_addr.to_string(), "[::]:15008");
        let path = config.data_path(Limits::default()).unwrap();
        assert_eq!(
            path.identity.to_string(),
            "spiffe://cluster.local/ns/shop/sa/waypoint"
        );
        assert_eq!(&*path.workload.0, "Kubernetes//Pod/shop/waypoint-0");
        assert_eq!(path.gateway.to_string(), "shop/waypoint");
    }

    #[test]
    fn a_gateway_is_a_namespace_and_a_name() {
        for text in ["waypoint", "/waypoint", "shop/", "a/b/c", ""] {
            let mut words = NEEDED;
            words[2] = text;
            let error = Config::try_parse_from(words).unwrap_err().to_string();
            assert!(error.contains("NAMESPACE/NAME"), "{text}: {error}");
        }
    }

    #[test]
    fn it_is_told_to_trace_by_flags() {
        let flags = [
            "--tracing-endpoint=http://otel:4317",
            "--tracing-sampling=12.5",
        ];
        let config = Config::try_parse_from(NEEDED.iter().chain(&flags)).unwrap();
        let settings = config.tracing.settings(&|_| None).unwrap().unwrap();
        assert_eq!(settings.sampler.ratio, 0.125);
        let config = Config::try_parse_from(NEEDED).unwrap();
        assert!(config.tracing.settings(&|_| None).unwrap().is_none());
    }

    #[test]
    fn an_impossible_identity_is_refused() {
        let mut words = NEEDED;
        words[8] = "a/b";
        let config = Config::try_parse_from(words).unwrap();
        assert!(config.data_path(Limits::default()).is_err());
    }
}
