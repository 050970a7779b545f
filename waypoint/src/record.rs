//! What connections and requests leave behind: records, sent to the recorder without ever waiting.
//!
//! Knows no socket. The recorder turns records into access log lines and metrics, outside of the
//! data path.

mod line;
mod request;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use carrier::hush::Cause;
use carrier::limits::{Limit, RECORDS_PER_TURN};
use carrier::records::{self, Keeper};
pub use carrier::records::{Outcome, Phase};

use crate::connection::Details;
use crate::metrics::Metrics;
pub use request::{RequestRecord, Said};

/// What is recorded of one connection that is passed on as it is, or was refused.
#[derive(Clone, Debug)]
pub struct ConnectionRecord {
    /// When it was made.
    pub phase: Phase,
    /// The client.
    pub source_address: SocketAddr,
    /// What it asked for, shortened.
    pub authority: Arc<str>,
    /// Who, to whom, how.
    pub details: Details,
    /// Bytes that the client sent.
    pub sent_bytes: u64,
    /// Bytes that the client received.
    pub received_bytes: u64,
    /// Of both, what no record before has counted.
    pub uncounted_bytes: (u64, u64),
    /// Since it was asked for.
    pub duration: Duration,
    /// How it went.
    pub outcome: Outcome,
    /// The AUDIT policies that match it.
    pub audits: Option<Arc<str>>,
    /// The limit for which it was refused.
    pub limit: Option<Limit>,
}

/// One record.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are requests, and the queue keeps its memory"
)]
pub enum Record {
    /// Of a connection.
    Connection(Box<ConnectionRecord>),
    /// Of a request. Not on the heap: it is made by one thread and ends on another.
    Request(RequestRecord),
}

impl From<ConnectionRecord> for Record {
    fn from(record: ConnectionRecord) -> Self {
        Self::Connection(Box::new(record))
    }
}

impl From<RequestRecord> for Record {
    fn from(record: RequestRecord) -> Self {
        Self::Request(record)
    }
}

/// The workers' end of the queue to the recorder.
pub type Recorder = records::Recorder<Record>;

impl Keeper<Record> for Metrics {
    /// A core that is busy with requests is not taken for a few records.
    const GATHER_BELOW: usize = RECORDS_PER_TURN;

    fn cause(record: &Record) -> Option<Cause> {
        record.cause()
    }

    fn log(record: &Record) {
        line::log(record);
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
        match self {
            Self::Connection(record) => match (&record.outcome, record.phase) {
                (Err((flag, _)), Phase::Refused) => {
                    Some(record.limit.map_or(flag.as_str(), Limit::key))
                }
                _ => None,
            },
            // The waypoint's own answers cost a client nothing.
            Self::Request(record) => record.reason.map(|reason| reason.as_str()),
        }
    }
}
