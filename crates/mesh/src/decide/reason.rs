//! The reasons of decisions, as sentences for logs and for `culvert why`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::address::{HBONE_PORT, NetworkAddress};
use crate::decide::{HboneRoute, Route};
use crate::endpoint::NoEndpoint;
use crate::identity::IdentityError;
use crate::policy::PolicyKey;
use crate::service::{GatewayAddress, GatewayDestination, ServiceKey};
use crate::workload::WorkloadUid;

/// One step of an outbound decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reason {
    /// The address is one of the own link or of a metadata service.
    OwnLink(IpAddr),
    /// The pod connects to itself.
    ToItself,
    /// A service has the address.
    Service {
        address: NetworkAddress,
        service: ServiceKey,
    },
    /// A service has the address, but not for this client.
    Hidden {
        service: ServiceKey,
        namespace: String,
    },
    /// The service or workload has a waypoint.
    Waypoint { of: String, gateway: GatewayAddress },
    /// The client is that waypoint.
    FromWaypoint { of: String },
    /// The service keeps the original address.
    KeepsAddress(ServiceKey),
    /// An endpoint was drawn.
    Endpoint {
        uid: WorkloadUid,
        address: SocketAddr,
        among: usize,
        known: usize,
    },
    /// The endpoint is of the other address family, since none of the wanted one is usable.
    OtherFamily,
    /// A workload has the address.
    Workload {
        address: NetworkAddress,
        uid: WorkloadUid,
    },
    /// The workload speaks HBONE.
    SpeaksHbone(WorkloadUid),
    /// The workload speaks plain TCP.
    SpeaksPlain(WorkloadUid),
    /// Nothing in the mesh has the address.
    Unknown(NetworkAddress),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnLink(ip) => {
                write!(
                    f,
                    "{ip} is link-local or a metadata address, never part of the mesh"
                )
            }
            Self::ToItself => f.write_str("the pod connects to itself: no tunnel"),
            Self::Service { address, service } => {
                write!(f, "{address} is an address of service {service}")
            }
            Self::Hidden { service, namespace } => {
                write!(
                    f,
                    "service {service} is not visible from namespace {namespace}: ignored"
                )
            }
            Self::Waypoint { of, gateway } => write!(f, "{of} has waypoint {gateway}"),
            Self::FromWaypoint { of } => {
                write!(
                    f,
                    "the client is the waypoint of {of}: straight to the endpoint"
                )
            }
            Self::KeepsAddress(service) => {
                write!(
                    f,
                    "service {service} has mode PASSTHROUGH: the original address is kept"
                )
            }
            Self::Endpoint {
                uid,
                address,
                among,
                known,
            } => {
                write!(
                    f,
                    "drew endpoint {uid} at {address}, among {among} usable of {known}"
                )
            }
            Self::OtherFamily => {
                f.write_str("no endpoint of the wanted address family is usable: took the other")
            }
            Self::Workload { address, uid } => {
                write!(f, "{address} is an address of workload {uid}")
            }
            Self::SpeaksHbone(uid) => write!(f, "workload {uid} takes HBONE on port {HBONE_PORT}"),
            Self::SpeaksPlain(uid) => write!(f, "workload {uid} takes plain TCP (tunnel NONE)"),
            Self::Unknown(address) => write!(f, "nothing in the mesh has address {address}"),
        }
    }
}

/// What discovery has not said yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Who has the address, or that nobody has.
    #[error("address {0} is not known yet, and discovery is not complete")]
    Address(NetworkAddress),
    /// Endpoints of a service.
    #[error("no endpoint of service {0} is known yet, and discovery is not complete")]
    Endpoints(ServiceKey),
    /// A waypoint.
    #[error("waypoint {0} is not known yet, and discovery is not complete")]
    Waypoint(GatewayDestination),
}

/// Why an outbound connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Refusal {
    /// An address that means something only to the one who uses it.
    #[error("{0} is a loopback, unspecified, multicast or broadcast address: never proxied")]
    LocalAddress(IpAddr),
    /// The target would be the proxy itself.
    #[error("port {} of {} belongs to the proxy: a tunnel to it would loop", .0.port(), .0.ip())]
    OwnPort(SocketAddr),
    /// The service does not have the port.
    #[error("service {service} has no port {port}")]
    NoSuchPort { service: ServiceKey, port: u16 },
    /// No endpoint can take it.
    #[error("service {service} cannot take the connection: {why}")]
    NoEndpoint {
        service: ServiceKey,
        why: NoEndpoint,
    },
    /// The waypoint does not exist.
    #[error("waypoint {0} does not exist; going round it would go round its policies")]
    WaypointUnknown(GatewayAddress),
    /// The waypoint cannot take it.
    #[error("waypoint {gateway} cannot take the connection: {why}")]
    WaypointUnusable {
        gateway: GatewayAddress,
        why: NoEndpoint,
    },
    /// Several waypoints, all of weight 0.
    #[error("all waypoints of service {0} have weight 0")]
    NoWaypointWeight(ServiceKey),
    /// The workload is behind another network's gateway.
    #[error("workload {uid} is on network `{network}`: reaching other networks is not supported")]
    OtherNetwork { uid: WorkloadUid, network: String },
    /// The workload has no identity that its peer could be held to.
    #[error("workload {uid} has no valid identity: {error}")]
    Identity {
        uid: WorkloadUid,
        error: IdentityError,
    },
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passthrough(address) => write!(f, "passed through in plain TCP to {address}"),
            Self::Plain(address) => write!(f, "plain TCP to {address}"),
            Self::Hbone(route) => route.fmt(f),
            Self::NotYet(missing) => write!(f, "must wait: {missing}"),
            Self::Refuse(refusal) => write!(f, "refused: {refusal}"),
        }
    }
}

impl fmt::Display for HboneRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.to_waypoint { "waypoint " } else { "" };
        write!(
            f,
            "HBONE to {what}{} for {}, which must be",
            self.peer, self.authority
        )?;
        for (i, identity) in self.identities.iter().enumerate() {
            write!(f, "{} {identity}", if i == 0 { "" } else { " or" })?;
        }
        Ok(())
    }
}

/// Why an inbound connection may pass, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboundReason {
    /// The target is a port of the proxy.
    OwnPort(u16),
    /// No complete answer on policies yet.
    NotSynced,
    /// A DENY policy matched.
    Denied(PolicyKey),
    /// The workload names a policy that is not known.
    UnknownPolicy(PolicyKey),
    /// There is no ALLOW policy.
    NoAllowPolicy,
    /// An ALLOW policy matched.
    Allowed(PolicyKey),
    /// There are ALLOW policies and none matched; how many.
    NotAllowed(usize),
}

impl fmt::Display for InboundReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnPort(port) => write!(f, "port {port} belongs to the proxy"),
            Self::NotSynced => f.write_str("policies are not synced yet"),
            Self::Denied(key) => write!(f, "denied by policy {key}"),
            Self::UnknownPolicy(key) => {
                write!(
                    f,
                    "the workload is subject to policy {key}, which is not known"
                )
            }
            Self::NoAllowPolicy => f.write_str("no ALLOW policy applies: allowed"),
            Self::Allowed(key) => write!(f, "allowed by policy {key}"),
            Self::NotAllowed(count) => write!(f, "none of {count} ALLOW policies matches"),
        }
    }
}
