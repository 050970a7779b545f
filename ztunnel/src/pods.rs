//! The pods of this node as the agent tells of them: taken up, kept, let go.
//!
//! Knows no wire: the ZDS session calls it. Tells the workers and holds the certificates.

use std::collections::HashSet;
use std::sync::Arc;

use imbl::OrdMap;
use process::certs::CertificateError;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::pod::{Pod, PodUid};
use crate::worker::command::{CommandError, Workers};
use carrier::certificate::Certificates;
use carrier::limits::PODS;

/// The pods served now, for the dump. Cloning is cheap.
pub type PodMap = OrdMap<PodUid, Arc<Pod>>;

/// Why a message of the agent is answered with an error.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// More than [`PODS`].
    #[error("this proxy serves {PODS} pods already")]
    TooMany,
    /// It cannot be kept, since it was never added.
    #[error("pod {0} is not known here")]
    Unknown(PodUid),
    /// A keep after the snapshot.
    #[error("a pod can be kept only before the snapshot is complete")]
    LateKeep,
    /// This node holds too many identities.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A worker does not accept on its listeners.
    #[error(transparent)]
    Worker(#[from] CommandError),
}

/// The pods and those who must know of them.
pub struct Pods {
    pods: watch::Sender<PodMap>,
    /// Pods named since the session began; None once its snapshot is complete.
    named: Option<HashSet<PodUid>>,
    workers: Workers,
    certificates: Arc<Certificates>,
    metrics: Metrics,
}

impl Pods {
    /// None yet.
    pub fn new(workers: Workers, certificates: Arc<Certificates>, metrics: Metrics) -> Self {
        let pods = watch::Sender::new(PodMap::new());
        Self {
            pods,
            named: None,
            workers,
            certificates,
            metrics,
        }
    }

    /// The pods as they change.
    pub fn watch(&self) -> watch::Receiver<PodMap> {
        self.pods.subscribe()
    }

    /// A session with the agent begins: what it does not name until the end of its snapshot goes.
    pub fn begin(&mut self) {
        self.named = Some(HashSet::new());
    }

    /// Takes a pod up, or its new listeners.
    ///
    /// # Errors
    /// It is not served; what was there before stays.
    pub async fn add(&mut self, pod: Pod) -> Result<(), PodError> {
        let before = self.pods.borrow().get(&pod.uid).cloned();
        if before.is_none() && self.pods.borrow().len() >= PODS {
            return Err(PodError::TooMany);
        }
        let pod = Arc::new(pod);
        self.certificates.hold(&pod.identity)?;
        if let Err(error) = self.workers.add(&pod).await {
            self.certificates.release(&pod.identity);
            if before.is_none() {
                // Some workers may accept already; they must not stay alone.
                self.workers.remove(&pod.uid).await?;
            }
            return Err(error.into());
        }
        pod.listeners.close();
        match before {
            Some(before) => self.certificates.release(&before.identity),
            None => self.metrics.pod_started(),
        }
        tracing::info!(
            uid = %pod.uid, namespace = &*pod.namespace, name = &*pod.name,
            identity = %pod.identity, "pod added"
        );
        self.name(&pod.uid);
        self.pods.send_modify(|pods| {
            pods.insert(pod.uid.clone(), pod);
        });
        Ok(())
    }

    /// The agent still knows a pod, but cannot hand it again.
    ///
    /// # Errors
    /// It is not known here, or the snapshot is complete.
    pub fn keep(&mut self, uid: &PodUid) -> Result<(), PodError> {
        if self.named.is_none() {
            return Err(PodError::LateKeep);
        }
        if !self.pods.borrow().contains_key(uid) {
            return Err(PodError::Unknown(uid.clone()));
        }
        self.name(uid);
        Ok(())
    }

    /// A pod is gone. One that is not known is gone already.
    ///
    /// # Errors
    /// A worker cannot be told.
    pub async fn delete(&mut self, uid: &PodUid) -> Result<(), PodError> {
        let Some(pod) = self.pods.borrow().get(uid).cloned() else {
            return Ok(());
        };
        if let Some(named) = &mut self.named {
            named.remove(uid);
        }
        self.pods.send_modify(|pods| {
            pods.remove(uid);
        });
        self.certificates.release(&pod.identity);
        self.metrics.pod_stopped();
        tracing::info!(uid = %uid, namespace = &*pod.namespace, name = &*pod.name, "pod gone");
        Ok(self.workers.remove(uid).await?)
    }

    /// The agent has named all pods: the others go.
    ///
    /// # Errors
    /// A worker cannot be told.
    pub async fn snapshot_complete(&mut self) -> Result<(), PodError> {
        let Some(named) = self.named.take() else {
            return Ok(());
        };
        let known: Vec<_> = self.pods.borrow().keys().cloned().collect();
        for uid in known.into_iter().filter(|uid| !named.contains(uid)) {
            self.delete(&uid).await?;
        }
        Ok(())
    }

    fn name(&mut self, uid: &PodUid) {
        if let Some(named) = &mut self.named {
            named.insert(uid.clone());
        }
    }
}
