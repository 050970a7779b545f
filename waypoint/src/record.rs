//! What connections and requests leave behind: records, sent to the recorder without ever waiting.
//!
//! Knows no socket. The recorder turns records into access log lines and metrics, outside of the
//! data path.

mod line;
mod request;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carrier::flag::Flag;
use carrier::hush::{Cause, Hush};
use carrier::limits::{Limit, RECORDS_PER_TURN, RECORDS_QUEUED};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::connection::Details;
use crate::metrics::Metrics;
pub use request::{RequestRecord, Said};

/// How long records are gathered after the first one; log and metrics are as late as this under
/// load, and the thread wakes at most ten times a second for them.
const GATHERED_FOR: Duration = Duration::from_millis(100);

/// How long the recorder waits for records before it says what it has not logged.
const SUM_UP_AFTER: Duration = Duration::from_millis(500);

/// When the record of a connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The way is open, bytes may flow. Its end follows in a record of its own.
    Opened,
    /// It was open, and is over.
    Closed,
    /// It never opened.
    Refused,
    /// It is open and has moved bytes since the last look.
    Moved,
}

/// How it went: nothing to say, or the flag and the sentence.
pub type Outcome = Result<(), (Flag, String)>;

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
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
    dropped: Arc<AtomicU64>,
}

/// The recorder's end.
pub struct Records {
    queue: mpsc::Receiver<Record>,
    dropped: Arc<AtomicU64>,
}

/// A queue of [`RECORDS_QUEUED`] records.
pub fn queue() -> (Recorder, Records) {
    let (sender, receiver) = mpsc::channel(RECORDS_QUEUED);
    let dropped = Arc::new(AtomicU64::new(0));
    let recorder = Recorder {
        queue: sender,
        dropped: Arc::clone(&dropped),
    };
    (
        recorder,
        Records {
            queue: receiver,
            dropped,
        },
    )
}

impl Recorder {
    /// Hands a record over; with a full queue it is dropped and counted.
    pub fn put(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Records {
    /// Logs and counts until every [`Recorder`] is gone.
    pub async fn run(mut self, metrics: Metrics) {
        let mut batch = Vec::with_capacity(RECORDS_PER_TURN);
        let mut hush = Hush::default();
        while self.next(&mut batch, &hush).await {
            let now = Instant::now();
            for record in batch.drain(..) {
                metrics.count(&record);
                if record.cause().is_none_or(|cause| hush.allows(cause, now)) {
                    line::log(&record);
                }
            }
            for (cause, refusals) in hush.sum_up(now) {
                tracing::warn!(target: "access", cause, refusals, "refusals not logged one by one");
            }
            metrics.count_dropped(self.dropped.swap(0, Ordering::Relaxed));
            if self.queue.len() < RECORDS_PER_TURN {
                // Nobody waits at the queue meanwhile, so that a worker need not wake this thread
                // for each record, and has its core to itself.
                tokio::time::sleep(GATHERED_FOR).await;
            } else {
                // Admin, metrics and discovery share this thread.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for records, or, when some were not logged, until it is time to sum them up. False
    /// after the last record.
    async fn next(&mut self, batch: &mut Vec<Record>, hush: &Hush) -> bool {
        let received = self.queue.recv_many(batch, RECORDS_PER_TURN);
        if hush.owes() {
            timeout(SUM_UP_AFTER, received).await.is_ok_and(|n| n > 0) || !self.queue.is_closed()
        } else {
            received.await > 0
        }
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
