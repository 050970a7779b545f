//! What a connection leaves behind: one record, sent to the recorder without ever waiting.
//!
//! Knows no socket. The recorder turns records into access log lines and metrics, outside of the
//! data path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mesh::{Identity, Workload};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::connection::{Details, Direction};
use crate::metrics::Metrics;
pub use carrier::flag::Flag;
use carrier::hush::{Cause, Hush};
use carrier::limits::{Limit, RECORDS_PER_TURN, RECORDS_QUEUED};

/// How long records are gathered after the first one; log and metrics are as late as this under
/// load, and the thread wakes at most ten times a second for them.
const GATHERED_FOR: Duration = Duration::from_millis(100);

/// When a record was made.
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

/// How long the recorder waits for records before it says what it has not logged.
const SUM_UP_AFTER: Duration = Duration::from_millis(500);

/// How it went: nothing to say, or the flag and the sentence.
pub type Outcome = Result<(), (Flag, String)>;

/// One side of a connection.
#[derive(Clone, Debug, Default)]
pub struct Party {
    /// Its workload, when discovery knows it.
    pub workload: Option<Arc<Workload>>,
    /// Its identity, when a certificate proved it (or will have to, for a destination).
    pub identity: Option<Identity>,
}

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
                    log(&record);
                }
            }
            for (cause, refusals) in hush.sum_up(now) {
                tracing::warn!(target: "access", cause, refusals, "refusals not logged one by one");
            }
            metrics.count_dropped(self.dropped.swap(0, Ordering::Relaxed));
            if self.queue.is_empty() {
                // Nobody waits at the queue meanwhile, so that a worker need not wake this thread
                // for each record: a system call and a switch, of which a connection had four.
                tokio::time::sleep(GATHERED_FOR).await;
            } else {
                // Admin, metrics and discovery share this thread.
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Records {
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
                dst.hbone_addr = d.authority.as_deref(),
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
