//! Spans: what a sampled request and its tries leave behind for a collector. Made by the workers,
//! handed over without ever waiting, made ready to be sent by the exporter's task.
//!
//! Knows no socket and no collector.

mod encode;

use std::net::SocketAddr;
use std::sync::Arc;

use carrier::labels::Party;
use http::{Method, Version};
use mesh::route::RouteKey;
use mesh::service::ServiceKey;
use mesh::workload::Workload;
use process::otlp::{KeyValue, Sampler, SpanMetrics, Spans, StartError, queue, text};
use process::tasks::Tasks;

use crate::config::Config;

/// Bytes of each text of a span that clients write: as much of a path as Istio keeps.
pub const TEXT_BYTES_MAX: usize = 256;
/// Bytes of `tracestate` that a span keeps; requests go on with all of it (W3C Trace Context
/// 3.3.1.5 wants 512 at least).
pub const STATE_BYTES_MAX: usize = 512;

/// What is sampled, and where spans go. Clones share the queue.
#[derive(Clone)]
pub struct Tracing {
    /// Which requests are sampled.
    pub sampler: Sampler,
    /// Where spans go.
    pub spans: Spans<Box<Span>>,
}

/// Why the waypoint cannot trace as it is told to.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// A flag or variable cannot be used.
    #[error(transparent)]
    Settings(#[from] process::otlp::SettingsError),
    /// A file cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Tracing {
    /// What flags and environment ask for, with its exporter as a task of `tasks`; None: nothing.
    ///
    /// # Errors
    /// See [`TracingError`].
    pub fn start(
        tasks: &Tasks,
        config: &Config,
        metrics: &SpanMetrics,
    ) -> Result<Option<Self>, TracingError> {
        let Some(settings) = config.tracing.settings(&|name| std::env::var(name).ok())? else {
            return Ok(None);
        };
        let gateway = &config.gateway;
        // As Istio names its proxies.
        let name = format!("{}.{}", gateway.name, gateway.namespace);
        let (spans, queue) = queue(metrics);
        queue.export(tasks, &settings, settings.resource(&name, resource(config)))?;
        let sampler = settings.sampler;
        tracing::info!(?sampler, "requests are traced");
        Ok(Some(Self { sampler, spans }))
    }
}

/// Who exports.
fn resource(config: &Config) -> Vec<KeyValue> {
    let version = env!("CARGO_PKG_VERSION");
    [
        ("service.version", version),
        ("service.instance.id", &config.pod_name),
        ("k8s.cluster.name", &config.flags.cluster_id),
        ("k8s.namespace.name", &config.pod_namespace),
        ("k8s.node.name", &config.flags.node_name),
        ("k8s.pod.name", &config.pod_name),
        ("k8s.pod.uid", &config.pod_uid),
        ("telemetry.sdk.name", "culvert"),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.version", version),
        ("istio.canonical_service", &config.gateway.name),
        ("istio.canonical_revision", "latest"),
        ("istio.namespace", &config.gateway.namespace),
        ("istio.cluster_id", &config.flags.cluster_id),
        ("istio.mesh_id", &config.flags.trust_domain),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| text(key, value))
    .collect()
}

/// Which span of which trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Of the trace, not zero.
    pub trace: u128,
    /// Of the span, not zero.
    pub span: u64,
    /// W3C's: bit 0 says that it is sampled.
    pub flags: u8,
}

/// One span.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its own.
    pub context: Context,
    /// The span that it is a child of; None: it is the trace's first.
    pub parent: Option<u64>,
    /// `tracestate`.
    pub state: Option<Arc<str>>,
    /// When it began and ended, in nanoseconds since 1970.
    pub time: (u64, u64),
    /// Method, as it was sent.
    pub method: Method,
    /// `Host` or `:authority`, bounded.
    pub authority: String,
    /// Path and query, bounded.
    pub target: String,
    /// Version of HTTP; None: there was no connection.
    pub version: Option<Version>,
    /// Status of the answer; None: there was none.
    pub status: Option<u16>,
    /// `grpc-status`.
    pub grpc_status: Option<u16>,
    /// Whether it is gRPC.
    pub is_grpc: bool,
    /// What failed, in one word; None: the endpoint's own answer.
    pub error: Option<&'static str>,
    /// The service that was addressed, or that the route chose.
    pub service: Option<ServiceKey>,
    /// The endpoint.
    pub destination: Option<Arc<Workload>>,
    /// What else there is.
    pub side: Side,
}

/// Who the waypoint is in a span.
#[derive(Clone, Debug)]
pub enum Side {
    /// The server: one request.
    Server(Box<Served>),
    /// The client: one try at an endpoint.
    Client(Tried),
}

/// Of a request.
#[derive(Clone, Debug)]
pub struct Served {
    /// Address of the client.
    pub client: SocketAddr,
    /// Who it is.
    pub source: Party,
    /// The port that it addressed.
    pub port: u16,
    /// The route that took it, and the number of its rule.
    pub route: Option<(RouteKey, usize)>,
    /// The path that the rule is for, when it is for one.
    pub template: Option<String>,
    /// Tries at endpoints.
    pub tries: u32,
    /// Bytes of the bodies: request, answer.
    pub bytes: (u64, u64),
    /// `x-request-id`.
    pub request_id: String,
    /// `user-agent`.
    pub user_agent: Option<String>,
}

/// Of a try.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Port on the endpoint.
    pub port: u16,
    /// Of the request's tries, from 1.
    pub number: u32,
    /// Whether it is a copy, whose answer nobody gets.
    pub is_mirror: bool,
    /// A sentence about [`Span::error`].
    pub why: Option<String>,
}

/// So much of a client's text as a span keeps.
#[must_use]
pub fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}
