//! hyper on a worker's executor: its tasks and its timers. Knows no connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use netio::executor::Spawner;

/// Starts hyper's tasks in the scope of a worker.
#[derive(Clone, Debug)]
pub struct Tasks {
    spawner: Spawner,
}

impl Tasks {
    /// Tasks of that scope.
    #[must_use]
    pub fn new(spawner: Spawner) -> Self {
        Self { spawner }
    }

    /// Starts one. Past the worker's bound it is dropped, which closes what it holds.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if let Err(error) = self.spawner.spawn(task) {
            tracing::error!(%error, "a task was dropped");
        }
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

/// The executor's time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timer;

impl hyper::rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Sleep(netio::time::sleep(duration)))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Sleep(netio::time::sleep_until(deadline)))
    }
}

struct Sleep(netio::time::Sleep);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl hyper::rt::Sleep for Sleep {}
