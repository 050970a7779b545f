//! Counters of requests, connections and bytes (protocol.md 9). Knows no socket; only the recorder
//! counts.

mod labels;

use std::sync::{Arc, Mutex, PoisonError};

use carrier::limits::Reached;
use carrier::spread::OpenGauges;
use process::otlp::SpanMetrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::record::{ConnectionRecord, Phase, Record, RequestRecord};
use carrier::labels::ConnectionLabels;
use carrier::labels::sets::Sets;
use labels::RequestLabels;

/// Bounds of the buckets of durations, in milliseconds: those of the ecosystem's dashboards.
const DURATIONS_MS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Bounds of the buckets of body sizes, in bytes.
const SIZES: [f64; 8] = [0.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];

/// A limit, and what became of something for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
    fate: &'static str,
}

/// What AUDIT policies matched: `connection` or `request`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditLabels {
    of: &'static str,
}

type Sizes = Family<RequestLabels, Histogram, fn() -> Histogram>;

/// What is counted. Clones count into the same counters.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: Sizes,
    request_bytes: Sizes,
    response_bytes: Sizes,
    opened: Family<ConnectionLabels, Counter>,
    closed: Family<ConnectionLabels, Counter>,
    failed: Family<ConnectionLabels, Counter>,
    sent_bytes: Family<ConnectionLabels, Counter>,
    received_bytes: Family<ConnectionLabels, Counter>,
    open: Gauge,
    dropped_records: Counter,
    limits: Family<LimitLabels, Counter>,
    audits: Family<AuditLabels, Counter>,
    drain_closed: Counter,
    drain_reset: Counter,
    /// How the export of spans goes.
    pub spans: SpanMetrics,
    open_on_workers: OpenGauges,
    /// Label sets in use. Locked by the recorder alone.
    sets: Arc<Mutex<Both>>,
}

#[derive(Default)]
struct Both {
    requests: Sets<RequestRecord, RequestSeries>,
    connections: Sets<ConnectionRecord, ConnectionLabels>,
}

/// What one label set of requests counts in.
struct RequestSeries {
    requests: Counter,
    durations: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

fn durations() -> Histogram {
    Histogram::new(DURATIONS_MS)
}

fn sizes() -> Histogram {
    Histogram::new(SIZES)
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            request_bytes: Family::new_with_constructor(sizes),
            response_bytes: Family::new_with_constructor(sizes),
            opened: Family::default(),
            closed: Family::default(),
            failed: Family::default(),
            sent_bytes: Family::default(),
            received_bytes: Family::default(),
            open: Gauge::default(),
            dropped_records: Counter::default(),
            limits: Family::default(),
            audits: Family::default(),
            drain_closed: Counter::default(),
            drain_reset: Counter::default(),
            spans: SpanMetrics::default(),
            open_on_workers: Family::default(),
            sets: Arc::default(),
        }
    }
}

impl Metrics {
    /// What each worker has open.
    pub fn open_on_workers(&self) -> &OpenGauges {
        &self.open_on_workers
    }

    fn register_rest(&self, registry: &mut Registry) {
        registry.register(
            "culvert_worker_open",
            "Connections, and tunnels that peers made, that each worker has now",
            self.open_on_workers.clone(),
        );
        registry.register(
            "culvert_policy_audits",
            "Connections and requests that AUDIT policies matched; the access log names them",
            self.audits.clone(),
        );
    }

    /// Registers everything under its public name.
    pub fn register(&self, registry: &mut Registry) {
        let istio = registry.sub_registry_with_prefix("istio");
        istio.register("requests", "Requests ended", self.requests.clone());
        let durations = self.durations.clone();
        istio.register(
            "request_duration_milliseconds",
            "From the head of a request to the end of its answer",
            durations,
        );
        let bytes = self.request_bytes.clone();
        istio.register("request_bytes", "Bodies of requests", bytes);
        let bytes = self.response_bytes.clone();
        istio.register("response_bytes", "Bodies of answers", bytes);
        for (name, help, family) in [
            ("tcp_connections_opened", "Connections opened", &self.opened),
            ("tcp_connections_closed", "Connections closed", &self.closed),
            (
                "tcp_connections_failed",
                "Connections never opened",
                &self.failed,
            ),
            (
                "tcp_sent_bytes",
                "Bytes that clients sent",
                &self.sent_bytes,
            ),
            (
                "tcp_received_bytes",
                "Bytes that clients received",
                &self.received_bytes,
            ),
        ] {
            istio.register(name, help, family.clone());
        }
        istio.register(
            "tcp_sockets_open",
            "Connections passed on now",
            self.open.clone(),
        );
        for (name, help, counter) in [
            (
                "culvert_records_dropped",
                "Records lost to a full queue",
                &self.dropped_records,
            ),
            (
                "culvert_drain_connections_closed",
                "Quiet connections that were closed because the drain deadline was over",
                &self.drain_closed,
            ),
            (
                "culvert_drain_connections_reset",
                "Connections that were reset because the drain deadline was over",
                &self.drain_reset,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "culvert_limit_reached",
            "Connections, handshakes and tunnels that were refused or evicted for a limit",
            self.limits.clone(),
        );
        self.register_rest(registry);
        self.spans.register(registry);
    }

    fn count_audit(&self, of: &'static str) {
        self.audits.get_or_create(&AuditLabels { of }).inc();
    }

    /// Counts something that was refused, or had to go, for a limit.
    pub fn count_reached(&self, reached: Reached) {
        let labels = LimitLabels {
            limit: reached.limit.key(),
            fate: reached.fate.as_str(),
        };
        self.limits.get_or_create(&labels).inc();
    }

    /// Counts connections that a drain has closed (FIN) or reset (RST) at its deadline.
    pub fn count_cut(&self, closed: u64, reset: u64) {
        self.drain_closed.inc_by(closed);
        self.drain_reset.inc_by(reset);
    }

    /// Counts records that nobody saw.
    pub fn count_dropped(&self, records: u64) {
        self.dropped_records.inc_by(records);
    }

    /// Counts one record. Only the first one of a label set writes and hashes text.
    pub fn count(&self, record: &Record) {
        match record {
            Record::Connection(record) => self.count_connection(record),
            Record::Request(record) => self.count_request(record),
        }
    }

    fn count_request(&self, record: &RequestRecord) {
        if record.audits.is_some() {
            self.count_audit("request");
        }
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let series = sets.requests.of(record, |labels| RequestSeries {
            requests: self.requests.get_or_create_owned(labels),
            durations: self.durations.get_or_create_owned(labels),
            request_bytes: self.request_bytes.get_or_create_owned(labels),
            response_bytes: self.response_bytes.get_or_create_owned(labels),
        });
        series.requests.inc();
        series
            .durations
            .observe(record.duration.as_secs_f64() * 1e3);
        // Sizes beyond 2^52 bytes lose their last digits.
        series.request_bytes.observe(record.bytes.0 as f64);
        series.response_bytes.observe(record.bytes.1 as f64);
    }

    fn count_connection(&self, record: &ConnectionRecord) {
        let begins = matches!(record.phase, Phase::Opened | Phase::Refused);
        if begins && record.audits.is_some() {
            self.count_audit("connection");
        }
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = sets.connections.of(record, Clone::clone);
        match record.phase {
            Phase::Opened => {
                self.opened.get_or_create(labels).inc();
                self.open.inc();
            }
            Phase::Closed => {
                self.closed.get_or_create(labels).inc();
                self.open.dec();
            }
            Phase::Moved => {}
            Phase::Refused => {
                self.failed.get_or_create(labels).inc();
            }
        }
        if matches!(record.phase, Phase::Moved | Phase::Closed) {
            let (sent, received) = record.uncounted_bytes;
            self.sent_bytes.get_or_create(labels).inc_by(sent);
            self.received_bytes.get_or_create(labels).inc_by(received);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use carrier::flag::Flag;
    use carrier::limits::LABEL_SETS;
    use mesh::Identity;
    use mesh::service::ServiceKey;

    use super::*;
    use crate::connection::{Details, Party};

    fn client(number: usize) -> Party {
        let name = format!("client-{number}");
        Party {
            workload: None,
            identity: Some(Identity::new("cluster.local", "shop", &name).unwrap()),
        }
    }

    fn request(number: usize, status: u16) -> RequestRecord {
        RequestRecord {
            source: client(number),
            destination: Party::default(),
            service: Some(ServiceKey {
                namespace: "shop".into(),
                hostname: "web.shop.svc.cluster.local".into(),
            }),
            is_grpc: false,
            status: Some(status),
            grpc_status: None,
            reason: None,
            audits: None,
            duration: Duration::from_millis(3),
            bytes: (7, 9),
            said: None,
        }
    }

    fn exposition(metrics: &Metrics) -> String {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_request_counts_with_the_labels_of_the_field() {
        let metrics = Metrics::default();
        metrics.count(&Record::from(request(0, 200)));
        metrics.count(&Record::from(request(0, 200)));
        metrics.count(&Record::from(request(0, 503)));
        let text = exposition(&metrics);
        let find = |name: &str, code: &str| {
            let code = format!(r#"response_code="{code}""#);
            let is_it = |line: &&str| line.starts_with(name) && line.contains(&code);
            text.lines().find(is_it).unwrap().to_owned()
        };
        let line = find("istio_requests_total{", "200");
        for label in [
            r#"reporter="waypoint""#,
            r#"destination_service="web.shop.svc.cluster.local""#,
            r#"destination_service_name="web""#,
            r#"destination_service_namespace="shop""#,
            r#"source_principal="spiffe://cluster.local/ns/shop/sa/client-0""#,
            r#"request_protocol="http""#,
            r#"response_flags="-""#,
        ] {
            assert!(line.contains(label), "{label} in {line}");
        }
        assert!(line.ends_with(" 2"), "{line}");
        assert!(find("istio_requests_total{", "503").ends_with(" 1"));
        let sum = find("istio_request_duration_milliseconds_sum", "200");
        assert!(sum.ends_with(" 6.0"), "{sum}");
        assert!(find("istio_response_bytes_sum", "200").ends_with(" 18.0"));
    }

    #[test]
    fn a_connection_counts_once_when_it_opens_and_once_when_it_closes() {
        let metrics = Metrics::default();
        for (phase, uncounted_bytes) in [
            (Phase::Opened, (0, 0)),
            (Phase::Moved, (5, 0)),
            (Phase::Closed, (2, 9)),
        ] {
            let record = ConnectionRecord {
                phase,
                source_address: "10.0.0.1:1".parse().unwrap(),
                authority: "10.96.0.1:80".into(),
                details: Details {
                    source: client(0),
                    ..Details::default()
                },
                sent_bytes: 7,
                received_bytes: 9,
                uncounted_bytes,
                duration: Duration::ZERO,
                outcome: if phase == Phase::Closed {
                    Err((Flag::None, "far end: reset".to_owned()))
                } else {
                    Ok(())
                },
                audits: Some("shop/note".into()),
                limit: None,
            };
            metrics.count(&Record::from(record));
        }
        let text = exposition(&metrics);
        for (name, value) in [
            ("istio_tcp_connections_opened_total", 1),
            ("istio_tcp_connections_closed_total", 1),
            ("istio_tcp_sent_bytes_total", 7),
            ("istio_tcp_received_bytes_total", 9),
        ] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.ends_with(&format!(" {value}")), "{line}");
            assert!(line.contains(r#"reporter="waypoint""#), "{line}");
        }
        assert!(text.contains("istio_tcp_sockets_open 0"), "{text}");
        let audits = "culvert_policy_audits_total{of=\"connection\"} 1";
        assert!(text.contains(audits), "{text}");
    }

    #[test]
    fn the_number_of_label_sets_is_bounded() {
        let metrics = Metrics::default();
        for number in 0..LABEL_SETS + 100 {
            metrics.count(&Record::from(request(number, 200)));
        }
        let sets = exposition(&metrics)
            .lines()
            .filter(|line| line.starts_with("istio_requests_total{"))
            .count();
        assert_eq!(sets, LABEL_SETS + 1);
    }
}
