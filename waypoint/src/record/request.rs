//! What is recorded of one HTTP request. Knows neither log nor metrics.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh::route::RouteKey;
use mesh::service::ServiceKey;

use crate::connection::Party;
use crate::http::site::Reason;

/// What only the access log says.
#[derive(Clone, Debug)]
pub struct Said {
    /// `GET` and the like.
    pub method: String,
    /// The target, shortened.
    pub target: String,
    /// `Host` or `:authority`, shortened.
    pub authority: String,
    /// `HTTP/1.1` and the like.
    pub version: &'static str,
    /// `x-request-id`.
    pub request_id: String,
    /// The client.
    pub client: SocketAddr,
    /// The route that took it, and the number of its rule.
    pub route: Option<(RouteKey, usize)>,
    /// The endpoint's first address.
    pub endpoint: Option<IpAddr>,
    /// Tries at endpoints.
    pub tries: u32,
}

/// One request that has ended.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// Who asked.
    pub source: Party,
    /// The endpoint that answered, or was tried last.
    pub destination: Party,
    /// The backend that a route chose, else the service that was addressed.
    pub service: Option<ServiceKey>,
    /// Whether it is gRPC.
    pub is_grpc: bool,
    /// Status that the client got; None: it went away before.
    pub status: Option<u16>,
    /// `grpc-status`, when it is gRPC and there was one.
    pub grpc_status: Option<u16>,
    /// Why the waypoint itself answered, or the answer broke.
    pub reason: Option<Reason>,
    /// The AUDIT policies that match its connection.
    pub audits: Option<Arc<str>>,
    /// From the head of the request to the end of the answer.
    pub duration: Duration,
    /// Bytes of the bodies: request, answer.
    pub bytes: (u64, u64),
    /// None when nobody wants lines about requests.
    pub said: Option<Box<Said>>,
}
