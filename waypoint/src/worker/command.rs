//! What the control side tells a worker, and how it is sent. Bounded, and answered.

use std::sync::Arc;
use std::time::Duration;

use carrier::limits::COMMAND_WAIT;
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::dump::ConnectionView;

/// One order to a worker.
pub enum Command {
    /// Show the live connections.
    Dump(oneshot::Sender<Vec<ConnectionView>>),
    /// Stop accepting, let connections end for so long, then end them, and return. A second one
    /// can only make it shorter.
    Drain(Duration),
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

    /// The live connections of all workers that answer in time.
    pub async fn dump(&self) -> Vec<ConnectionView> {
        let each = self.queues.iter().map(|queue| async move {
            let (reply, answer) = oneshot::channel();
            send(queue, Command::Dump(reply)).await?;
            timeout(COMMAND_WAIT, answer).await.ok()?.ok()
        });
        let answers = join_all(each).await;
        answers.into_iter().flatten().flatten().collect()
    }

    /// Tells every worker to drain, for that long at most. Their threads end afterwards.
    pub async fn drain(&self, within: Duration) {
        for queue in self.queues.iter() {
            // A worker that is gone has drained.
            let _ = send(queue, Command::Drain(within)).await;
        }
    }
}

async fn send(queue: &mpsc::Sender<Command>, command: Command) -> Option<()> {
    timeout(COMMAND_WAIT, queue.send(command)).await.ok()?.ok()
}
