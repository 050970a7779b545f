//! One CONNECT of a client: what is known of it, what it moved, and how it is ended from outside.
//!
//! Knows no snapshot and no policy; those who do, end it with a reason.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use carrier::flag::Flag;
pub use carrier::labels::Party;
use carrier::relay::{End, Pulse};
use mesh::Identity;
use mesh::route::{RouteKey, ServicePort};
use mesh::service::ServiceKey;

use crate::record::{ConnectionRecord, Outcome, Phase};
use crate::worker::bindings::Binding;

/// Why a connection was ended by the waypoint itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// A push denies it now.
    #[error("connection closed by a later policy: {0}")]
    LateRejection(Arc<str>),
    /// The grace at shutdown is over.
    #[error("connection closed: the waypoint shut down and the drain deadline is over")]
    DrainDeadline,
}

impl Ended {
    /// What metrics say of it.
    pub fn flag(&self) -> Flag {
        match self {
            Self::LateRejection(_) => Flag::Deny,
            Self::DrainDeadline => Flag::None,
        }
    }
}

/// What becomes known of a connection on its way.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// Who made it.
    pub source: Party,
    /// The endpoint.
    pub destination: Party,
    /// The service that was addressed, or that a route chose.
    pub service: Option<ServiceKey>,
    /// The endpoint's address and port.
    pub actual: Option<SocketAddr>,
    /// Whether the endpoint was reached through a tunnel.
    pub is_tunnelled: bool,
    /// The TCPRoute or TLSRoute that took it, and the number of its rule.
    pub route: Option<(RouteKey, usize)>,
    /// Name that a TLS client asked for.
    pub server_name: Option<Arc<str>>,
}

/// What was decided on when a connection was let in, kept to decide again on every push.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The port of a service that was addressed; None: a workload itself.
    pub service: Option<ServicePort>,
    /// What was addressed, as policies see it.
    pub destination: SocketAddr,
    /// The client's proxy, as the socket has it: never from a header.
    pub source: SocketAddr,
    /// Who the client proved to be.
    pub client: Identity,
}

/// Names of the AUDIT policies that match a connection, by the policies of now; None: there is
/// none. Shared with what serves its requests.
pub type Audits = Rc<RefCell<Option<Arc<str>>>>;

/// One CONNECT on this worker.
pub struct Connection {
    /// The client, as far as its proxy says; for logs.
    pub source: SocketAddr,
    /// `:authority`, shortened.
    pub authority: Arc<str>,
    /// Set once it was let in.
    pub admission: OnceCell<Admission>,
    /// What it was let in for, while it lives. Set with [`Self::admission`].
    pub binding: OnceCell<Rc<Binding>>,
    /// The AUDIT policies that match it.
    pub audits: Audits,
    /// What is known of it so far.
    pub details: RefCell<Details>,
    /// Bytes that the client sent.
    pub sent_bytes: Cell<u64>,
    /// Bytes that the client received.
    pub received_bytes: Cell<u64>,
    /// Whether it could be closed without cutting anything off.
    pub pulse: Pulse,
    /// Its place in the worker's list.
    pub place: Cell<usize>,
    /// Whether its bytes are passed on, and counted, as they are: not HTTP.
    pub is_opaque: Cell<bool>,
    /// What records have counted of both.
    counted_bytes: Cell<(u64, u64)>,
    opened: Instant,
    ended: RefCell<Option<Ended>>,
    ends: RefCell<Vec<End>>,
}

/// Shared by the tasks of one worker.
pub type Shared = Rc<Connection>;

impl Connection {
    /// A CONNECT that just came.
    pub fn new(source: SocketAddr, authority: Arc<str>) -> Self {
        Self {
            source,
            authority,
            admission: OnceCell::new(),
            binding: OnceCell::new(),
            audits: Audits::default(),
            details: RefCell::default(),
            sent_bytes: Cell::new(0),
            received_bytes: Cell::new(0),
            pulse: Pulse::default(),
            place: Cell::new(usize::MAX),
            is_opaque: Cell::new(false),
            counted_bytes: Cell::new((0, 0)),
            opened: Instant::now(),
            ended: RefCell::new(None),
            ends: RefCell::new(Vec::new()),
        }
    }

    /// An end that is reset when the connection is ended from outside. If that happened already,
    /// it is reset at once.
    pub fn attach(&self, end: &End) {
        if self.ended.borrow().is_some() {
            end.reset();
        }
        self.ends.borrow_mut().push(end.clone());
    }

    /// Ends the connection: its ends are reset, whoever waits on them comes back. The first
    /// reason stays.
    pub fn end(&self, why: Ended) {
        self.ended.borrow_mut().get_or_insert(why);
        // Taken out first: a reset wakes others, and must find nothing borrowed.
        let ends = self.ends.take();
        for end in &ends {
            end.reset();
        }
    }

    /// Closes the connection: its ends hear that no bytes follow, and may end it in their own time.
    /// For one that is quiet ([`Pulse::is_quiet`]); the first reason stays.
    pub fn close(&self, why: Ended) {
        self.ended.borrow_mut().get_or_insert(why);
        let ends = self.ends.borrow().clone();
        for end in &ends {
            // One that is broken ends its relay by itself.
            let _ = end.finish();
        }
    }

    /// Bytes moved, both ways.
    pub fn moved_bytes(&self) -> u64 {
        self.sent_bytes.get() + self.received_bytes.get()
    }

    /// Why it was ended from outside, if it was.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// Lets go of the attached ends, so that they close with their last user.
    pub fn detach(&self) {
        self.ends.take();
    }

    /// What it moved since the last record, if it did.
    pub fn moved(&self) -> Option<ConnectionRecord> {
        let moved = self.counted_bytes.get() != (self.sent_bytes.get(), self.received_bytes.get());
        (moved && self.is_opaque.get()).then(|| self.record(Phase::Moved, Ok(())))
    }

    /// A record of what is known now.
    pub fn record(&self, phase: Phase, outcome: Outcome) -> ConnectionRecord {
        let (sent, received) = (self.sent_bytes.get(), self.received_bytes.get());
        let before = self.counted_bytes.replace((sent, received));
        ConnectionRecord {
            phase,
            source_address: self.source,
            authority: Arc::clone(&self.authority),
            details: self.details.borrow().clone(),
            sent_bytes: sent,
            received_bytes: received,
            uncounted_bytes: (sent - before.0, received - before.1),
            duration: self.opened.elapsed(),
            outcome,
            audits: self.audits.borrow().clone(),
            limit: None,
        }
    }
}
