//! How a request gets on: who owes the next bytes, and since when nothing has moved. The connection
//! that it came on judges it now and then, so that no request costs a timer. Knows no bytes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::site::Reason;

/// One request under way.
pub struct Pace {
    /// Pieces that moved, either way.
    moves: Cell<u32>,
    /// How many there were when it was judged last, and when that changed.
    judged: Cell<(u32, Instant)>,
    /// Who owes something of the request's body, while there is no answer.
    upload: Cell<Option<Side>>,
    /// Whether the client owes the reading of what it was given.
    is_unread: Cell<bool>,
    has_answer: Cell<bool>,
    /// Whether bytes go both ways outside of HTTP, with times of their own.
    is_tunnel: Cell<bool>,
    deadline: Cell<Option<Instant>>,
    ended: Cell<Option<Reason>>,
    waiter: RefCell<Option<Waker>>,
}

/// Of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Endpoint,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self {
            moves: Cell::new(0),
            judged: Cell::new((0, now)),
            upload: Cell::new(None),
            is_unread: Cell::new(false),
            has_answer: Cell::new(false),
            is_tunnel: Cell::new(false),
            deadline: Cell::new(None),
            ended: Cell::new(None),
            waiter: RefCell::new(None),
        }
    }

    fn on_move(&self) {
        self.moves.set(self.moves.get().wrapping_add(1));
    }

    /// A piece of the request's body came, and is the endpoint's to take.
    pub fn on_upload(&self) {
        self.on_move();
        self.upload.set(Some(Side::Endpoint));
    }

    /// The next piece of it is `by`'s to give; None: nobody can say.
    pub fn upload_is_owed(&self, by: Option<Side>) {
        self.upload.set(by);
    }

    /// The head of an answer came, whose body must be over at `deadline`.
    pub fn on_head(&self, deadline: Option<Instant>) {
        self.on_move();
        self.has_answer.set(true);
        self.deadline.set(deadline);
    }

    /// A piece of the answer came, and is the client's to take.
    pub fn on_answer(&self) {
        self.on_move();
        self.is_unread.set(true);
    }

    /// The client has taken what there was.
    pub fn on_read(&self) {
        self.is_unread.set(false);
    }

    /// Another protocol follows.
    pub fn on_tunnel(&self) {
        self.is_tunnel.set(true);
    }

    /// Why it must end; None: it need not.
    pub fn ended(&self) -> Option<Reason> {
        self.ended.get()
    }

    /// Ready when it must end.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<Reason> {
        if let Some(reason) = self.ended.get() {
            return Poll::Ready(reason);
        }
        let mut waiter = self.waiter.borrow_mut();
        if !waiter.as_ref().is_some_and(|one| one.will_wake(cx.waker())) {
            *waiter = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until it must end.
    pub async fn end(&self) -> Reason {
        poll_fn(|cx| self.poll_ended(cx)).await
    }

    /// Ends it when its time is over: a side owes bytes for as long as `stall`, or nothing at all
    /// has moved for as long as `quiet`. Otherwise: when to look again.
    pub fn judge(&self, now: Instant, stall: Duration, quiet: Duration) -> Result<Instant, Cut> {
        let (seen, mut since) = self.judged.get();
        let moves = self.moves.get();
        if moves != seen {
            since = now;
            self.judged.set((moves, now));
        }
        let late = self.deadline.get().filter(|at| *at <= now);
        let (limit, reason) = self.owing(stall, quiet);
        if !self.is_tunnel.get() && (late.is_some() || since + limit <= now) {
            self.ended
                .set(Some(late.map_or(reason, |_| Reason::TimedOut)));
            if let Some(waiter) = self.waiter.take() {
                waiter.wake();
            }
            return Err(Cut {
                is_unread: self.is_unread.get(),
            });
        }
        let next = limit.min(stall);
        let next = (since + limit).min(now + next);
        Ok(self.deadline.get().map_or(next, |at| at.min(next)))
    }

    /// How long nothing may move as things are, and whose fault it is then.
    fn owing(&self, stall: Duration, quiet: Duration) -> (Duration, Reason) {
        let upload = self.upload.get().filter(|_| !self.has_answer.get());
        match upload {
            _ if self.is_unread.get() => (stall, Reason::ClientStalled),
            Some(Side::Client) => (stall, Reason::ClientStalled),
            Some(Side::Endpoint) => (stall, Reason::EndpointStalled),
            None => (quiet, Reason::EndpointStalled),
        }
    }
}

/// A request whose time is over.
pub struct Cut {
    /// Whether its client does not read: nothing but the end of its connection (HTTP/1) tells it.
    pub is_unread: bool,
}
