//! One downstream connection as its requests see it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, StatusCode};
use mesh::route::retry::Budget;
use slab::Slab;

use super::Proxy;
use super::guarded::Interim;
use super::http2::Hints;
use super::pace::Pace;
use super::site::{Asked, Site};

/// What the requests of a connection share.
pub struct Client {
    pub proxy: Rc<Proxy>,
    pub asked: Rc<Asked>,
    /// The client's address as text.
    pub address: HeaderValue,
    /// Retries of the addressed service, on this worker.
    pub budget: Rc<RefCell<Budget>>,
    /// Requests that are not over.
    requests: RefCell<Slab<Rc<Pace>>>,
    /// When they must be judged at the latest.
    judged_at: Cell<Option<Instant>>,
    /// Wakes who judges them.
    waker: RefCell<Option<Waker>>,
    /// When the last one was over, or the connection began.
    quiet_since: Cell<Instant>,
    /// Whether the next answer is the last one.
    pub is_draining: Cell<bool>,
    /// Whether it has shut its side (HTTP/1): it may read on, or be gone.
    pub has_ended: Cell<bool>,
}

/// Where interim answers (1xx) of one request go.
#[derive(Clone)]
pub(super) enum Interims {
    /// Of that number, from 1.
    Http1(Arc<Interim>, u64),
    Http2(Arc<Hints>),
}

impl Interims {
    /// One more.
    pub(super) fn answer(&self, status: StatusCode, headers: &HeaderMap) {
        match self {
            Self::Http1(interim, request) => interim.answer(*request, status, headers),
            Self::Http2(hints) => hints.answer(status, headers),
        }
    }
}

impl Client {
    pub fn new(proxy: &Rc<Proxy>, asked: Rc<Asked>) -> Rc<Self> {
        let address = HeaderValue::try_from(asked.client.ip().to_canonical().to_string());
        Rc::new(Self {
            address: address.expect("an address is a value"),
            budget: proxy.budget(&asked),
            requests: RefCell::default(),
            judged_at: Cell::new(None),
            waker: RefCell::default(),
            quiet_since: Cell::new(proxy.site.now()),
            is_draining: Cell::new(false),
            has_ended: Cell::new(false),
            proxy: proxy.clone(),
            asked,
        })
    }

    pub fn site(&self) -> &Rc<dyn Site> {
        &self.proxy.site
    }

    /// A request has begun. Returns its place, for [`Self::on_end`].
    pub fn on_request(&self, now: Instant, pace: &Rc<Pace>) -> usize {
        self.proxy.count(1);
        self.judge_by(now + self.site().limits().stall_timeout);
        self.requests.borrow_mut().insert(pace.clone())
    }

    pub fn on_end(&self, now: Instant, place: usize) {
        self.proxy.count(-1);
        self.requests.borrow_mut().remove(place);
        self.quiet_since.set(now);
    }

    /// Since when no request is under way; None: one is.
    pub fn quiet_since(&self) -> Option<Instant> {
        let is_quiet = self.requests.borrow().is_empty();
        is_quiet.then(|| self.quiet_since.get())
    }

    /// When [`Self::judge`] is due.
    pub fn judged_at(&self) -> Option<Instant> {
        self.judged_at.get()
    }

    /// Who is to be woken when that becomes earlier.
    pub fn wake_with(&self, waker: &Waker) {
        let mut own = self.waker.borrow_mut();
        if !own.as_ref().is_some_and(|one| one.will_wake(waker)) {
            *own = Some(waker.clone());
        }
    }

    /// Its requests are judged then, or sooner.
    pub fn judge_by(&self, at: Instant) {
        if self.judged_at.get().is_some_and(|earlier| earlier <= at) {
            return;
        }
        self.judged_at.set(Some(at));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Ends the requests whose time is over. True: one of them can only end with its connection, if
    /// that is of HTTP/1.
    pub fn judge(&self, now: Instant) -> bool {
        let limits = self.site().limits();
        // Who is gone looks the same until something is written: it is not waited for as long.
        let quiet = match self.has_ended.get() {
            true => limits.stall_timeout,
            false => limits.quiet_timeout,
        };
        let (mut next, mut is_unread) = (None::<Instant>, false);
        for (_, pace) in &*self.requests.borrow() {
            match pace.judge(now, limits.stall_timeout, quiet) {
                Ok(at) => next = Some(next.map_or(at, |next| next.min(at))),
                Err(cut) => is_unread |= cut.is_unread,
            }
        }
        self.judged_at.set(next);
        is_unread
    }
}
