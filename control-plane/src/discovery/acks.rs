//! Which revision every open stream has acknowledged, and waiting until all have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

/// The streams that take addresses. Clones are handles of the same set.
#[derive(Clone)]
pub struct Acks {
    inner: Arc<Inner>,
}

struct Inner {
    streams: Mutex<Streams>,
    /// Grows with each change in `streams`.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Streams {
    next_id: u64,
    open: BTreeMap<u64, (Arc<str>, Option<u64>)>,
}

/// One stream; dropping it takes it out.
pub struct StreamAcks {
    acks: Acks,
    id: u64,
}

/// A stream as the admin page shows it.
#[derive(Clone, Debug, Serialize)]
pub struct StreamStatus {
    /// Node of the caller.
    pub node: String,
    /// Last revision acknowledged; None when it does not take addresses.
    pub acked_revision: Option<u64>,
}

impl Default for Acks {
    fn default() -> Self {
        let (changes, _) = watch::channel(0);
        Self {
            inner: Arc::new(Inner {
                streams: Mutex::default(),
                changes,
            }),
        }
    }
}

impl Acks {
    /// Adds a stream of a node, which takes no addresses yet.
    pub fn stream(&self, node: Arc<str>) -> StreamAcks {
        let mut streams = self.streams();
        streams.next_id += 1;
        let id = streams.next_id;
        streams.open.insert(id, (node, None));
        StreamAcks {
            acks: self.clone(),
            id,
        }
    }

    /// All open streams.
    pub fn status(&self) -> Vec<StreamStatus> {
        let streams = self.streams();
        let status = |(node, acked): &(Arc<str>, Option<u64>)| StreamStatus {
            node: node.to_string(),
            acked_revision: *acked,
        };
        streams.open.values().map(status).collect()
    }

    /// Waits until every stream that takes addresses has acknowledged `revision`; false when that
    /// does not happen within `limit`. A stream that closes is waited for no longer: its client
    /// asks for everything anew.
    pub async fn reached(&self, revision: u64, limit: Duration) -> bool {
        let mut changes = self.inner.changes.subscribe();
        let all = changes.wait_for(|_| self.all(revision));
        tokio::time::timeout(limit, all)
            .await
            .is_ok_and(|waited| waited.is_ok())
    }

    fn all(&self, revision: u64) -> bool {
        self.streams()
            .open
            .values()
            .all(|(_, acked)| acked.is_none_or(|a| a >= revision))
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        // No code that can panic runs under this lock.
        self.inner
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|change| *change += 1);
    }
}

impl StreamAcks {
    /// The stream has acknowledged `revision` of all it takes.
    pub fn set(&self, revision: u64) {
        let mut streams = self.acks.streams();
        let Some((_, acked)) = streams.open.get_mut(&self.id) else {
            return;
        };
        if *acked == Some(revision) {
            return;
        }
        *acked = Some(revision);
        drop(streams);
        self.acks.changed();
    }
}

impl Drop for StreamAcks {
    fn drop(&mut self) {
        self.acks.streams().open.remove(&self.id);
        self.acks.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_revision_is_reached_when_every_stream_has_it_or_is_gone() {
        let acks = Acks::default();
        assert!(acks.reached(7, LONG).await, "nobody is there to wait for");
        let (a, b, other) = (
            acks.stream("a".into()),
            acks.stream("b".into()),
            acks.stream("c".into()),
        );
        a.set(7);
        b.set(6);
        assert!(!acks.reached(7, Duration::ZERO).await);
        b.set(8);
        assert!(acks.reached(7, LONG).await);
        assert!(!acks.reached(8, Duration::ZERO).await);
        drop(a);
        assert!(acks.reached(8, LONG).await);
        drop(other);
    }

    #[tokio::test]
    async fn a_waiter_hears_of_an_acknowledgement_that_comes_later() {
        let acks = Acks::default();
        let stream = acks.stream("a".into());
        stream.set(1);
        let waiter = acks.clone();
        let (reached, ()) = tokio::join!(waiter.reached(2, LONG), async { stream.set(2) });
        assert!(reached);
    }
}
