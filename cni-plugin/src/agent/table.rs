//! The pods that the agent knows, and a lock for each so that operations on one pod take turns.
//!
//! Pure bookkeeping.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use process::grpc::agent::PodReport;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::DropGuard;

use super::record::{Phase, Record};
use crate::message::PodName;
use crate::steering::pod::{Listeners, PodSteering};

/// What keeps a pod captured while the agent runs.
#[derive(Debug)]
pub struct Live {
    /// Its steering.
    pub steering: PodSteering,
    /// Its listeners, which the agent holds beside every ztunnel.
    pub listeners: Arc<Listeners>,
    /// Ends the task that follows its addresses.
    pub _follower: DropGuard,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What is on disk.
    pub record: Record,
    /// None: not captured, or captured by what is pinned alone.
    pub live: Option<Arc<Live>>,
}

type PodLock = Arc<tokio::sync::Mutex<()>>;

/// The pods by uid.
#[derive(Debug, Default)]
pub struct Table {
    entries: Mutex<BTreeMap<String, Entry>>,
    locks: Mutex<HashMap<String, PodLock>>,
}

impl Table {
    /// Waits for the turn on a pod, known or not.
    pub async fn lock(&self, uid: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are not needed.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(uid.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// A pod.
    pub fn get(&self, uid: &str) -> Option<Entry> {
        self.entries().get(uid).cloned()
    }

    /// The uid of the pod of a sandbox.
    pub fn by_container(&self, container_id: &str) -> Option<String> {
        let entries = self.entries();
        let mut all = entries.iter();
        all.find(|(_, entry)| entry.record.container_id == container_id)
            .map(|(uid, _)| uid.clone())
    }

    /// The pod that has a namespace, if it is another one than `uid`. One that only a command
    /// named, and that is not captured, has none.
    pub fn holder(&self, cookie: u64, uid: &str) -> Option<PodName> {
        holder(&self.entries(), cookie, uid)
    }

    /// Puts a pod in place of what was known of its uid, when no other has its namespace. Gives
    /// the uids of those that gave way: named by a command only, and not captured.
    ///
    /// # Errors
    /// The pod that has the namespace.
    pub fn claim(&self, entry: Entry) -> Result<Vec<String>, PodName> {
        let mut entries = self.entries();
        let (cookie, uid) = (entry.record.cookie, entry.record.pod.uid.clone());
        if let Some(holder) = holder(&entries, cookie, &uid) {
            return Err(holder);
        }
        let gives_way =
            |name: &String, other: &mut Entry| *name != uid && other.record.cookie == cookie;
        let abandoned = entries.extract_if(.., gives_way).map(|(name, _)| name);
        let abandoned = abandoned.collect();
        entries.insert(uid, entry);
        Ok(abandoned)
    }

    /// Puts a pod in place of what was known of its uid.
    pub fn put(&self, entry: Entry) {
        self.entries().insert(entry.record.pod.uid.clone(), entry);
    }

    /// Takes a pod out.
    pub fn take(&self, uid: &str) -> Option<Entry> {
        self.entries().remove(uid)
    }

    /// All pods.
    pub fn all(&self) -> Vec<Entry> {
        self.entries().values().cloned().collect()
    }

    /// How many pods are in a phase.
    pub fn count(&self, phase: Phase) -> usize {
        self.entries()
            .values()
            .filter(|entry| entry.record.phase == phase)
            .count()
    }

    /// All pods, as the control plane is told.
    pub fn report(&self) -> Vec<PodReport> {
        let report = |entry: &Entry| PodReport {
            uid: entry.record.pod.uid.clone(),
            namespace: entry.record.pod.namespace.clone(),
            name: entry.record.pod.name.clone(),
            ips: entry.record.reported(),
            enrolled: entry.record.phase == Phase::Enrolled,
            waypoint: None,
        };
        self.entries().values().map(report).collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // No code that can panic runs under this lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn holder(entries: &BTreeMap<String, Entry>, cookie: u64, uid: &str) -> Option<PodName> {
    let mut records = entries.values().map(|entry| &entry.record);
    let holds = |record: &&Record| {
        let named_only = record.phase == Phase::NotEnrolled && record.container_id.is_empty();
        record.cookie == cookie && record.pod.uid != uid && !named_only
    };
    records.find(holds).map(|record| record.pod.clone())
}
