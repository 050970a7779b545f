//! Waiting for what a new connection needs: discovery, the waypoint's certificate.
//!
//! Only new connections wait here, and never longer than their deadline.

use carrier::certificate::Certificate;
use mesh::snapshot::Snapshot;
use netio::time::{Instant, timeout_at};

use super::Worker;

impl Worker {
    /// The first snapshot, from now on, that `look` finds something in. None when there is none
    /// until the deadline.
    pub async fn find<T>(
        &self,
        deadline: Instant,
        mut look: impl FnMut(&Snapshot) -> Option<T>,
    ) -> Option<T> {
        if let Some(found) = look(&self.snapshot()) {
            return Some(found);
        }
        let mut snapshots = self.snapshots.clone();
        let newer = async {
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                if let Some(found) = look(&snapshot) {
                    return Some(found);
                }
                // The feed is gone with the process' control side.
                snapshots.changed().await.ok()?;
            }
        };
        timeout_at(deadline, newer).await.ok().flatten()
    }

    /// Whether the waypoint has a certificate that is valid now.
    pub fn has_certificate(&self) -> bool {
        let certified = self.certified.borrow();
        let own = certified.get(&self.config.identity);
        own.is_some_and(Certificate::is_valid)
    }

    /// The waypoint's own certificate, valid now.
    ///
    /// # Errors
    /// Why there is none at the deadline.
    pub async fn certificate(&self, deadline: Instant) -> Result<Certificate, String> {
        let identity = &self.config.identity;
        let mut certified = self.certified.clone();
        let issued = certified.wait_for(|all| all.get(identity).is_some_and(Certificate::is_valid));
        let found = timeout_at(deadline, issued).await.ok();
        let found = found.and_then(Result::ok);
        let found = found.and_then(|all| all.get(identity).cloned());
        found.ok_or_else(|| {
            let why = self.certificates.why_missing(identity);
            format!("{identity}: {why}")
        })
    }
}
