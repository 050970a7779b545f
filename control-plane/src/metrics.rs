//! What is counted. Labels are node names and fixed words, never text of a peer.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Label of a kind of resource.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct KindLabel {
    /// Last word of the type URL.
    pub kind: &'static str,
}

/// Label of an outcome.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ResultLabel {
    /// `signed` or why not.
    pub result: &'static str,
}

/// The counters of culvertd.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Open discovery streams.
    pub streams: Gauge,
    /// Responses sent.
    pub pushes: Family<KindLabel, Counter>,
    /// Responses that a client refused, in part or whole.
    pub rejections: Family<KindLabel, Counter>,
    /// Certificate requests by what became of them.
    pub certificates: Family<ResultLabel, Counter>,
    /// Calls without a valid token.
    pub unauthenticated: Counter,
    /// Connections that were sent away before they had shown a token.
    pub strangers: Family<ResultLabel, Counter>,
    /// Documents of the source that are refused now.
    pub source_errors: Gauge<i64>,
    /// Revision that is published.
    pub revision: Gauge<u64, AtomicU64>,
}

impl Metrics {
    /// Counters that are in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let own = registry.sub_registry_with_prefix("culvertd");
        own.register(
            "xds_streams",
            "Open discovery streams",
            metrics.streams.clone(),
        );
        own.register(
            "xds_pushes",
            "Discovery responses sent",
            metrics.pushes.clone(),
        );
        own.register(
            "xds_rejections",
            "Discovery responses that a client refused in part",
            metrics.rejections.clone(),
        );
        own.register(
            "certificates",
            "Certificate requests",
            metrics.certificates.clone(),
        );
        own.register(
            "unauthenticated_calls",
            "Calls without a valid token",
            metrics.unauthenticated.clone(),
        );
        own.register(
            "strangers_sent_away",
            "Connections without an authenticated call that were closed, by reason",
            metrics.strangers.clone(),
        );
        own.register(
            "source_errors",
            "Documents of the source that are refused now",
            metrics.source_errors.clone(),
        );
        own.register(
            "revision",
            "Revision that is published",
            metrics.revision.clone(),
        );
        metrics
    }
}
