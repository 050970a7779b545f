//! Workloads by uid, of the mesh or of one service. The uid stands in the workload only: an entry
//! is one pointer, where a map from uid would hold three words.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

use imbl::OrdSet;

use super::packed::without_gaps;
use crate::workload::{Workload, WorkloadUid};

/// Workloads in the order of their uids.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed(OrdSet<ByUid>);

/// A workload that is compared by its uid.
#[derive(Clone, Debug)]
struct ByUid(Arc<Workload>);

impl Listed {
    /// Of workloads in the order of their uids, none twice; without gaps.
    pub(super) fn of<'a>(sorted: impl Iterator<Item = &'a Arc<Workload>> + Clone) -> Self {
        let workloads = without_gaps(sorted);
        Self(workloads.cloned().map(ByUid).collect())
    }

    /// Adds a workload whose uid is not in it.
    pub(super) fn insert(&mut self, workload: Arc<Workload>) {
        self.0.insert(ByUid(workload));
    }

    pub(super) fn remove(&mut self, uid: &WorkloadUid) -> Option<Arc<Workload>> {
        self.0.remove(uid).map(|found| found.0)
    }

    pub(super) fn get(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.0.get(uid).map(|found| &found.0)
    }

    /// See [`super::packed`].
    pub(super) fn packed(&self) -> Self {
        Self(without_gaps(self.0.iter()).cloned().collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.0.iter().map(|listed| &listed.0)
    }
}

/// Equal when the workloads are, not their uids alone.
impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.all().eq(other.all())
    }
}

impl Borrow<WorkloadUid> for ByUid {
    fn borrow(&self) -> &WorkloadUid {
        &self.0.uid
    }
}

impl PartialEq for ByUid {
    fn eq(&self, other: &Self) -> bool {
        self.0.uid == other.0.uid
    }
}

impl Eq for ByUid {}

impl PartialOrd for ByUid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByUid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.uid.cmp(&other.0.uid)
    }
}
