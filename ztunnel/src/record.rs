//! What a connection leaves behind: one record, sent to the recorder without ever waiting.
//!
//! Knows no socket. The recorder turns records into access log lines and metrics, outside of the
//! data path.

use std::net::SocketAddr;
use std::time::Duration;

use crate::connection::{Details, Direction};
use crate::metrics::Metrics;
pub use carrier::flag::Flag;
use carrier::hush::Cause;
pub use carrier::labels::Party;
use carrier::limits::Limit;
use carrier::records::{self, Keeper};
pub use carrier::records::{Outcome, Phase};

/// What is recorded of one connection.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was made.
    pub phase: Phase,
    /// Outbound or inbound.
    pub direction: Direction,
    /// Where it came from.
    pub source_address: SocketAddr,
    /// Where it went.
    pub destination_address: SocketAddr,
    /// Who, to whom, how.
    pub details: Details,
    /// Bytes that the pod's application sent.
    pub sent_bytes: u64,
    /// Bytes that the pod's application received.
    pub received_bytes: u64,
    /// Of both, what no record before has counted.
    pub uncounted_bytes: (u64, u64),
    /// Since it was accepted.
    pub duration: Duration,
    /// How it went.
    pub outcome: Outcome,
    /// The limit for which it was refused.
    pub limit: Option<Limit>,
}

/// The workers' end of the queue to the recorder.
pub type Recorder = records::Recorder<Record>;

impl Keeper<Record> for Metrics {
    const GATHER_BELOW: usize = 1;

    fn cause(record: &Record) -> Option<Cause> {
        record.cause()
    }

    fn log(record: &Record) {
        log(record);
    }

    fn count(&self, record: &Record) {
        self.count(record);
    }

    fn count_dropped(&self, records: u64) {
        self.count_dropped(records);
    }
}

impl Record {
    /// What a refusal is for, in one word; None for anything else.
    fn cause(&self) -> Option<Cause> {
        match (&self.outcome, self.phase) {
            (Err((flag, _)), Phase::Refused) => Some(self.limit.map_or(flag.as_str(), Limit::key)),
            _ => None,
        }
    }
}

/// One access log line (protocol.md 9).
fn log(record: &Record) {
    macro_rules! line {
        ($level:ident, $message:literal $(, $extra:ident = $value:expr)*) => {{
            let d = &record.details;
            let (s, t) = (d.source.workload.as_deref(), d.destination.workload.as_deref());
            tracing::$level!(target: "access", {
                src.addr = %record.source_address,
                src.workload = s.map(|w| &*w.name),
                src.namespace = s.map(|w| &*w.namespace),
                src.identity = d.source.identity.as_ref().map(|i| i.to_string()),
                src.cluster = s.map(|w| &*w.cluster),
                dst.addr = %record.destination_address,
                dst.hbone_addr = d.authority.as_ref().map(|a| a.to_string()),
                dst.service = d.service.as_ref().map(|key| &*key.hostname),
                dst.workload = t.map(|w| &*w.name),
                dst.namespace = t.map(|w| &*w.namespace),
                dst.identity = d.destination.identity.as_ref().map(|i| i.to_string()),
                dst.cluster = t.map(|w| &*w.cluster),
                direction = direction(record.direction),
                $($extra = $value,)*
            }, $message)
        }};
    }
    let (sent, received) = (record.sent_bytes, record.received_bytes);
    let duration = format!("{}ms", record.duration.as_millis());
    match (&record.outcome, record.phase) {
        (_, Phase::Moved) => {}
        (_, Phase::Opened) => line!(debug, "connection opened"),
        (Ok(()), _) => line!(
            info,
            "connection complete",
            bytes_sent = sent,
            bytes_recv = received,
            duration = duration
        ),
        (Err((_, error)), _) => line!(
            error,
            "connection failed",
            bytes_sent = sent,
            bytes_recv = received,
            duration = duration,
            error = error
        ),
    }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
    }
}
