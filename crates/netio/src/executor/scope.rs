//! The owner of local tasks: none outlives it, there are never more than its bound, finished ones
//! are freed at once.
//!
//! It must not know what its tasks do, nor restart them.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use tokio::sync::Notify;

use super::core::{here, try_here};
use super::task::Owner;

/// The scope holds as many tasks as it may, or it is gone. The caller refuses what it wanted to
/// start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no further task: the limit of {limit} is reached")]
pub struct ScopeFull {
    /// The bound that was given to [`Scope::new`]; 0 when the scope is gone.
    pub limit: usize,
}

/// Owner of the tasks that are spawned through it. Dropping it aborts them.
///
/// An aborted task is dropped at its next turn, between two awaits. Sockets that only it held are
/// closed then.
#[derive(Debug)]
pub struct Scope {
    inner: Rc<Inner>,
}

/// Spawns into a [`Scope`] without owning it; for tasks that start tasks.
#[derive(Debug, Clone)]
pub struct Spawner {
    inner: Weak<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: usize,
    /// Tasks that have not ended.
    tasks: Cell<usize>,
    emptied: Notify,
    panicked: Cell<usize>,
}

impl Scope {
    /// An empty scope for at most `limit` tasks at a time.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            inner: Rc::new(Inner {
                limit,
                tasks: Cell::new(0),
                emptied: Notify::new(),
                panicked: Cell::new(0),
            }),
        }
    }

    /// Starts a task on this thread.
    ///
    /// # Errors
    /// [`ScopeFull`] at the bound; the future is dropped.
    ///
    /// # Panics
    /// Outside of [`super::run`].
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) -> Result<(), ScopeFull> {
        spawn(&self.inner, task)
    }

    /// A handle for tasks that start further tasks here.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        Spawner {
            inner: Rc::downgrade(&self.inner),
        }
    }

    /// How many tasks have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.tasks.get()
    }

    /// No task is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tasks have ended by a panic so far. The panic itself went to the panic hook.
    #[must_use]
    pub fn panicked(&self) -> usize {
        self.inner.panicked.get()
    }

    /// Waits until no task is left, also those that are spawned meanwhile. May be cancelled.
    pub async fn join_all(&self) {
        loop {
            let emptied = self.inner.emptied.notified();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Asks every task to stop at its next turn. [`Scope::join_all`] then waits for that.
    pub fn abort_all(&self) {
        self.inner.abort_all();
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.inner.abort_all();
    }
}

impl Spawner {
    /// As [`Scope::spawn`].
    ///
    /// # Errors
    /// [`ScopeFull`] at the bound and when the scope is gone; the future is dropped.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) -> Result<(), ScopeFull> {
        let inner = self.inner.upgrade().ok_or(ScopeFull { limit: 0 })?;
        spawn(&inner, task)
    }
}

impl Inner {
    /// What its tasks are found by: it lies there as long as one of them lives.
    fn owner(&self) -> Owner {
        NonNull::from(self).cast()
    }

    fn abort_all(&self) {
        // Without an executor none of them is left.
        if let Some(core) = try_here() {
            core.abort(self.owner());
        }
    }
}

fn spawn(inner: &Rc<Inner>, task: impl Future<Output = ()> + 'static) -> Result<(), ScopeFull> {
    let tasks = inner.tasks.get();
    if tasks >= inner.limit {
        return Err(ScopeFull { limit: inner.limit });
    }
    inner.tasks.set(tasks + 1);
    let seat = Seat(Rc::clone(inner));
    here().spawn_for(inner.owner(), Box::pin(Seated { task, seat }));
    Ok(())
}

/// A task and its place. An async block that awaits what it captured would be twice as large: it
/// keeps room for the task where it was captured and where it is awaited.
struct Seated<T> {
    task: T,
    seat: Seat,
}

impl<T: Future<Output = ()>> Future for Seated<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `task` is never moved out of the pinned value: it is only polled here, in place,
        // and dropped with the whole. `Seated` has no Drop of its own and `seat` is not pinned.
        let (task, seat) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.task), &this.seat)
        };
        let _alarm = Alarm(&seat.0);
        task.poll(cx)
    }
}

/// Counts a panic that passes by.
struct Alarm<'a>(&'a Inner);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.set(self.0.panicked.get() + 1);
        }
    }
}

/// A task's place in its scope; freed however the task ends.
struct Seat(Rc<Inner>);

impl Drop for Seat {
    fn drop(&mut self) {
        let inner = &*self.0;
        // While it is dropped; a panic of its turn was counted then.
        let _alarm = Alarm(inner);
        inner.tasks.set(inner.tasks.get() - 1);
        if inner.tasks.get() == 0 {
            inner.emptied.notify_waiters();
        }
    }
}
