//! Counters of connections and bytes (protocol.md 9). Knows no socket; only the recorder counts.

mod series;

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::record::{Phase, Record};
use carrier::labels::ConnectionLabels;
use carrier::labels::sets::Sets;
use carrier::limits::Reached;
use carrier::spread::OpenGauges;
use series::Series;

/// A limit, and what became of something for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
    fate: &'static str,
}

/// What is counted. Clones count into the same counters.
#[derive(Clone, Default)]
pub struct Metrics {
    opened: Family<ConnectionLabels, Counter>,
    closed: Family<ConnectionLabels, Counter>,
    failed: Family<ConnectionLabels, Counter>,
    sent_bytes: Family<ConnectionLabels, Counter>,
    received_bytes: Family<ConnectionLabels, Counter>,
    open: Gauge,
    dropped_records: Counter,
    limits: Family<LimitLabels, Counter>,
    drain_closed: Counter,
    drain_reset: Counter,
    open_on_workers: OpenGauges,
    active_pods: Gauge,
    pods_started: Counter,
    pods_stopped: Counter,
    /// Label sets in use. Locked by the recorder alone.
    sets: Arc<Mutex<Sets<Record, Series>>>,
}

impl Metrics {
    /// Registers everything under its public name.
    pub fn register(&self, registry: &mut Registry) {
        let istio = registry.sub_registry_with_prefix("istio");
        istio.register(
            "tcp_connections_opened",
            "Connections opened",
            self.opened.clone(),
        );
        istio.register(
            "tcp_connections_closed",
            "Connections closed",
            self.closed.clone(),
        );
        istio.register(
            "tcp_connections_failed",
            "Connections never opened",
            self.failed.clone(),
        );
        istio.register(
            "tcp_sent_bytes",
            "Bytes that local pods sent",
            self.sent_bytes.clone(),
        );
        istio.register(
            "tcp_received_bytes",
            "Bytes that local pods received",
            self.received_bytes.clone(),
        );
        istio.register(
            "tcp_sockets_open",
            "Connections open now",
            self.open.clone(),
        );
        registry.register(
            "culvert_worker_open",
            "Connections, and tunnels that peers made, that each worker has now",
            self.open_on_workers.clone(),
        );
        let pods = registry.sub_registry_with_prefix("workload_manager");
        pods.register(
            "active_proxy_count",
            "Pods served",
            self.active_pods.clone(),
        );
        pods.register(
            "proxies_started",
            "Pods taken up",
            self.pods_started.clone(),
        );
        pods.register("proxies_stopped", "Pods let go", self.pods_stopped.clone());
        registry.register(
            "culvert_records_dropped",
            "Connection records lost to a full queue",
            self.dropped_records.clone(),
        );
        registry.register(
            "culvert_limit_reached",
            "Connections, handshakes and tunnels that were refused or evicted for a limit",
            self.limits.clone(),
        );
        registry.register(
            "culvert_drain_connections_closed",
            "Quiet connections that were closed because the drain deadline was over",
            self.drain_closed.clone(),
        );
        registry.register(
            "culvert_drain_connections_reset",
            "Connections that were reset because the drain deadline was over",
            self.drain_reset.clone(),
        );
    }

    /// What each worker has open.
    pub fn open_on_workers(&self) -> &OpenGauges {
        &self.open_on_workers
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

    /// Counts one record. Only the first one of a label set writes and hashes text.
    pub fn count(&self, record: &Record) {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let Series { labels, counters } = sets.of(record, Series::new);
        match record.phase {
            Phase::Opened => {
                counters.opened.of(&self.opened, labels).inc();
                self.open.inc();
            }
            Phase::Closed => {
                counters.closed.of(&self.closed, labels).inc();
                self.open.dec();
            }
            Phase::Moved => {}
            Phase::Refused => {
                counters.failed.of(&self.failed, labels).inc();
            }
        }
        if matches!(record.phase, Phase::Moved | Phase::Closed) {
            let (sent, received) = record.uncounted_bytes;
            counters.sent.of(&self.sent_bytes, labels).inc_by(sent);
            let family = &self.received_bytes;
            counters.received.of(family, labels).inc_by(received);
        }
    }

    /// Counts records that nobody saw.
    pub fn count_dropped(&self, records: u64) {
        self.dropped_records.inc_by(records);
    }

    /// A pod was taken up.
    pub fn pod_started(&self) {
        self.pods_started.inc();
        self.active_pods.inc();
    }

    /// A pod was let go.
    pub fn pod_stopped(&self) {
        self.pods_stopped.inc();
        self.active_pods.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connection::{Details, Direction};
    use crate::record::{Flag, Party};
    use carrier::limits::LABEL_SETS;
    use mesh::Identity;

    fn record(phase: Phase, client: usize) -> Record {
        let identity = Identity::new("cluster.local", "shop", &format!("client-{client}")).unwrap();
        let details = Details {
            source: Party {
                workload: None,
                identity: Some(identity),
            },
            ..Details::default()
        };
        Record {
            phase,
            direction: Direction::Inbound,
            source_address: "10.0.0.1:1".parse().unwrap(),
            destination_address: "10.0.0.2:80".parse().unwrap(),
            details,
            sent_bytes: 7,
            received_bytes: 9,
            uncounted_bytes: (7, 9),
            duration: Duration::ZERO,
            outcome: Ok(()),
            limit: None,
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
    fn a_connection_counts_once_when_it_opens_and_once_when_it_closes() {
        let metrics = Metrics::default();
        metrics.count(&record(Phase::Opened, 0));
        metrics.count(&record(Phase::Closed, 0));
        let text = exposition(&metrics);
        for (name, value) in [
            ("istio_tcp_connections_opened_total", 1),
            ("istio_tcp_connections_closed_total", 1),
            ("istio_tcp_sent_bytes_total", 7),
            ("istio_tcp_received_bytes_total", 9),
        ] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.ends_with(&format!(" {value}")), "{line}");
            assert!(line.contains(r#"reporter="destination""#), "{line}");
            assert!(
                line.contains(r#"connection_security_policy="mutual_tls""#),
                "{line}"
            );
            assert!(line.contains(r#"source_workload="unknown""#), "{line}");
        }
        assert!(text.contains("istio_tcp_sockets_open 0"), "{text}");
    }

    #[test]
    fn bytes_count_once_while_open_and_the_rest_at_the_end() {
        let metrics = Metrics::default();
        metrics.count(&record(Phase::Opened, 0));
        for (phase, uncounted_bytes) in [(Phase::Moved, (5, 0)), (Phase::Closed, (2, 9))] {
            metrics.count(&Record {
                uncounted_bytes,
                ..record(phase, 0)
            });
        }
        let text = exposition(&metrics);
        for (name, value) in [
            ("istio_tcp_sent_bytes_total", 7),
            ("istio_tcp_received_bytes_total", 9),
            ("istio_tcp_connections_closed_total", 1),
        ] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.ends_with(&format!(" {value}")), "{line}");
        }
    }

    #[test]
    fn a_refused_connection_counts_as_failed_with_its_flag() {
        let metrics = Metrics::default();
        let outcome = Err((Flag::Deny, "denied".to_owned()));
        metrics.count(&Record {
            outcome,
            ..record(Phase::Refused, 0)
        });
        let text = exposition(&metrics);
        assert!(text.contains(r#"response_flags="DENY""#), "{text}");
        assert!(
            !text.contains("istio_tcp_connections_opened_total{"),
            "{text}"
        );
    }

    #[test]
    fn the_number_of_label_sets_is_bounded() {
        let metrics = Metrics::default();
        for client in 0..LABEL_SETS + 100 {
            metrics.count(&record(Phase::Opened, client));
        }
        let sets = exposition(&metrics)
            .lines()
            .filter(|line| line.starts_with("istio_tcp_connections_opened_total{"))
            .count();
        assert_eq!(sets, LABEL_SETS + 1);
    }
}
