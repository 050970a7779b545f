//! Waiting for what a new connection needs: its workload, complete discovery, its certificate.
//!
//! Only new connections wait here, and never longer than their deadline; the relay does not.

use mesh::Identity;
use mesh::snapshot::Snapshot;
use netio::time::{Instant, timeout_at};

use super::Worker;
use carrier::certificate::Certificate;

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

    /// Whether an identity of this node has a certificate that is valid now.
    pub fn has_certificate(&self, identity: &Identity) -> bool {
        let book = self.book.borrow();
        book.get(identity).is_some_and(Certificate::is_valid)
    }

    /// The certificate of an identity of this node, valid now.
    ///
    /// # Errors
    /// Why there is none at the deadline.
    pub async fn certificate(
        &self,
        deadline: Instant,
        identity: &Identity,
    ) -> Result<Certificate, String> {
        let mut book = self.book.clone();
        let issued = book.wait_for(|book| {
            let certificate = book.get(identity);
            certificate.is_some_and(Certificate::is_valid)
        });
        let found = timeout_at(deadline, issued).await;
        let found = found
            .ok()
            .and_then(Result::ok)
            .and_then(|book| book.get(identity).cloned());
        found.ok_or_else(|| self.certificates.why_missing(identity))
    }
}
