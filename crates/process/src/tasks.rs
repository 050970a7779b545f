//! The owner of a process' tokio tasks: each has a name, hears of the stop, gets a bounded grace,
//! is joined, and is reported when it fails.
//!
//! The one place outside of `netio` that may call `tokio::spawn`. Knows nothing of what tasks do.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// How long an aborted task may take to let go: abort takes effect at the next await, so what
/// takes longer is blocking a thread and is named in [`Drained::stuck`].
const ABORT_WAIT: Duration = Duration::from_secs(1);

/// What a task may return: nothing, or a result whose error is a failure of the process.
pub trait Outcome {
    /// The sentence to report, None when all is well.
    fn failure(self) -> Option<String>;
}

impl Outcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display> Outcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

/// A task that returned an error or panicked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task `{task}` failed: {reason}")]
pub struct TaskFailure {
    /// Name given at [`Tasks::spawn`].
    pub task: Cow<'static, str>,
    /// Its error, or the panic's message.
    pub reason: String,
}

/// How a shutdown went. All lists are empty when every task ended by itself within the grace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Names of tasks that were still running when the grace was over, and were ended.
    pub forced: Vec<String>,
    /// Names of tasks that did not even end then (they block a thread).
    pub stuck: Vec<String>,
}

/// Owner of tasks. Clones are handles of the same set.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    stop: CancellationToken,
    set: Mutex<Set>,
    /// Number of tasks in `set`; what [`Tasks::shutdown`] waits on.
    running: watch::Sender<usize>,
    /// The first failure; what [`Tasks::failed`] waits on.
    failure: watch::Sender<Option<TaskFailure>>,
}

#[derive(Default)]
struct Set {
    next_id: u64,
    /// After the grace no task is taken any more.
    closed: bool,
    tasks: BTreeMap<u64, (Cow<'static, str>, Option<AbortHandle>)>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// An empty set that was not told to stop.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                stop: CancellationToken::new(),
                set: Mutex::default(),
                running: watch::Sender::new(0),
                failure: watch::Sender::new(None),
            }),
        }
    }

    /// The token that is cancelled when the process shall stop: every task listens to it.
    pub fn stop(&self) -> CancellationToken {
        self.inner.stop.clone()
    }

    /// Runs `future` under `name` until it ends, or until the grace of [`Tasks::shutdown`] is
    /// over. An `Err` or a panic is logged and ends [`Tasks::failed`]. After that grace nothing is
    /// started any more: the future is dropped.
    ///
    /// Must be called within a tokio runtime.
    pub fn spawn<F>(&self, name: impl Into<Cow<'static, str>>, future: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        let name = name.into();
        let id = {
            let mut set = self.inner.set();
            if set.closed {
                tracing::debug!(task = %name, "not started, the process is stopping");
                return;
            }
            set.next_id += 1;
            let id = set.next_id;
            set.tasks.insert(id, (name.clone(), None));
            id
        };
        self.inner.running.send_modify(|count| *count += 1);
        let membership = Membership {
            inner: self.inner.clone(),
            id,
        };
        // The lock is not held here: a runtime that is shutting down drops the future at once,
        // and its membership takes the lock.
        #[allow(clippy::disallowed_methods)] // This module is the owner the ban speaks of.
        let handle = tokio::spawn(watched(membership, name, future)).abort_handle();
        let mut set = self.inner.set();
        if set.closed {
            handle.abort();
        }
        if let Some(task) = set.tasks.get_mut(&id) {
            task.1 = Some(handle);
        }
    }

    /// How many tasks run now.
    pub fn running(&self) -> usize {
        *self.inner.running.borrow()
    }

    /// Waits for the first task that fails. Never ends when none does.
    pub async fn failed(&self) -> TaskFailure {
        let mut failure = self.inner.failure.subscribe();
        let failed = failure
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|f| f.clone());
        match failed {
            Some(failure) => failure,
            // The sender lives in `self.inner`, which this call borrows.
            None => std::future::pending().await,
        }
    }

    /// Tells all tasks to stop, waits `grace` for them to end, then ends those that are left.
    pub async fn shutdown(&self, grace: Duration) -> Drained {
        self.inner.stop.cancel();
        if tokio::time::timeout(grace, self.ended()).await.is_ok() {
            return Drained::default();
        }
        let forced = self.inner.close();
        if !forced.is_empty() {
            tracing::warn!(?grace, tasks = ?forced, "ended after the grace was over");
        }
        // Whether it timed out is read from the names that are left.
        let _ = tokio::time::timeout(ABORT_WAIT, self.ended()).await;
        let stuck = self.inner.names();
        if !stuck.is_empty() {
            tracing::error!(tasks = ?stuck, "block a thread and cannot be ended");
        }
        Drained { forced, stuck }
    }

    async fn ended(&self) {
        // The sender lives in `self.inner`: waiting cannot fail.
        let _ = self
            .inner
            .running
            .subscribe()
            .wait_for(|count| *count == 0)
            .await;
    }
}

impl Inner {
    fn set(&self) -> MutexGuard<'_, Set> {
        // No code that can panic runs under this lock.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> Vec<String> {
        self.set()
            .tasks
            .values()
            .map(|(name, _)| name.to_string())
            .collect()
    }

    fn close(&self) -> Vec<String> {
        let mut set = self.set();
        set.closed = true;
        for (_, handle) in set.tasks.values() {
            // None: `spawn` is between its two locks and will see `closed`.
            if let Some(handle) = handle {
                handle.abort();
            }
        }
        set.tasks
            .values()
            .map(|(name, _)| name.to_string())
            .collect()
    }
}

/// Takes its task out of the set however it ends, also when it is aborted.
struct Membership {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.inner.set().tasks.remove(&self.id);
        self.inner.running.send_modify(|count| *count -= 1);
    }
}

async fn watched<F>(membership: Membership, name: Cow<'static, str>, future: F)
where
    F: Future<Output: Outcome> + Send + 'static,
{
    // Nothing of a panicked task is used again but the message.
    let reason = match AssertUnwindSafe(future).catch_unwind().await {
        Ok(outcome) => outcome.failure(),
        Err(panic) => Some(format!("panicked: {}", panic_text(panic.as_ref()))),
    };
    if let Some(reason) = reason {
        let failure = TaskFailure { task: name, reason };
        tracing::error!(task = %failure.task, reason = %failure.reason, "task failed");
        membership.inner.failure.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(failure);
            }
            is_first
        });
    }
    drop(membership);
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// A future that ends with the name of the signal when SIGTERM or SIGINT arrives. Signals are
/// taken from the moment of the call, not of the first poll.
///
/// # Errors
/// When the handlers could not be installed (outside of a tokio runtime, or no descriptors left).
pub fn terminated() -> io::Result<impl Future<Output = &'static str>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_listens_is_joined_within_the_grace() {
        let tasks = Tasks::new();
        let stop = tasks.stop();
        tasks.spawn("listener", async move { stop.cancelled().await });
        assert_eq!(tasks.running(), 1);
        assert_eq!(
            tasks.shutdown(Duration::from_secs(5)).await,
            Drained::default()
        );
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn a_task_that_does_not_listen_is_ended_and_named() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending::<()>());
        let drained = tasks.shutdown(Duration::from_millis(1)).await;
        assert_eq!(drained.forced, ["deaf"]);
        assert_eq!(drained.stuck, Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_first_failure_is_reported_with_the_name() {
        let tasks = Tasks::new();
        tasks.spawn("fine", async {});
        tasks.spawn("feed", async { Err::<(), _>("no bytes") });
        let failure = tasks.failed().await;
        assert_eq!(failure.to_string(), "task `feed` failed: no bytes");
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_and_leaves_the_set() {
        let tasks = Tasks::new();
        tasks.spawn("shaky", async { assert_eq!(1, 2, "arithmetic") });
        let failure = tasks.failed().await;
        assert!(failure.reason.contains("arithmetic"), "{failure}");
        assert_eq!(
            tasks.shutdown(Duration::from_secs(5)).await,
            Drained::default()
        );
    }

    #[tokio::test]
    async fn after_the_grace_nothing_is_started() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending::<()>());
        tasks.shutdown(Duration::from_millis(1)).await;
        tasks.spawn("late", std::future::pending::<()>());
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn a_signal_to_the_process_ends_the_wait() {
        let terminated = terminated().unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(terminated.await, "SIGTERM");
    }
}
