//! The pods one worker accepts for. Knows no ZDS; the commands come from the control side.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use carrier::spread::Loads;
use mesh::workload::WorkloadUid;
use tokio_util::sync::CancellationToken;

use crate::pod::{Listeners, Pod, PodUid};

/// What a connection keeps of its pod: one pointer, and none to its listeners, which must close
/// when the pod comes back with others.
pub struct Resident {
    /// Its name at the agent.
    pub uid: PodUid,
    /// Its name in discovery.
    pub workload: WorkloadUid,
    /// Its connections in the worker's list.
    pub connections: Cell<usize>,
    /// What each worker has of it.
    pub loads: Arc<Loads>,
}

/// A pod on this worker.
pub struct LocalPod {
    /// Who and where it is.
    pub pod: Arc<Pod>,
    /// What its connections keep of it.
    pub resident: Rc<Resident>,
    /// Cancelled when this worker shall not accept on its listeners any more.
    pub stop: CancellationToken,
}

impl LocalPod {
    /// Whether an accepted connection was made to the address of a listener itself: it was not
    /// captured, and its original destination is unknown.
    pub fn is_own_listener(&self, address: std::net::SocketAddr) -> bool {
        let Listeners::Handed(listeners) = &self.pod.listeners;
        listeners.iter().any(|listener| listener.address == address)
    }
}

/// The pods.
#[derive(Default)]
pub struct LocalPods {
    all: RefCell<HashMap<PodUid, Rc<LocalPod>>>,
}

impl LocalPods {
    /// Takes a pod up; gives back what was there under its uid.
    pub fn insert(&self, pod: Rc<LocalPod>) -> Option<Rc<LocalPod>> {
        self.all.borrow_mut().insert(pod.pod.uid.clone(), pod)
    }

    /// What connections keep of that pod: the same for all while it is served.
    pub fn resident(&self, pod: &Pod, loads: impl FnOnce() -> Arc<Loads>) -> Rc<Resident> {
        let before = self.all.borrow().get(&pod.uid).map(|before| {
            // Under another name in discovery it is judged by that one.
            let is_same = before.resident.workload == pod.workload;
            is_same.then(|| Rc::clone(&before.resident))
        });
        before.flatten().unwrap_or_else(|| {
            Rc::new(Resident {
                uid: pod.uid.clone(),
                workload: pod.workload.clone(),
                connections: Cell::new(0),
                loads: loads(),
            })
        })
    }

    /// Lets a pod go.
    pub fn remove(&self, uid: &PodUid) -> Option<Rc<LocalPod>> {
        self.all.borrow_mut().remove(uid)
    }

    /// A pod that is served.
    pub fn get(&self, uid: &PodUid) -> Option<Rc<LocalPod>> {
        self.all.borrow().get(uid).cloned()
    }

    /// Whether it is served.
    pub fn contains(&self, uid: &PodUid) -> bool {
        self.all.borrow().contains_key(uid)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Rc<LocalPod>> {
        self.all.borrow().values().cloned().collect()
    }
}
