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

use crate::connection::Direction;
use crate::flow::{self, Refusal};
use crate::record::Flag;
use crate::worker::Worker;
use crate::worker::accept::Accepted;
use crate::worker::live::Listed;
use carrier::limits::{DISCOVERY_WAIT, Reached};
use carrier::relay::End;
use carrier::tunnel::pool::TunnelError;

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
    #[error("the pod's workload {0} is not known after {wait:?}", wait = DISCOVERY_WAIT)]
    UnknownWorkload(mesh::WorkloadUid),
    /// Discovery does not know enough of the destination.
    #[error("discovery is not complete after {wait:?}: {0}", wait = DISCOVERY_WAIT)]
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

    fn limit(&self) -> Option<Reached> {
        match self {
            Self::Tunnel(TunnelError::Limit(reached)) => Some(*reached),
            _ => None,
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
pub fn serve(worker: Rc<Worker>, accepted: Accepted) -> impl Future<Output = ()> {
    flow::serve(begin(worker, accepted))
}

async fn begin(worker: Rc<Worker>, accepted: Accepted) -> Option<Listed> {
    let establish =
        async |pod: &_, connection: &_| establish::establish(&worker, pod, connection).await;
    flow::begin(&worker, accepted, Direction::Outbound, establish).await
}

/// The same address, whichever family it was written in.
fn ip(address: std::net::SocketAddr) -> IpAddr {
    canonical(address.ip())
}

/// What was connected.
type Established = Result<End, OutboundError>;
