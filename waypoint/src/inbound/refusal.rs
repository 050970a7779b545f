//! Why a client's CONNECT, or its whole tunnel, is refused, and how it hears of it.

use std::net::SocketAddr;
use std::sync::Arc;

use carrier::flag::Flag;
use carrier::headers::shortened;
use carrier::limits::{DISCOVERY_WAIT, Reached};
use hbone::authority::AuthorityError;
use hbone::{CloseReason, ConnectResponse, Headers};
use mesh::decide::waypoint::Unbound;
use mesh::policy::targeted;
use mesh::workload::WorkloadUid;

use crate::connection::{Connection, Ended};
use crate::record::{Phase, Record};
use crate::worker::Worker;

/// Response field of a refused CONNECT: the reason as a sentence. Only authenticated peers of the
/// mesh read it; it ends in their proxies' hands, not with applications.
const REASON: &str = "x-culvert-reason";

/// Why the waypoint does not take a connection.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The CONNECT names nothing.
    #[error("bad CONNECT: {0}")]
    Authority(#[from] AuthorityError),
    /// It asks for something that is not the waypoint's to give.
    #[error("{0}")]
    Unbound(Unbound),
    /// Discovery does not know the waypoint itself.
    #[error("the waypoint's own workload {0} is not known after {wait:?}", wait = DISCOVERY_WAIT)]
    UnknownSelf(WorkloadUid),
    /// Discovery does not know enough of what is asked for.
    #[error("discovery is not complete after {wait:?}: {0}", wait = DISCOVERY_WAIT)]
    NotYet(Unbound),
    /// By a policy that targets the service or the waypoint.
    #[error("connection denied: {0}")]
    Denied(targeted::Refusal),
    /// No route takes it, or the one that does leads nowhere.
    #[error("{0}")]
    Route(Arc<str>),
    /// No endpoint takes it.
    #[error("{0}")]
    NoEndpoint(Arc<str>),
    /// No endpoint could be reached; the last one's reason.
    #[error("{0}")]
    NotConnected(Arc<str>, Flag),
    /// There is no certificate to show.
    #[error("no certificate for {0}")]
    NoCertificate(String),
    /// No tunnel came about.
    #[error("{0}")]
    Handshake(CloseReason),
    /// The client went away first.
    #[error("the client gave up")]
    Gone,
    /// Ended from outside.
    #[error("{0}")]
    Ended(Ended),
    /// Too much at once.
    #[error(transparent)]
    Limit(#[from] Reached),
}

impl Refusal {
    /// `response_flags`.
    pub fn flag(&self) -> Flag {
        match self {
            Self::Denied(_) | Self::Unbound(_) => Flag::Deny,
            Self::UnknownSelf(_) | Self::NoCertificate(_) => Flag::IdentityError,
            Self::NoEndpoint(_) | Self::Route(_) => Flag::Connect,
            Self::NotConnected(_, flag) => *flag,
            Self::Handshake(CloseReason::Handshake(_) | CloseReason::Tls(_)) => Flag::TlsFailure,
            Self::Handshake(_) => Flag::H2HandshakeFailure,
            Self::Ended(ended) => ended.flag(),
            Self::Authority(_) | Self::NotYet(_) | Self::Gone | Self::Limit(_) => Flag::None,
        }
    }

    /// How a CONNECT is answered.
    pub fn answer(&self) -> ConnectResponse {
        let status = match self {
            Self::Authority(_) => 400,
            Self::Denied(_) => 401,
            Self::Unbound(_) => 403,
            _ => 503,
        };
        let reason = shortened(&self.to_string());
        ConnectResponse {
            status,
            headers: Headers::new().with(REASON, reason),
        }
    }
}

/// The record of a connection that never opened.
pub fn record(worker: &Worker, connection: &Connection, why: &Refusal) {
    let outcome = Err((why.flag(), why.to_string()));
    let mut record = connection.record(Phase::Refused, outcome);
    if let Refusal::Limit(reached) = why {
        record.limit = Some(reached.limit);
        worker.count_reached(*reached);
    }
    worker.recorder.put(Record::from(record));
}

/// The client's address: as its proxy says, else the proxy's own. For logs and `x-forwarded-for`.
pub fn client_address(peer: SocketAddr, forwarded: Option<&str>) -> SocketAddr {
    let parsed = forwarded.map(hbone::forwarded::Forwarded::parse);
    let client = parsed.and_then(|forwarded| forwarded.client);
    client.map_or(peer, |client| {
        SocketAddr::new(client.ip.to_canonical(), client.port.unwrap_or(0))
    })
}
