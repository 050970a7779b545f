//! HTTP routes of the Gateway API: what they are, which one takes a request, and what it does with
//! it. Pure: a request and randomness go in, a [`Decision`] with its reasons comes out.
//!
//! A [`Table`] holds the routes of one parent (a port of a Service, or a waypoint), a [`Book`]
//! those of all. They must not know how a request arrived, nor which endpoints a backend has.

pub mod book;
pub mod cors;
mod decide;
pub mod explain;
pub mod filter;
pub mod host;
mod index;
pub mod matching;
pub mod parent;
pub mod path;
pub mod pattern;
mod rank;
pub mod request;
pub mod retry;
pub mod stream;
pub mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::service::ServiceKey;

pub use book::Book;
pub use decide::{Decision, Failure, Forward, decide};
pub use filter::{Filters, OwnFilters};
pub use host::HostPattern;
pub use matching::RequestMatch;
pub use parent::{GatewayKey, ParentKey, ServicePort};
pub use request::{Headers, Request};
pub use retry::Retry;
pub use table::{Selected, Table};

/// Most rules of one route (Gateway API, `HTTPRouteSpec.rules`).
pub const RULES_MAX: usize = 16;
/// Most matches of one route, all rules together (Gateway API).
pub const MATCHES_MAX: usize = 128;
/// Largest weight of a backend (Gateway API).
pub const WEIGHT_MAX: u32 = 1_000_000;

/// What kind of route it is, the more specific first. Routes of different kinds are never merged on
/// one parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum RouteKind {
    Grpc,
    Http,
    Tls,
    Tcp,
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        })
    }
}

/// Which route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// Kind.
    pub kind: RouteKind,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Kubernetes name.
    pub name: Arc<str>,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// One route as its parents see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Kind, namespace and name.
    pub key: RouteKey,
    /// Creation, in seconds since 1970; the oldest route wins ties. None (a manifest without a
    /// timestamp): younger than all that have one.
    pub created: Option<u64>,
    /// Hosts it is for; empty: all. Always empty for a Service as parent (GEP-1426).
    pub hostnames: Vec<HostPattern>,
    /// At least one, at most [`RULES_MAX`].
    pub rules: Vec<Rule>,
}

/// Conditions, and what happens to a request that meets one of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Alternatives; empty: every request.
    pub matches: Vec<RequestMatch>,
    /// What is done to the request and its answer.
    pub filters: OwnFilters,
    /// Where it goes: one is drawn by weight. Empty: nowhere, 500 unless a filter answers.
    pub backends: Vec<Backend>,
    /// Number of the rule in the object that it is written in, from 0.
    pub place: usize,
    /// Unique in its route, if given.
    pub name: Option<Arc<str>>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// When it is sent again; None: never.
    pub retry: Option<Retry>,
    /// Whether a client's requests keep to one endpoint.
    pub persistence: Option<Persistence>,
}

/// Requests of one client keep to the endpoint that its first one went to (GEP-1619).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Name of the cookie or header, in lower case.
    pub name: Arc<str>,
    /// How the client keeps it.
    pub token: SessionToken,
    /// How long a session lasts at most; None: for ever.
    pub absolute_timeout: Option<Duration>,
    /// How long one lasts without a request; None: for ever.
    pub idle_timeout: Option<Duration>,
}

/// How a client keeps its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SessionToken {
    Cookie(Cookie),
    Header,
}

/// How long a client keeps a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cookie {
    /// Until it is closed.
    Session,
    /// As long as the session lasts.
    Permanent,
}

/// One of the places a rule leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Where it is.
    pub target: Target,
    /// Its share of the sum of all weights, 0 to [`WEIGHT_MAX`]; 0 is never drawn.
    pub weight: u32,
    /// Filters of this backend alone, behind those of the rule.
    pub filters: OwnFilters,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A port of a service.
    Service {
        /// Which service.
        service: ServiceKey,
        /// Its service port.
        port: u16,
    },
    /// A reference that leads nowhere: its share of the requests fails with 500 (gRPC:
    /// UNAVAILABLE), as the specification wants it. The text says why.
    Invalid(Arc<str>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { service, port } => write!(f, "{service} port {port}"),
            Self::Invalid(why) => write!(f, "nothing ({why})"),
        }
    }
}

/// How long a request may take. None: no limit of the route's own; zero in a manifest means the
/// same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's arrival to the end of its answer, retries included.
    pub request: Option<Duration>,
    /// Of one try at a backend.
    pub backend_request: Option<Duration>,
}
