//! The times of one downstream connection: its head, its idleness, its requests, the drain. One
//! timer for all of them, and none is touched by a request. Knows no bytes.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::client::Client;

/// What a connection has waited for long enough.
pub(super) enum Due {
    /// The head that has begun.
    Head,
    /// The next request: the connection ends when it has written what it has.
    Idle,
    /// Its end, or a client that reads: it is broken off.
    Cut,
}

/// How far the worker's drain is.
pub(super) enum Drain {
    /// No connection takes more than one request.
    Begins,
    /// Idle connections are closed.
    Ends,
}

enum Waited {
    Head,
    Idle,
    Cut,
    Requests,
}

/// Watches one connection.
pub(super) struct Watch {
    client: Rc<Client>,
    draining: Option<LocalBoxFuture<'static, ()>>,
    closing: Option<LocalBoxFuture<'static, ()>>,
    timer: Option<(Instant, LocalBoxFuture<'static, ()>)>,
    /// When it was told to end for its idleness.
    ends_since: Option<Instant>,
}

impl Watch {
    pub(super) fn new(client: &Rc<Client>) -> Self {
        let site = client.site();
        let revoked = || client.asked.revoked.clone().cancelled_owned();
        let draining = futures::future::select(site.draining(), Box::pin(revoked()));
        Self {
            draining: Some(draining.map(|_| ()).boxed_local()),
            closing: None,
            client: client.clone(),
            timer: None,
            ends_since: None,
        }
    }

    /// Each step once.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Option<Drain> {
        let is_over = |wait: &mut Option<LocalBoxFuture<'static, ()>>, cx: &mut Context<'_>| {
            let is_over = wait
                .as_mut()
                .is_some_and(|one| one.as_mut().poll(cx).is_ready());
            if is_over {
                *wait = None;
            }
            is_over
        };
        if is_over(&mut self.draining, cx) {
            self.closing = Some(match self.client.asked.revoked.is_cancelled() {
                true => Box::pin(std::future::ready(())),
                false => self.client.site().closing(),
            });
            return Some(Drain::Begins);
        }
        is_over(&mut self.closing, cx).then_some(Drain::Ends)
    }

    /// Ready when something is due; the timer of an earlier wish is kept and looked at again.
    /// Requests whose time is over are told so here.
    pub(super) fn poll_due(
        &mut self,
        cx: &mut Context<'_>,
        head_since: Option<Instant>,
    ) -> Poll<Due> {
        self.client.wake_with(cx.waker());
        loop {
            let Some((at, waited)) = self.next(head_since) else {
                return Poll::Pending;
            };
            let site = self.client.site();
            if self.timer.as_ref().is_none_or(|(set, _)| *set > at) {
                self.timer = Some((at, site.sleep_until(at)));
            }
            if let Some((_, timer)) = &mut self.timer
                && timer.as_mut().poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            self.timer = None;
            let now = site.now();
            if now < at {
                continue;
            }
            match waited {
                Waited::Head => return Poll::Ready(Due::Head),
                Waited::Cut => return Poll::Ready(Due::Cut),
                Waited::Idle => {
                    self.ends_since = Some(now);
                    return Poll::Ready(Due::Idle);
                }
                Waited::Requests if self.client.judge(now) => return Poll::Ready(Due::Cut),
                Waited::Requests => {}
            }
        }
    }

    fn next(&self, head_since: Option<Instant>) -> Option<(Instant, Waited)> {
        let limits = self.client.site().limits();
        let head = head_since.map(|since| (since + limits.head_timeout, Waited::Head));
        let quiet_since = self.client.quiet_since();
        let idle = match (quiet_since, self.ends_since) {
            (None, _) => None,
            // Time to write what is left of its answers.
            (Some(_), Some(since)) => Some((since + limits.stall_timeout, Waited::Cut)),
            (Some(since), None) => Some((since + limits.idle_timeout, Waited::Idle)),
        };
        let requests = self.client.judged_at().map(|at| (at, Waited::Requests));
        let all = [head.or(idle), requests].into_iter().flatten();
        all.min_by_key(|(at, _)| *at)
    }
}
