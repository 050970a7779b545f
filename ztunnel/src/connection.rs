//! One live connection: what is known of it, what it moved, and how it is ended from outside.
//!
//! Knows no snapshot and no policy; those who do, end it with a reason.

mod address;

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mesh::service::ServiceKey;

use crate::record::{Flag, Outcome, Party, Phase, Record};
use crate::worker::pods::Resident;
pub use address::{Address, Authority, Ends};
use carrier::relay::{End, Pulse};

/// Which way a connection goes, seen from the pod on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The pod's application made it.
    Outbound,
    /// It goes to the pod's application.
    Inbound,
}

/// Why a connection was ended by the proxy itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// A policy push denies it now.
    #[error("connection closed by a later policy: AuthorizationPolicyLateRejection{why}")]
    LateRejection {
        /// The policy that decided, with a blank before it, or the reason after a colon.
        why: Arc<str>,
    },
    /// Its pod left the mesh.
    #[error("connection closed: the pod is gone from this proxy")]
    PodGone,
    /// The proxy's grace at shutdown is over.
    #[error("connection closed: the proxy shut down and the drain deadline is over")]
    DrainDeadline,
}

impl Ended {
    /// What metrics say of it.
    pub fn flag(&self) -> Flag {
        match self {
            Self::LateRejection { .. } => Flag::Deny,
            Self::PodGone | Self::DrainDeadline => Flag::None,
        }
    }
}

/// What becomes known of a connection while it is set up.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// Who made it.
    pub source: Party,
    /// Who takes it.
    pub destination: Party,
    /// The service that was addressed.
    pub service: Option<ServiceKey>,
    /// Where the bytes really go: endpoint, waypoint, or the original destination.
    pub actual: Option<Address>,
    /// `:authority` when HBONE carries it.
    pub authority: Option<Authority>,
}

/// One connection of this worker.
pub struct Connection {
    /// The pod on this node.
    pub pod: Rc<Resident>,
    /// Outbound or inbound.
    pub direction: Direction,
    /// An inbound connection that policy let in, as from the identity of its source (none in
    /// plaintext): decided again on every push.
    pub is_admitted: Cell<bool>,
    ends_at: Ends,
    /// What is known of it so far.
    pub details: RefCell<Details>,
    /// Bytes that the pod's application sent.
    pub sent_bytes: Cell<u64>,
    /// Bytes that the pod's application received.
    pub received_bytes: Cell<u64>,
    /// Whether it could be closed without cutting anything off.
    pub pulse: Pulse,
    /// Its place in the worker's list.
    pub place: Cell<u32>,
    /// What records have counted of both.
    counted_bytes: Cell<(u64, u64)>,
    opened: Instant,
    /// Boxed: of few, and only at their end.
    ended: OnceCell<Box<Ended>>,
    /// Near and far, as far as attached.
    ends: RefCell<[Option<End>; 2]>,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(
        pod: Rc<Resident>,
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Self {
        Self {
            pod,
            direction,
            is_admitted: Cell::new(false),
            ends_at: Ends::new(source, destination),
            details: RefCell::default(),
            sent_bytes: Cell::new(0),
            received_bytes: Cell::new(0),
            pulse: Pulse::default(),
            place: Cell::new(u32::MAX),
            counted_bytes: Cell::new((0, 0)),
            opened: Instant::now(),
            ended: OnceCell::new(),
            ends: RefCell::default(),
        }
    }

    /// The application's socket (outbound) or the client (inbound).
    pub fn source(&self) -> SocketAddr {
        self.ends_at.source()
    }

    /// What the client asked for.
    pub fn destination(&self) -> SocketAddr {
        self.ends_at.destination()
    }

    /// Where the bytes really go, as far as known.
    pub fn actual(&self) -> SocketAddr {
        let details = self.details.borrow();
        let actual = details.actual.as_ref().map(Address::get);
        actual.unwrap_or_else(|| self.destination())
    }

    /// The near end, and then the far end: reset when the connection is ended from outside. If that
    /// happened already, it is reset at once.
    pub fn attach(&self, end: &End) {
        if self.ended.get().is_some() {
            return end.reset();
        }
        let mut ends = self.ends.borrow_mut();
        let place = ends.iter_mut().find(|place| place.is_none());
        *place.expect("a connection has two ends") = Some(end.clone());
    }

    /// Near and far, as far as attached; both are when it is open. Whoever looks at them ends
    /// before anything is attached or detached.
    pub fn ends(&self) -> Ref<'_, [Option<End>; 2]> {
        self.ends.borrow()
    }

    /// Ends the connection: its ends are reset, whoever waits on them comes back. The first
    /// reason stays.
    pub fn end(&self, why: Ended) {
        self.ended.get_or_init(|| Box::new(why));
        for end in self.ends().iter().flatten() {
            end.reset();
        }
    }

    /// Closes the connection: its ends hear that no bytes follow, and may end it in their own time.
    /// For one that is quiet ([`Pulse::is_quiet`]); the first reason stays.
    pub fn close(&self, why: Ended) {
        self.ended.get_or_init(|| Box::new(why));
        for end in self.ends().iter().flatten() {
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
        self.ended.get().map(|why| Ended::clone(why))
    }

    /// Lets go of the attached ends, so that their sockets close with their last user.
    pub fn detach(&self) {
        self.ends.take();
    }

    /// What it moved since the last record, if it did.
    pub fn moved(&self) -> Option<Record> {
        let moved = self.counted_bytes.get() != (self.sent_bytes.get(), self.received_bytes.get());
        moved.then(|| self.record(Phase::Moved, Ok(())))
    }

    /// A record of what is known now.
    pub fn record(&self, phase: Phase, outcome: Outcome) -> Record {
        let details = self.details.borrow();
        let (sent, received) = (self.sent_bytes.get(), self.received_bytes.get());
        let before = self.counted_bytes.replace((sent, received));
        Record {
            phase,
            direction: self.direction,
            source_address: self.source(),
            destination_address: self.actual(),
            details: details.clone(),
            sent_bytes: sent,
            received_bytes: received,
            uncounted_bytes: (sent - before.0, received - before.1),
            duration: self.opened.elapsed(),
            outcome,
            limit: None,
        }
    }
}

/// The identity and workload of one side, as far as known.
/// Shared by the tasks of one worker.
pub type Shared = Rc<Connection>;
