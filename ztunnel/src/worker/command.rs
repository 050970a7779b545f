//! What the control side tells a worker, and how it is sent. Bounded, and answered.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::dump::ConnectionView;
use crate::pod::{Pod, PodUid};
use carrier::limits::COMMAND_WAIT;

/// One order to a worker.
pub enum Command {
    /// Accept on the listeners of a pod (new, or with new listeners); answered when it does.
    Add(Arc<Pod>, oneshot::Sender<Result<(), String>>),
    /// The pod is gone: stop accepting, end its connections.
    Remove(PodUid),
    /// Show the live connections.
    Dump(oneshot::Sender<Vec<ConnectionView>>),
    /// Stop accepting, let connections end for so long, then end them, and return. A second one
    /// can only make it shorter.
    Drain(Duration),
}

/// Why a worker did not do it.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Its queue is full, or it does not answer.
    #[error("a worker did not answer within {} s", COMMAND_WAIT.as_secs())]
    Silent,
    /// It is gone.
    #[error("a worker is gone")]
    Gone,
    /// It says why not.
    #[error("{0}")]
    Failed(String),
}

/// All workers, as the control side sees them. Clones reach the same workers.
#[derive(Clone)]
pub struct Workers {
    queues: Arc<[mpsc::Sender<Command>]>,
}

impl Workers {
    /// Of the queues of each.
    pub fn new(queues: Vec<mpsc::Sender<Command>>) -> Self {
        Self {
            queues: queues.into(),
        }
    }

    /// Every worker accepts on the pod's listeners when this returns.
    ///
    /// # Errors
    /// One of them does not; the others may.
    pub async fn add(&self, pod: &Arc<Pod>) -> Result<(), CommandError> {
        let each = self.queues.iter().map(|queue| async move {
            let (done, answer) = oneshot::channel();
            send(queue, Command::Add(Arc::clone(pod), done)).await?;
            let answer = timeout(COMMAND_WAIT, answer)
                .await
                .map_err(|_| CommandError::Silent)?;
            answer
                .map_err(|_| CommandError::Gone)?
                .map_err(CommandError::Failed)
        });
        join_all(each).await.into_iter().collect()
    }

    /// Tells every worker to let a pod go. Not waited for.
    ///
    /// # Errors
    /// One of them cannot be told.
    pub async fn remove(&self, uid: &PodUid) -> Result<(), CommandError> {
        let each = self
            .queues
            .iter()
            .map(|queue| send(queue, Command::Remove(uid.clone())));
        join_all(each).await.into_iter().collect()
    }

    /// The live connections of all workers that answer in time.
    pub async fn dump(&self) -> Vec<ConnectionView> {
        let each = self.queues.iter().map(|queue| async move {
            let (reply, answer) = oneshot::channel();
            send(queue, Command::Dump(reply)).await.ok()?;
            timeout(COMMAND_WAIT, answer).await.ok()?.ok()
        });
        join_all(each)
            .await
            .into_iter()
            .flatten()
            .flatten()
            .collect()
    }

    /// Tells every worker to drain, for that long at most. Their threads end afterwards.
    pub async fn drain(&self, within: Duration) {
        for queue in self.queues.iter() {
            // A worker that is gone has drained.
            let _ = send(queue, Command::Drain(within)).await;
        }
    }
}

async fn send(queue: &mpsc::Sender<Command>, command: Command) -> Result<(), CommandError> {
    match timeout(COMMAND_WAIT, queue.send(command)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(CommandError::Gone),
        Err(_) => Err(CommandError::Silent),
    }
}
