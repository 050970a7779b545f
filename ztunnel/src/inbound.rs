//! Connections to a pod's application, through a tunnel or in plaintext: judged, connected with the
//! client's address kept, relayed.
//!
//! Who the client is comes from its certificate and nothing else; headers feed telemetry only.

pub mod plaintext;
mod stream;
pub mod tunnel;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use hbone::CloseReason;
use mesh::address::NetworkAddress;
use mesh::decide::{InboundQuery, InboundReason, Verdict, inbound};
use mesh::{Identity, PolicyKey, Workload, WorkloadUid};
use netio::TcpStream;
use netio::socket::{self, LOOPBACK_INTERFACE, MARK_TO_LOOPBACK, MARK_UPSTREAM, Source, Upstream};
use netio::time::Instant;

use crate::connection::Connection;
use crate::flow::Refusal;
use crate::record::{Flag, Party};
use crate::worker::Worker;
use crate::worker::pods::LocalPod;
use carrier::headers::AuthorityError;
use carrier::limits::{CONNECT_TIMEOUT, DISCOVERY_WAIT, Reached};

/// Why a connection to a pod is refused.
#[derive(Debug, thiserror::Error)]
pub enum InboundError {
    /// Made to the listener itself, so it was not captured.
    #[error("the connection was made to the proxy's own listener")]
    OwnListener,
    /// The CONNECT asks for something that is not the pod's.
    #[error("bad CONNECT: {0}")]
    Authority(#[from] AuthorityError),
    /// Discovery does not know the pod.
    #[error("the pod's workload {0} is not known after {wait:?}", wait = DISCOVERY_WAIT)]
    UnknownWorkload(WorkloadUid),
    /// By policy, or for lack of it.
    #[error("connection denied{}", why_denied(" by policy", policy.as_ref(), reason))]
    Denied {
        /// The policy that decided, if one did.
        policy: Option<PolicyKey>,
        /// The sentence of the verdict.
        reason: InboundReason,
    },
    /// The application cannot be reached.
    #[error("connecting to the application: {0}")]
    Connect(Arc<str>),
    /// There is no certificate to show.
    #[error("no certificate for {0}")]
    NoCertificate(String),
    /// No tunnel came about.
    #[error("{0}")]
    Handshake(CloseReason),
    /// Too much at once.
    #[error(transparent)]
    Limit(#[from] Reached),
}

/// The policy that denied, behind `before`; for any other reason the sentence of the verdict.
pub fn why_denied(before: &str, policy: Option<&PolicyKey>, reason: &InboundReason) -> String {
    match (policy, reason) {
        (_, InboundReason::Denied(key)) => format!("{before} {key}"),
        (Some(key), reason) => format!("{before} {key}: {reason}"),
        (None, reason) => format!(": {reason}"),
    }
}

impl Refusal for InboundError {
    fn flag(&self) -> Flag {
        match self {
            Self::OwnListener | Self::Authority(_) | Self::Limit(_) => Flag::None,
            Self::UnknownWorkload(_) | Self::NoCertificate(_) => Flag::IdentityError,
            Self::Denied { .. } => Flag::Deny,
            Self::Connect(_) => Flag::Connect,
            Self::Handshake(CloseReason::Handshake(_) | CloseReason::Tls(_)) => Flag::TlsFailure,
            Self::Handshake(_) => Flag::H2HandshakeFailure,
        }
    }

    fn limit(&self) -> Option<Reached> {
        match self {
            Self::Limit(reached) => Some(*reached),
            _ => None,
        }
    }
}

impl InboundError {
    /// How a CONNECT is answered.
    fn status(&self) -> u16 {
        match self {
            Self::Authority(_) => 400,
            Self::Denied { .. } => 401,
            _ => 503,
        }
    }
}

/// Judges a connection that just came, and notes who takes part in it. Waits for discovery, not
/// for anything else.
async fn admit(
    worker: &Worker,
    pod: &LocalPod,
    connection: &Connection,
    peer: Option<Identity>,
) -> Result<Arc<Workload>, InboundError> {
    let source_ip = connection.source().ip().to_canonical();
    let uid = &pod.pod.workload;
    let judge = |workload: &Arc<Workload>, snapshot: &_| {
        let query = InboundQuery {
            workload,
            destination: connection.destination(),
            source_ip,
            peer: peer.as_ref(),
        };
        inbound(snapshot, &query)
    };
    let deadline = Instant::now() + DISCOVERY_WAIT;
    let judged = worker.find(deadline, |snapshot| {
        let workload = snapshot.workload(uid)?;
        let verdict = judge(workload, snapshot);
        let known = verdict.reason != InboundReason::NotSynced;
        known.then(|| (Arc::clone(workload), verdict))
    });
    let judged = judged.await;
    note(worker, pod, connection, (source_ip, peer.as_ref()));
    let (workload, verdict) = match judged {
        Some(judged) => judged,
        None => {
            let snapshot = worker.snapshot();
            let workload = snapshot.workload(uid);
            let workload = workload.ok_or_else(|| InboundError::UnknownWorkload(uid.clone()))?;
            (Arc::clone(workload), judge(workload, &snapshot))
        }
    };
    log_dry_run(connection, &verdict);
    if !verdict.allowed {
        let Verdict { policy, reason, .. } = verdict;
        return Err(InboundError::Denied { policy, reason });
    }
    // By the identity that was noted above.
    connection.is_admitted.set(true);
    Ok(workload)
}

fn note(
    worker: &Worker,
    pod: &LocalPod,
    connection: &Connection,
    (source_ip, peer): (IpAddr, Option<&Identity>),
) {
    let snapshot = worker.snapshot();
    let address = NetworkAddress::new(Arc::clone(&worker.config.network), source_ip);
    // Of a peer that proved another identity (a waypoint, a gateway), the address says nothing.
    let is_peer = |w: &&Arc<Workload>| peer.is_none() || w.identity().ok().as_ref() == peer;
    let mut details = connection.details.borrow_mut();
    details.source = Party {
        workload: snapshot
            .workload_by_address(&address)
            .filter(is_peer)
            .cloned(),
        identity: peer.cloned(),
    };
    details.destination = Party {
        workload: snapshot.workload(&pod.pod.workload).cloned(),
        identity: Some(pod.pod.identity.clone()),
    };
}

fn log_dry_run(connection: &Connection, verdict: &Verdict) {
    for policy in &verdict.dry_run {
        tracing::info!(
            src = %connection.source(), dst = %connection.destination(), %policy,
            allowed = verdict.allowed, "dry-run policy would have decided otherwise"
        );
    }
}

/// Connects to the application, which sees the client's address.
async fn connect(
    worker: &Worker,
    pod: &LocalPod,
    connection: &Connection,
) -> Result<Rc<TcpStream>, InboundError> {
    let client = connection.source().ip().to_canonical();
    let destination = connection.destination();
    let source = Source::Spoofed {
        ip: client,
        interface: LOOPBACK_INTERFACE,
        live: &|port| {
            worker
                .live
                .has_plaintext(SocketAddr::new(client, port), destination)
        },
    };
    // A pod that calls itself needs no disguise, and must not be routed to lo and captured there.
    let itself = client == destination.ip().to_canonical();
    let mark = if itself {
        MARK_UPSTREAM
    } else {
        MARK_TO_LOOPBACK
    };
    let upstream = Upstream {
        netns: &pod.pod.netns,
        destination,
        mark,
        source,
    };
    let connected = socket::connect(&upstream, CONNECT_TIMEOUT).await;
    let socket = connected.map_err(|error| InboundError::Connect(error.to_string().into()))?;
    Ok(Rc::new(socket))
}
