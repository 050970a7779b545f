//! What a response brought, until all of it is known: tables that are filled in order, at once,
//! have no gaps. Knows no message.

use std::sync::Arc;

use mesh::Workload;
use mesh::snapshot::extend;

use super::Discovery;
use crate::xds::carried::Entry;

/// Workloads, and what is held of workloads and services.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    names: Vec<(Arc<str>, Entry)>,
    workloads: Vec<Arc<Workload>>,
}

impl Arrived {
    /// For so many; what stays for long is then not allocated between growing lists.
    pub(super) fn with_capacity(count: usize) -> Self {
        Self {
            names: Vec::with_capacity(count),
            workloads: Vec::with_capacity(count),
        }
    }

    pub(super) fn name(&mut self, name: Arc<str>, entry: Entry) {
        self.names.push((name, entry));
    }

    pub(super) fn workload(&mut self, workload: Workload) {
        self.workloads.push(Arc::new(workload));
    }
}

impl Discovery {
    /// Takes it all in; says whether the snapshot changed.
    pub(super) fn take(&mut self, arrived: Arrived) -> bool {
        let Arrived { names, workloads } = arrived;
        if extend(&mut self.addresses.by_name, names) {
            // The workloads' tables are, too, and services are few.
            self.packed = self.addresses.by_name.len();
            self.fewest = self.packed;
            self.snapshot.pack_services();
        }
        self.snapshot.insert_workloads(workloads)
    }
}
