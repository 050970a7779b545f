//! HTTP in a stream: requests, routes, answers. Knows no tunnel and no socket.
//!
//! The way of a request: [`downstream`] takes it off a connection ([`guard`] has seen its bytes),
//! [`exchange`] checks and routes it, [`tries`] sends it, [`upstream`] keeps the connections,
//! [`answer`] carries the answer back, [`log`] tells what became of it.

mod answer;
mod client;
mod downstream;
mod exchange;
mod grpc;
pub mod guard;
mod guarded;
mod h2c;
mod headers;
mod http2;
mod incoming;
pub mod limits;
mod linger;
mod log;
mod mirror;
mod pace;
mod pending;
mod plan;
mod preface;
mod relay;
mod sent;
mod session;
pub mod site;
mod target;
mod trace;
mod tries;
mod upgrade;
mod upstream;
mod watch;
pub mod websocket;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mesh::route::retry::Budget;
use mesh::service::ServiceKey;

use site::{Asked, Io, Site};

/// Budgets that are kept though no connection uses them: some hundred bytes each.
const BUDGETS_KEPT: usize = 1_024;

/// HTTP on one worker: what its connections share.
pub struct Proxy {
    site: Rc<dyn Site>,
    started: Instant,
    /// Requests under way.
    requests: Cell<usize>,
    pending: Cell<usize>,
    mirrors: Cell<usize>,
    /// By service; None: all workloads that were addressed themselves.
    budgets: RefCell<HashMap<Option<ServiceKey>, Rc<RefCell<Budget>>>>,
}

impl Proxy {
    /// With nothing pooled yet.
    #[must_use]
    pub fn new(site: Rc<dyn Site>) -> Rc<Self> {
        Rc::new(Self {
            started: site.now(),
            requests: Cell::new(0),
            pending: Cell::new(0),
            mirrors: Cell::new(0),
            budgets: RefCell::default(),
            site,
        })
    }

    /// Serves one connection, HTTP/1.1 or HTTP/2, until it has ended. Dropping the future ends it
    /// at once, but for requests of HTTP/2, which find that out by themselves.
    pub async fn serve(self: Rc<Self>, io: impl Io + 'static, asked: Rc<Asked>) {
        let io = linger::Lingering::new(io, &self.site);
        downstream::serve(self, io, asked).await;
    }

    /// One more request under way, or one less.
    fn count(&self, change: isize) {
        self.requests
            .set(self.requests.get().saturating_add_signed(change));
    }

    /// Whether no further request is taken.
    fn is_full(&self) -> bool {
        self.requests.get() >= self.site.limits().requests_max
    }

    fn since_start(&self) -> Duration {
        self.site.now().saturating_duration_since(self.started)
    }

    /// Retries of a service, counted over its connections.
    fn budget(&self, asked: &Asked) -> Rc<RefCell<Budget>> {
        let mut budgets = self.budgets.borrow_mut();
        if budgets.len() >= BUDGETS_KEPT {
            budgets.retain(|_, budget| Rc::strong_count(budget) > 1);
        }
        budgets.entry(asked.service.clone()).or_default().clone()
    }
}
