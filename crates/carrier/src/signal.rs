//! A wake-up between two tasks of one thread. Knows no lock and no other thread.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Remembers that something happened until its one waiter has seen it.
///
/// Setting it twice before the waiter runs is one wake-up: the waiter looks at the state anyway.
#[derive(Default)]
pub struct Signal {
    set: Cell<bool>,
    waiter: Cell<Option<Waker>>,
}

impl Signal {
    /// Wakes the waiter, now or as soon as it waits.
    pub fn set(&self) {
        self.set.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// Whether the next wait would return at once.
    pub fn is_set(&self) -> bool {
        self.set.get()
    }

    /// Forgets that it was set.
    pub fn clear(&self) {
        self.set.set(false);
    }

    /// Returns once the signal was set, and clears it. Only one task may wait at a time: a
    /// second one would take the first one's place.
    pub async fn wait(&self) {
        poll_fn(|context| self.poll(context)).await;
    }

    /// As [`Signal::wait`].
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.set.replace(false) {
            return Poll::Ready(());
        }
        let waiter = self.waiter.take();
        let same = waiter.filter(|waiter| waiter.will_wake(context.waker()));
        self.waiter
            .set(Some(same.unwrap_or_else(|| context.waker().clone())));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_signal_set_before_the_wait_is_not_lost_and_counts_once() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let signal = Signal::default();
            signal.set();
            signal.set();
            signal.wait().await;
            let again = futures::poll!(Box::pin(signal.wait()));
            assert!(again.is_pending());
        });
    }

    #[test]
    fn a_waiter_is_woken_by_another_task() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let signal = Rc::new(Signal::default());
            let other = Rc::clone(&signal);
            let setter = async move {
                tokio::task::yield_now().await;
                other.set();
            };
            futures::join!(signal.wait(), setter);
        });
    }
}
