//! Waiting for a moment, on an executor's thread. tokio's timers need tokio's runtime and panic
//! here; these are the same on both back ends.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

pub use std::time::{Duration, Instant};

use crate::executor::core::{here, try_here};
use crate::executor::timer::Key;

/// Time ran out first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("time ran out")]
pub struct Elapsed;

/// Waits so long. A duration beyond the clock's range never ends.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep {
        at: Instant::now().checked_add(duration),
        key: None,
    }
}

/// Waits until then.
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep {
        at: Some(at),
        key: None,
    }
}

/// What `future` gives, when it does within that time; else it is dropped.
///
/// # Errors
/// [`Elapsed`].
///
/// # Panics
/// When it has to wait outside of [`crate::executor::run`].
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    first(sleep(duration), future).await
}

/// [`timeout`] with the moment instead of the time until it.
///
/// # Errors
/// [`Elapsed`].
///
/// # Panics
/// As [`timeout`].
pub async fn timeout_at<F: Future>(at: Instant, future: F) -> Result<F::Output, Elapsed> {
    first(sleep_until(at), future).await
}

async fn first<F: Future>(sleep: Sleep, future: F) -> Result<F::Output, Elapsed> {
    let (mut sleep, mut future) = (sleep, pin!(future));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed)),
    })
    .await
}

/// The future of [`sleep`] and [`sleep_until`].
#[derive(Debug)]
pub struct Sleep {
    /// `None`: beyond the clock.
    at: Option<Instant>,
    /// Its entry among the executor's timers, once it waits.
    key: Option<Key>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        if Instant::now() >= at {
            return Poll::Ready(());
        }
        let core = here();
        match self.key {
            Some(key) => core.timers().update(key, cx.waker()),
            None => self.key = Some(core.timers().add(at, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key
            && let Some(core) = try_here()
        {
            core.timers().remove(key);
        }
    }
}
