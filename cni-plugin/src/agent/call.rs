//! The calls that are capturing a pod at the moment, and what ends them early: their caller's
//! deadline, and the deletion of the pod.
//!
//! Knows no steering; what a call has done so far is its own to undo.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Why a call ends before its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// A DEL or GC of its sandbox came.
    #[error("the sandbox was deleted meanwhile")]
    Deleted,
    /// The caller does not wait any longer.
    #[error("the caller's time is over")]
    Late,
}

/// The running calls: as many as the server serves at the same time. Clones are handles.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    running: Arc<Mutex<Vec<Arc<Running>>>>,
}

#[derive(Debug)]
struct Running {
    uid: String,
    container_id: String,
    deleted: CancellationToken,
}

/// One call; it is known until it is dropped.
#[derive(Debug)]
pub struct Call {
    calls: Calls,
    /// When the answer is due.
    pub deadline: Instant,
    running: Arc<Running>,
}

impl Calls {
    /// Makes a call known, before it waits for anything: a DEL that comes from now on ends it.
    /// The container id is empty for a command's.
    pub fn begin(&self, uid: &str, container_id: &str, deadline: Instant) -> Call {
        let running = Arc::new(Running {
            uid: uid.to_owned(),
            container_id: container_id.to_owned(),
            deleted: CancellationToken::new(),
        });
        self.lock().push(running.clone());
        Call {
            calls: self.clone(),
            deadline,
            running,
        }
    }

    /// Ends the calls for a sandbox, and those of commands for its pod, `uid`. Gives the pods whose
    /// turn must be waited for.
    pub fn end(&self, container_id: &str, uid: Option<&str>) -> Vec<String> {
        let is_meant = |call: &&Arc<Running>| match call.container_id.is_empty() {
            true => Some(call.uid.as_str()) == uid,
            false => call.container_id == container_id,
        };
        let running = self.lock();
        let meant = running.iter().filter(is_meant);
        let end = |call: &Arc<Running>| {
            call.deleted.cancel();
            call.uid.clone()
        };
        meant.map(end).collect()
    }

    /// The sandboxes of the running calls.
    pub fn containers(&self) -> Vec<String> {
        let running = self.lock();
        let known = running.iter().filter(|call| !call.container_id.is_empty());
        known.map(|call| call.container_id.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Running>>> {
        // Nothing that can panic runs under this lock.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// Whether the call may go on.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn check(&self) -> Result<(), Ended> {
        if self.running.deleted.is_cancelled() {
            return Err(Ended::Deleted);
        }
        match Instant::now() < self.deadline {
            true => Ok(()),
            false => Err(Ended::Late),
        }
    }

    /// Waits for something that may be dropped in the middle.
    ///
    /// # Errors
    /// [`Ended`], when that comes first.
    pub async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::select! {
            biased;
            () = self.running.deleted.cancelled() => Err(Ended::Deleted),
            done = work => Ok(done),
            () = tokio::time::sleep_until(self.deadline) => Err(Ended::Late),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut running = self.calls.lock();
        running.retain(|call| !Arc::ptr_eq(call, &self.running));
    }
}
