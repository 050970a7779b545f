//! The seam between HTTP and the rest of the waypoint: what was asked for, where endpoints come
//! from, who is told about a finished request. It must not know tunnels, sockets or discovery.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use http::{Method, StatusCode, Uri, Version};
use mesh::identity::Identity;
use mesh::route::{RouteKey, Table};
use mesh::service::{AppProtocol, ServiceKey};
use mesh::workload::Workload;
use tokio_util::sync::CancellationToken;

pub use super::limits::Limits;
pub use super::upstream::Upstream;
use crate::connection::Audits;
use crate::trace::Tracing;

/// A stream of bytes in both directions.
pub trait Io: hyper::rt::Read + hyper::rt::Write + Unpin {}

impl<T: hyper::rt::Read + hyper::rt::Write + Unpin> Io for T {}

/// What the client of one connection asked for. The same for all of its requests.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The client: from `forwarded` of its tunnel, else the peer. For logs and `x-forwarded-for`,
    /// never for a decision.
    pub client: SocketAddr,
    /// Identity of the client's certificate; None when it has none.
    pub client_identity: Option<Identity>,
    /// The client's workload, where it is known.
    pub client_workload: Option<Arc<Workload>>,
    /// The service that was addressed; None: a workload itself.
    pub service: Option<ServiceKey>,
    /// The workload that was addressed, when it was no service.
    pub workload: Option<Arc<Workload>>,
    /// The address that was addressed; None: a host name.
    pub address: Option<SocketAddr>,
    /// The port that was addressed: of the service, or of the workload.
    pub port: u16,
    /// What the application at that port said that it speaks.
    pub protocol: AppProtocol,
    /// The AUDIT policies that match it, for the records of its requests.
    pub audits: Audits,
    /// Cancelled when the waypoint must serve this connection no longer: requests that come then
    /// are refused, and the connection ends as soon as it can.
    pub revoked: CancellationToken,
}

/// What to choose an endpoint of.
#[derive(Clone, Copy)]
pub struct Choose<'a> {
    /// A service and its service port; None: what the connection addressed.
    pub backend: Option<(&'a ServiceKey, u16)>,
    /// Endpoints that this request could not reach: not again, while there are others.
    pub tried: &'a [Rc<Upstream>],
    /// The endpoint with this [`Upstream::token`], if it may be chosen at all: the client's
    /// session.
    pub prefer: Option<u64>,
}

/// Where a request goes.
#[derive(Clone)]
pub struct Chosen {
    /// The endpoint, one value for each as long as it is there.
    pub upstream: Rc<Upstream>,
    /// What it speaks, as far as its service says.
    pub protocol: AppProtocol,
}

/// Why there is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// The service or its port is not known: 500, as for a missing backend.
    #[error("{0} is not known")]
    Unknown(Arc<str>),
    /// It has no endpoint that takes requests: 503.
    #[error("{0} has no endpoint that takes requests")]
    NoEndpoint(Arc<str>),
}

/// Why there is no connection to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct ConnectError {
    /// Whether another endpoint may do better: refused, timed out, gone. False: the waypoint itself
    /// cannot (no certificate, a limit).
    pub moves_on: bool,
    /// Whether it is a bound of the worker that was reached.
    pub is_limit: bool,
    /// For the log and the answer.
    pub why: Arc<str>,
}

/// Why the waypoint itself answered, or what went wrong with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The route said so: redirect, preflight.
    Route,
    /// No rule takes it, or a filter or backend that is not usable.
    NoRoute,
    /// The request is not proper HTTP, or too large, or too slow.
    BadRequest,
    /// No endpoint takes requests.
    NoEndpoint,
    /// No connection to any endpoint.
    NotConnected,
    /// The connection broke before the answer was there.
    Broken,
    /// A timeout of the route or of the gRPC client.
    TimedOut,
    /// A bound of the worker is reached: requests under way, or waiting for an endpoint.
    Overflow,
    /// The client went away first.
    ClientGone,
    /// The client does not read its answer, or does not send the body that it owes.
    ClientStalled,
    /// The endpoint does not take the request's body, or nothing has moved for too long.
    EndpointStalled,
    /// What was addressed is no longer served by this waypoint.
    Unbound,
}

impl Reason {
    /// In logs and metrics: one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::NoRoute => "no_route",
            Self::BadRequest => "bad_request",
            Self::NoEndpoint => "no_endpoint",
            Self::NotConnected => "not_connected",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
            Self::Overflow => "overflow",
            Self::ClientGone => "client_gone",
            Self::ClientStalled => "client_stalled",
            Self::EndpointStalled => "endpoint_stalled",
            Self::Unbound => "unbound",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One request that has ended, for metrics and the access log.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord<'a> {
    /// The connection that it came on.
    pub asked: &'a Asked,
    /// Its method.
    pub method: &'a Method,
    /// Its target as it came; the authority is in [`Self::authority`].
    pub uri: &'a Uri,
    /// `Host` or `:authority`, empty if there was none.
    pub authority: &'a str,
    /// Its version.
    pub version: Version,
    /// Status that the client got; None: it went away before.
    pub status: Option<StatusCode>,
    /// `grpc-status` of the answer, when it is gRPC.
    pub grpc_status: Option<u16>,
    /// Whether it is gRPC.
    pub is_grpc: bool,
    /// Why the waypoint itself answered or the answer broke; None: the endpoint's own answer.
    pub reason: Option<Reason>,
    /// The route and the number of its rule; None: none took it.
    pub route: Option<(&'a RouteKey, usize)>,
    /// The backend that was drawn; None: the addressed one, or none.
    pub backend: Option<(&'a ServiceKey, u16)>,
    /// The endpoint that answered, or was tried last.
    pub endpoint: Option<&'a Arc<Workload>>,
    /// Tries at endpoints; 0: none.
    pub tries: u32,
    /// From the head of the request to the end of the answer.
    pub duration: Duration,
    /// Bytes of the bodies: request, answer.
    pub bytes: (u64, u64),
    /// `x-request-id`, as it came or was made; empty when the waypoint answered itself.
    pub request_id: &'a str,
}

/// What HTTP needs of the worker that it runs on. Everything is local to one thread.
pub trait Site {
    /// The routes that apply to requests of this connection now; None: there is none, and requests
    /// go to what was addressed. Asked for every request.
    fn routes(&self, asked: &Asked) -> Option<Arc<Table>>;

    /// Chooses an endpoint: the least loaded of two ([`Upstream::load`]), or the preferred one.
    ///
    /// # Errors
    /// See [`ChooseError`].
    fn choose(&self, asked: &Asked, choose: Choose<'_>) -> Result<Chosen, ChooseError>;

    /// A new connection to an endpoint, for requests of `asked` (whose client is told on in
    /// `forwarded`; a pooled connection is told the first one's). Bounded in time by the site.
    ///
    /// # Errors
    /// See [`ConnectError`].
    fn open(
        &self,
        asked: &Rc<Asked>,
        upstream: &Rc<Upstream>,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Io>, ConnectError>>;

    /// What is traced, and where spans go; None: nothing is. Asked for every request.
    fn tracing(&self) -> Option<&Tracing> {
        None
    }

    /// A request has ended. Called once for each, in no particular order.
    fn record(&self, record: &RequestRecord<'_>);

    /// Starts a task of this worker. False: it was dropped, since there are too many or the worker
    /// ends.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>) -> bool;

    /// Waits until then.
    fn sleep_until(&self, at: Instant) -> LocalBoxFuture<'static, ()>;

    /// The clock of [`Self::sleep_until`].
    fn now(&self) -> Instant;

    /// A uniform number; good enough for weights and trace ids, no secret.
    fn random(&self) -> u64;

    /// Ends when the worker begins to drain: connections take no further request.
    fn draining(&self) -> LocalBoxFuture<'static, ()>;

    /// Ends shortly before what is still open is ended by force: until then an idle connection of
    /// HTTP/1 may be kept for its client's next request, which is told that it is the last.
    fn closing(&self) -> LocalBoxFuture<'static, ()> {
        self.draining()
    }

    /// Bounds.
    fn limits(&self) -> &Limits;
}
