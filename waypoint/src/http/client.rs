//! One downstream connection as its requests see it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use mesh::route::retry::Budget;
use tokio::sync::oneshot;

use super::Proxy;
use super::guarded::Interim;
use super::log::Log;
use super::site::{Asked, Site};
use super::upstream::Taken;

/// What the requests of a connection share.
pub struct Client {
    pub proxy: Rc<Proxy>,
    pub asked: Rc<Asked>,
    /// The client's address as text.
    pub address: HeaderValue,
    /// Retries of the addressed service, on this worker.
    pub budget: Rc<RefCell<Budget>>,
    /// Interim answers of an HTTP/1 connection; None: HTTP/2, where hyper sends none.
    pub interim: Option<Arc<Interim>>,
    /// Requests that are not over.
    active: Cell<usize>,
    /// When the last one was over, or the connection began.
    quiet_since: Cell<Instant>,
    /// Whether the next answer is the last one.
    pub is_draining: Cell<bool>,
    /// What an HTTP/1 connection becomes when its last answer is written.
    pub next: RefCell<Option<NextProtocol>>,
}

/// What comes behind an answer with status 101, or 2xx to CONNECT.
pub enum NextProtocol {
    /// Bytes both ways, with this endpoint.
    Tunnel(oneshot::Receiver<Taken>, Box<Log>),
    /// HTTP/2, whose first request is this HEADERS frame (stream 1).
    Http2(Vec<u8>),
}

impl Client {
    pub fn new(proxy: &Rc<Proxy>, asked: Rc<Asked>, interim: Option<Arc<Interim>>) -> Rc<Self> {
        let address = HeaderValue::try_from(asked.client.ip().to_canonical().to_string());
        Rc::new(Self {
            address: address.expect("an address is a value"),
            budget: proxy.budget(&asked),
            interim,
            active: Cell::new(0),
            quiet_since: Cell::new(proxy.site.now()),
            is_draining: Cell::new(false),
            next: RefCell::default(),
            proxy: proxy.clone(),
            asked,
        })
    }

    pub fn site(&self) -> &Rc<dyn Site> {
        &self.proxy.site
    }

    pub fn on_request(&self) {
        self.active.set(self.active.get() + 1);
    }

    pub fn on_end(&self, now: Instant) {
        self.active.set(self.active.get() - 1);
        self.quiet_since.set(now);
    }

    /// Since when no request is under way; None: one is.
    pub fn quiet_since(&self) -> Option<Instant> {
        (self.active.get() == 0).then(|| self.quiet_since.get())
    }
}
