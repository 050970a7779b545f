//! One resource of discovery, whatever its kind.

use mesh::{Policy, Service, Snapshot, Workload};

use crate::names::ResourceName;

/// What one discovery resource says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A workload.
    Workload(Workload),
    /// A service.
    Service(Service),
    /// A policy.
    Policy(Policy),
}

impl Resource {
    /// Its name in discovery.
    pub fn name(&self) -> ResourceName {
        match self {
            Self::Workload(workload) => ResourceName::Workload(workload.uid.clone()),
            Self::Service(service) => ResourceName::Service(service.key.clone()),
            Self::Policy(policy) => ResourceName::Policy(policy.key.clone()),
        }
    }

    /// Adds it to a snapshot, or replaces the one of that name.
    pub fn insert_into(self, snapshot: &mut Snapshot) {
        match self {
            Self::Workload(workload) => snapshot.insert_workload(workload),
            Self::Service(service) => snapshot.insert_service(service),
            Self::Policy(policy) => snapshot.insert_policy(policy),
        }
    }
}
