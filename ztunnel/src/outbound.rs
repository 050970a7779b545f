//! Connections that a pod's application makes: decided, connected, relayed.
//!
//! Knows neither policy nor what stands behind a peer; `mesh::decide` says where to go.

mod establish;
mod peer;
mod tunnels;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use mesh::address::canonical;
use mesh::decide::{Missing, Refusal as Refused};

use crate::connection::{Connection, Direction};
use crate::flow::{self, Refusal};
use crate::limits::DISCOVERY_WAIT;
use crate::record::Flag;
use crate::relay::End;
use crate::tunnel::pool::TunnelError;
use crate::worker::Worker;
use crate::worker::accept::Accepted;

/// Why an application's connection is refused; it sees a reset.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// Made to the listener itself, so it was not captured.
    #[error("the connection was made to the proxy's own listener")]
    OwnListener,
    /// From an address that the pod does not have.
    #[error("{0} is not an address of the pod")]
    ForeignSource(IpAddr),
    /// Discovery does not know the pod.
    #[error("the pod's workload {0} is not known after {seconds} s", seconds = DISCOVERY_WAIT.as_secs())]
    UnknownWorkload(mesh::WorkloadUid),
    /// Discovery does not know enough of the destination.
    #[error("discovery is not complete after {seconds} s: {0}", seconds = DISCOVERY_WAIT.as_secs())]
    NotYet(Missing),
    /// Nowhere to go.
    #[error("{0}")]
    Refused(Refused),
    /// The destination cannot be reached in plain TCP.
    #[error("{0}")]
    Connect(Arc<str>),
    /// It cannot be reached through a tunnel.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The peer answered the CONNECT with something else than 200.
    #[error("{}", status_text(*.0))]
    Status(u16),
}

fn status_text(status: u16) -> String {
    match status {
        401 => "the peer refused by policy (401)".to_owned(),
        503 => "the peer cannot reach its application (503)".to_owned(),
        status => format!("the peer answered {status}"),
    }
}

impl Refusal for OutboundError {
    fn flag(&self) -> Flag {
        match self {
            Self::OwnListener | Self::ForeignSource(_) | Self::NotYet(_) | Self::Refused(_) => {
                Flag::None
            }
            Self::UnknownWorkload(_) => Flag::IdentityError,
            Self::Status(401) => Flag::Deny,
            Self::Connect(_) | Self::Status(_) => Flag::Connect,
            Self::Tunnel(error) => error.flag(),
        }
    }
}

impl OutboundError {
    /// Whether another endpoint may do better. No byte was sent so far.
    fn tries_elsewhere(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Status(503) => true,
            Self::Tunnel(error) => error.tries_elsewhere(),
            _ => false,
        }
    }
}

/// Serves one captured connection to its end.
pub async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted {
        pod,
        socket,
        source,
        destination,
    } = accepted;
    let connection = Connection::new(
        pod.pod.uid.clone(),
        Direction::Outbound,
        source,
        destination,
    );
    let connection = match worker.list(connection, &pod.pod.workload) {
        Ok(connection) => connection,
        Err((full, connection)) => {
            return flow::refuse(&worker, &connection, &socket, &full);
        }
    };
    let (socket, near) = flow::tcp(socket);
    connection.attach(&near);
    // On the heap and freed before the relay: an idle connection shall not carry it.
    let established = Box::pin(establish::establish(&worker, &pod, &connection)).await;
    match (established, connection.ended()) {
        (Ok(far), None) => flow::carry(&worker, &connection, near, far).await,
        (Ok(far), Some(ended)) => {
            far.reset();
            flow::refuse(&worker, &connection, &socket, &ended);
        }
        (Err(_), Some(ended)) => flow::refuse(&worker, &connection, &socket, &ended),
        (Err(error), None) => flow::refuse(&worker, &connection, &socket, &error),
    }
}

/// The same address, whichever family it was written in.
fn ip(address: std::net::SocketAddr) -> IpAddr {
    canonical(address.ip())
}

/// What was connected.
type Established = Result<End, OutboundError>;
