//! The ZDS server: tells every connected ztunnel which pods to serve, and hands it their
//! namespaces and listeners.
//!
//! Adds go to the newest ztunnel that is ready, deletions to all: during an upgrade two are
//! connected, and the older one serves what it has. Knows no steering and no CNI.

mod registry;
mod session;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netio::netns::Netns;
use netio::seqpacket;
use process::tasks::Tasks;
use proto::zds::PodInfo;
use tokio::sync::{oneshot, watch};

use crate::message::ZtunnelStatus;
use crate::steering::pod::Listeners;
use registry::{Change, Registry};

pub use registry::Known;

/// Time for a message to leave and for its answer to come, each (`protocol.md` 5).
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two accepted connections: 5 a second (`protocol.md` 5).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Most connected ztunnels: two during an upgrade, and as many that died unnoticed.
const MAX_SESSIONS: usize = 4;

/// How often an add is tried again on the next ztunnel when the one it went to is lost.
const ADD_ATTEMPTS: usize = 3;

/// A pod as a ztunnel gets it.
#[derive(Debug)]
pub struct HandedPod {
    /// Kubernetes UID.
    pub uid: String,
    /// Who it is.
    pub info: PodInfo,
    /// Its namespace.
    pub netns: Netns,
    /// Its listeners.
    pub listeners: Arc<Listeners>,
}

/// Why a pod could not be handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandError {
    /// No ztunnel is connected and ready.
    #[error("ztunnel is not connected")]
    NotConnected,
    /// ztunnel answered with an error.
    #[error("ztunnel refused the pod: {0}")]
    Refused(String),
    /// ztunnel did not answer, on this connection and on those after it.
    #[error("ztunnel did not acknowledge the pod")]
    Unanswered,
}

/// Checks a ztunnel that said hello, by its process id; an error refuses it.
pub type Admit = dyn Fn(i32) -> Result<(), String> + Send + Sync;

/// The server's state. Clones are handles.
#[derive(Clone)]
pub struct Zds {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Mutex<Registry>,
    /// Number of ready ztunnels.
    ready: watch::Sender<usize>,
    /// Changes with each pod that a ztunnel acknowledges.
    acks: watch::Sender<()>,
    admit: Box<Admit>,
}

impl fmt::Debug for Zds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Zds").field(&self.status()).finish()
    }
}

impl Zds {
    /// A server that knows no pods and no ztunnel.
    pub fn new(admit: Box<Admit>) -> Self {
        let inner = Inner {
            registry: Mutex::default(),
            ready: watch::Sender::new(0),
            acks: watch::Sender::new(()),
            admit,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Accepts ztunnels until the tasks' stop.
    pub async fn serve(self, listener: seqpacket::Listener, tasks: Tasks) {
        let stop = tasks.stop();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(conn) => self.take(conn, &tasks),
                Err(error) => tracing::warn!(%error, "a ztunnel could not be accepted"),
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    fn take(&self, conn: seqpacket::Conn, tasks: &Tasks) {
        let sessions = self.registry().sessions();
        if sessions >= MAX_SESSIONS {
            tracing::warn!(sessions, "refused a ztunnel: too many are connected");
            return;
        }
        let (zds, stop) = (self.clone(), tasks.stop());
        tasks.spawn("zds session", session::run(conn, zds, stop));
    }

    /// Says that a pod is there without telling any ztunnel: for the time before [`Zds::serve`].
    pub fn remember(&self, uid: &str, known: Known) {
        self.registry().remember(uid, known);
    }

    /// Hands a pod over and waits for the acknowledgement. Replaces what was known of its uid.
    ///
    /// # Errors
    /// [`HandError`]; the pod is then unknown to the server and withdrawn from ztunnels.
    pub async fn add(&self, pod: Arc<HandedPod>) -> Result<(), HandError> {
        let uid = pod.uid.clone();
        let result = self.try_add(pod).await;
        if result.is_err() {
            // Whoever may have taken it must not serve a pod that is not steered.
            self.delete(&uid).await;
        }
        result
    }

    async fn try_add(&self, pod: Arc<HandedPod>) -> Result<(), HandError> {
        for _ in 0..ADD_ATTEMPTS {
            let answer = self.registry().add(&pod).ok_or(HandError::NotConnected)?;
            match answer.await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(reason)) => return Err(HandError::Refused(reason)),
                // The session ended; another may be there.
                Err(oneshot::error::RecvError { .. }) => {}
            }
        }
        Err(HandError::Unanswered)
    }

    /// Tells all ztunnels that a pod is gone, and waits for their answers. Unknown is fine.
    pub async fn delete(&self, uid: &str) {
        let answers = self.registry().delete(uid);
        for answer in answers {
            // A session that ended has dropped its pods with it, or will at its next snapshot.
            if let Ok(Err(reason)) = answer.await {
                tracing::warn!(uid, reason, "ztunnel did not delete a pod");
            }
        }
    }

    /// Whether a ztunnel has acknowledged its snapshot; waits for one up to `patience`.
    pub async fn ready(&self, patience: Duration) -> bool {
        let mut ready = self.inner.ready.subscribe();
        let found = tokio::time::timeout(patience, ready.wait_for(|count| *count > 0)).await;
        matches!(found, Ok(Ok(_)))
    }

    /// The number of ready ztunnels, followed as it changes.
    pub fn watch_ready(&self) -> watch::Receiver<usize> {
        self.inner.ready.subscribe()
    }

    /// Changes whenever a connected ztunnel has acknowledged a pod.
    pub fn watch_acks(&self) -> watch::Receiver<()> {
        self.inner.acks.subscribe()
    }

    /// Whether a connected ztunnel has acknowledged the pod.
    pub fn has_acked(&self, uid: &str) -> bool {
        self.registry().has_acked(uid)
    }

    /// Connected ztunnels, the newest last.
    pub fn status(&self) -> Vec<ZtunnelStatus> {
        self.registry().status()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Nothing that can panic runs under this lock.
        self.inner
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn acked(&self, session: u64, uid: &str) {
        self.registry().acked(session, uid);
        self.inner.acks.send_replace(());
    }

    fn publish_ready(&self) {
        let count = self.registry().ready();
        self.inner
            .ready
            .send_if_modified(|known| std::mem::replace(known, count) != count);
    }
}

/// What a session does with a change that a handle asked for.
type Answer = oneshot::Sender<Result<(), String>>;

/// One change on its way to one ztunnel.
struct Command {
    change: Change,
    answer: Answer,
}
