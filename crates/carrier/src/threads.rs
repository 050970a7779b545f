//! The threads of the workers: started, watched, joined. Knows not what they do.

use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::limits::WORKER_STACK_BYTES;

/// Why a worker's thread ended.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// Its executor could not be made.
    #[error("worker {0}: {1}")]
    Executor(usize, io::Error),
    /// It panicked; the panic itself was printed.
    #[error("worker {0} panicked")]
    Panicked(usize),
}

/// Threads that have not been joined.
pub struct Threads {
    running: Vec<Option<JoinHandle<io::Result<()>>>>,
    ending: mpsc::Sender<usize>,
    ended: mpsc::Receiver<usize>,
}

impl Threads {
    /// None yet, room for so many.
    pub fn new(most: usize) -> Self {
        let (ending, ended) = mpsc::channel(most.max(1));
        Self {
            running: Vec::with_capacity(most),
            ending,
            ended,
        }
    }

    /// Starts one.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(
        &mut self,
        number: usize,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let last_word = LastWord {
            place: self.running.len(),
            ending: self.ending.clone(),
        };
        let thread = Builder::new()
            .name(format!("worker-{number}"))
            .stack_size(WORKER_STACK_BYTES)
            .spawn(move || {
                let _last_word = last_word;
                work()
            })?;
        self.running.push(Some(thread));
        Ok(())
    }

    /// Waits for the next one to end and joins it; None when none is left.
    ///
    /// # Errors
    /// It did not end well.
    pub async fn next(&mut self) -> Option<Result<(), ThreadError>> {
        if self.running.iter().all(Option::is_none) {
            return None;
        }
        let number = self.ended.recv().await?;
        let thread = self.running.get_mut(number)?.take()?;
        // It has said its last word: there is nothing left to wait for.
        Some(match thread.join() {
            Ok(outcome) => outcome.map_err(|error| ThreadError::Executor(number, error)),
            Err(_) => Err(ThreadError::Panicked(number)),
        })
    }

    /// Waits until all have ended, but no longer than so: the process ends then anyway, and its
    /// sockets with it.
    ///
    /// # Errors
    /// One did not end well.
    pub async fn join(&mut self, within: Duration) -> Result<(), ThreadError> {
        let all = async {
            while let Some(ended) = self.next().await {
                ended?;
            }
            Ok(())
        };
        tokio::time::timeout(within, all).await.unwrap_or_else(|_| {
            tracing::warn!("a worker did not end in time");
            Ok(())
        })
    }
}

/// Says that its thread ends, also when that panics.
struct LastWord {
    place: usize,
    ending: mpsc::Sender<usize>,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        // There is room for one word of each, and nobody listens any more if this fails.
        let _ = self.ending.try_send(self.place);
    }
}
