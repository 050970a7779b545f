//! The queue from the workers to the recorder: what connections leave behind, handed over without
//! ever waiting, then logged and counted outside of the data path.
//!
//! Knows no socket, and of a record only what its [`Keeper`] says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::flag::Flag;
use crate::hush::{Cause, Hush};
use crate::limits::{RECORDS_PER_TURN, RECORDS_QUEUED};

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

/// Who logs and counts records.
pub trait Keeper<R> {
    /// Fewer records than this in the queue are left to gather, at least 1.
    const GATHER_BELOW: usize;

    /// What a refusal is for, in one word; None for anything else.
    fn cause(record: &R) -> Option<Cause>;

    /// Writes the access log line.
    fn log(record: &R);

    /// Puts it into the metrics.
    fn count(&self, record: &R);

    /// Counts records that nobody saw.
    fn count_dropped(&self, records: u64);
}

/// The workers' end of the queue.
pub struct Recorder<R> {
    queue: mpsc::Sender<R>,
    dropped: Arc<AtomicU64>,
}

impl<R> Clone for Recorder<R> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            dropped: Arc::clone(&self.dropped),
        }
    }
}

/// The recorder's end.
pub struct Records<R> {
    queue: mpsc::Receiver<R>,
    dropped: Arc<AtomicU64>,
}

/// A queue of [`RECORDS_QUEUED`] records.
pub fn queue<R>() -> (Recorder<R>, Records<R>) {
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

impl<R> Recorder<R> {
    /// Hands a record over; with a full queue it is dropped and counted.
    pub fn put(&self, record: R) {
        if self.queue.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<R> Records<R> {
    /// Logs and counts until every [`Recorder`] is gone.
    pub async fn run<K: Keeper<R>>(mut self, keeper: K) {
        let mut batch = Vec::with_capacity(RECORDS_PER_TURN);
        let mut hush = Hush::default();
        while self.next(&mut batch, &hush).await {
            let now = Instant::now();
            for record in batch.drain(..) {
                keeper.count(&record);
                if K::cause(&record).is_none_or(|cause| hush.allows(cause, now)) {
                    K::log(&record);
                }
            }
            for (cause, refusals) in hush.sum_up(now) {
                tracing::warn!(target: "access", cause, refusals, "refusals not logged one by one");
            }
            keeper.count_dropped(self.dropped.swap(0, Ordering::Relaxed));
            if self.queue.len() < K::GATHER_BELOW {
                // Nobody waits at the queue meanwhile, so that a worker need not wake this thread
                // for each record: a system call and a switch, of which a connection had four.
                tokio::time::sleep(GATHERED_FOR).await;
            } else {
                // Admin, metrics and discovery share this thread.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for records, or, when some were not logged, until it is time to sum them up. False
    /// after the last record.
    async fn next(&mut self, batch: &mut Vec<R>, hush: &Hush) -> bool {
        let received = self.queue.recv_many(batch, RECORDS_PER_TURN);
        if hush.owes() {
            timeout(SUM_UP_AFTER, received).await.is_ok_and(|n| n > 0) || !self.queue.is_closed()
        } else {
            received.await > 0
        }
    }
}
