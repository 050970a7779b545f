//! What the rival's design counts for each connection: four families by a set of text labels,
//! built and hashed at its begin and at its end, on both sides.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reporter: String,
    source_workload: String,
    source_canonical_service: String,
    source_canonical_revision: String,
    source_workload_namespace: String,
    source_principal: String,
    source_app: String,
    source_version: String,
    source_cluster: String,
    destination_service: String,
    destination_service_namespace: String,
    destination_service_name: String,
    destination_workload: String,
    destination_canonical_service: String,
    destination_canonical_revision: String,
    destination_workload_namespace: String,
    destination_principal: String,
    destination_app: String,
    destination_version: String,
    destination_cluster: String,
    request_protocol: String,
    response_flags: String,
    connection_security_policy: String,
}

#[derive(Default)]
struct Counters {
    opened: Family<Labels, Counter>,
    closed: Family<Labels, Counter>,
    sent_bytes: Family<Labels, Counter>,
    received_bytes: Family<Labels, Counter>,
}

static COUNTERS: LazyLock<Counters> = LazyLock::new(Counters::default);

/// One connection, counted as opened now and as closed when it is dropped.
pub(super) struct Connection {
    labels: Labels,
    /// Bytes in each direction.
    carried: [AtomicU64; 2],
}

impl Connection {
    pub(super) fn open(reporter: &str, server: SocketAddr) -> Arc<Self> {
        let labels = labels(reporter, server);
        COUNTERS.opened.get_or_create(&labels).inc();
        Arc::new(Connection {
            labels,
            carried: Default::default(),
        })
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.carried[0].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.carried[1].fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let [sent, received] = self.carried.each_ref().map(|c| c.load(Ordering::Relaxed));
        COUNTERS.closed.get_or_create(&self.labels).inc();
        let families = [&COUNTERS.sent_bytes, &COUNTERS.received_bytes];
        for (family, bytes) in families.into_iter().zip([sent, received]) {
            family.get_or_create(&self.labels).inc_by(bytes);
        }
    }
}

fn labels(reporter: &str, server: SocketAddr) -> Labels {
    let text = str::to_owned;
    Labels {
        reporter: text(reporter),
        source_workload: text("client"),
        source_canonical_service: text("client"),
        source_canonical_revision: text("latest"),
        source_workload_namespace: text("bench"),
        source_principal: text("spiffe://cluster.local/ns/bench/sa/client"),
        source_app: text("client"),
        source_version: text("latest"),
        source_cluster: text("Kubernetes"),
        destination_service: server.ip().to_string(),
        destination_service_namespace: text("bench"),
        destination_service_name: text("server"),
        destination_workload: text("server"),
        destination_canonical_service: text("server"),
        destination_canonical_revision: text("latest"),
        destination_workload_namespace: text("bench"),
        destination_principal: text("spiffe://cluster.local/ns/bench/sa/server"),
        destination_app: text("server"),
        destination_version: text("latest"),
        destination_cluster: text("Kubernetes"),
        request_protocol: text("tcp"),
        response_flags: text("-"),
        connection_security_policy: text("mutual_tls"),
    }
}
