//! What a waypoint may be asked for, and where it sends that on.
//!
//! A waypoint is no open relay: it serves what is bound to it, that is, what clients' proxies lead
//! through it by the same snapshot. It must not know what is spoken on a connection.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::outbound::{expected, is_instance, own_port};
use super::{HboneRoute, Missing, Refusal, Route};
use crate::address::{
    AddressClass, HBONE_PORT, NetworkAddress, NetworkCidr, OWN_PORTS, canonical, classify,
};
use crate::endpoint::{self, EndpointQuery, NoEndpoint, Reached};
use crate::identity::Identity;
use crate::service::{GatewayAddress, LoadBalancingMode, Service, ServiceKey, Visibility};
use crate::snapshot::Snapshot;
use crate::workload::{TunnelProtocol, Workload, WorkloadUid};

/// What the `:authority` of a CONNECT says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressed<'a> {
    /// An address and a port, as the application used them.
    Address(SocketAddr),
    /// A host name in lower case and a port.
    Host(&'a str, u16),
}

/// A CONNECT that a waypoint was asked.
#[derive(Clone, Copy, Debug)]
pub struct WaypointQuery<'a> {
    /// The waypoint.
    pub own: &'a Workload,
    /// What it is asked for.
    pub addressed: Addressed<'a>,
    /// Namespace of the client's identity: services may be visible in their own one only.
    pub client_namespace: &'a str,
}

/// What a CONNECT leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A port of a service.
    Service {
        /// The service.
        service: Arc<Service>,
        /// Its port.
        port: u16,
        /// The address that the application used; None when it was a host name.
        address: Option<IpAddr>,
    },
    /// A workload that was addressed itself.
    Workload {
        /// The workload.
        workload: Arc<Workload>,
        /// Its address and port.
        address: SocketAddr,
    },
}

/// Why a waypoint does not take a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Unbound {
    /// Discovery may still say who it is. The only one that waiting helps.
    #[error("{0}")]
    NotYet(Missing),
    /// Loopback, link-local, a metadata service and the like.
    #[error("{0} is no address that a waypoint connects to")]
    Forbidden(IpAddr),
    /// The waypoint itself.
    #[error("{0} is the waypoint itself")]
    Itself(SocketAddr),
    /// A port of the proxies.
    #[error("port {0} belongs to the proxies")]
    OwnPort(u16),
    /// Nothing in the mesh has it.
    #[error("nothing in the mesh has address {0}: this is no open relay")]
    Unknown(NetworkAddress),
    /// No service has the name.
    #[error("no service has the host name {0}")]
    UnknownHost(String),
    /// The service has another waypoint, or none.
    #[error("service {0} is not bound to this waypoint")]
    Service(ServiceKey),
    /// The workload has another waypoint, or none.
    #[error("workload {0} is not bound to this waypoint")]
    Workload(WorkloadUid),
    /// The service is not for this client.
    #[error("service {service} is not visible from namespace {namespace}")]
    Hidden {
        service: ServiceKey,
        namespace: String,
    },
    /// The service has no such port.
    #[error("service {service} has no port {port}")]
    NoSuchPort { service: ServiceKey, port: u16 },
}

/// What a CONNECT leads to, if that is bound to the waypoint.
///
/// A service is looked for first, as clients' proxies do; one that keeps the original address only
/// gives a name to what has it.
///
/// # Errors
/// Why the waypoint must not take it.
pub fn bound(snapshot: &Snapshot, query: &WaypointQuery<'_>) -> Result<Bound, Unbound> {
    match query.addressed {
        Addressed::Host(host, port) => query.named(snapshot, host, port),
        Addressed::Address(asked) => {
            let asked = SocketAddr::new(canonical(asked.ip()), asked.port());
            if classify(asked.ip()) != AddressClass::Ordinary {
                return Err(Unbound::Forbidden(asked.ip()));
            }
            if query.own.has_address(asked.ip()) {
                return Err(Unbound::Itself(asked));
            }
            let address = NetworkAddress::new(query.own.network.clone(), asked.ip());
            match query.service_at(snapshot, &address, asked.port())? {
                Some(service) => Ok(Bound::Service {
                    service,
                    port: asked.port(),
                    address: Some(asked.ip()),
                }),
                None => query.workload_at(snapshot, &address, asked),
            }
        }
    }
}

impl Bound {
    /// Whether the other is the same port of the same service, or the same workload and address:
    /// what a snapshot before said is what one after says.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Service { service, port, .. },
                Self::Service {
                    service: other,
                    port: other_port,
                    ..
                },
            ) => service.key == other.key && port == other_port,
            (
                Self::Workload { workload, address },
                Self::Workload {
                    workload: other,
                    address: other_address,
                },
            ) => workload.uid == other.uid && address == other_address,
            _ => false,
        }
    }
}

impl WaypointQuery<'_> {
    fn named(&self, snapshot: &Snapshot, host: &str, port: u16) -> Result<Bound, Unbound> {
        let mut why = None;
        for service in snapshot.services_by_hostname(host) {
            match self.takes(snapshot, service, port) {
                Ok(()) => {
                    return Ok(Bound::Service {
                        service: Arc::clone(service),
                        port,
                        address: None,
                    });
                }
                Err(error) => why = why.or(Some(error)),
            }
        }
        Err(why.unwrap_or_else(|| Unbound::UnknownHost(host.to_owned())))
    }

    /// The service that clients' proxies see at the address, unless it keeps the address.
    fn service_at(
        &self,
        snapshot: &Snapshot,
        address: &NetworkAddress,
        port: u16,
    ) -> Result<Option<Arc<Service>>, Unbound> {
        let mut hidden = None;
        for service in snapshot.services_by_address(address) {
            let exact = service.addresses.contains(&NetworkCidr::host(address));
            if !exact && !snapshot.is_absent(address) {
                return Err(Unbound::NotYet(Missing::Address(address.clone())));
            }
            match self.takes(snapshot, service, port) {
                Err(why @ Unbound::Hidden { .. }) => hidden = hidden.or(Some(why)),
                outcome => {
                    outcome?;
                    return Ok(Some(Arc::clone(service)));
                }
            }
        }
        hidden.map_or(Ok(None), Err)
    }

    fn takes(&self, snapshot: &Snapshot, service: &Service, port: u16) -> Result<(), Unbound> {
        let visible = service.visibility == Visibility::Public
            || *service.key.namespace == *self.client_namespace;
        if !visible {
            return Err(Unbound::Hidden {
                service: service.key.clone(),
                namespace: self.client_namespace.to_owned(),
            });
        }
        let weighted = service.weighted_waypoints.iter().map(|w| &w.gateway);
        if !self.is_one_of(snapshot, weighted.chain(&service.waypoint)) {
            return Err(Unbound::Service(service.key.clone()));
        }
        // One that keeps the address too: its range may be of hosts that nobody in the mesh has.
        if !service.ports.iter().any(|p| p.service_port == port) {
            let service = service.key.clone();
            return Err(Unbound::NoSuchPort { service, port });
        }
        Ok(())
    }

    fn workload_at(
        &self,
        snapshot: &Snapshot,
        address: &NetworkAddress,
        asked: SocketAddr,
    ) -> Result<Bound, Unbound> {
        let Some(workload) = snapshot.workload_by_address(address) else {
            return Err(if snapshot.is_absent(address) {
                Unbound::Unknown(address.clone())
            } else {
                Unbound::NotYet(Missing::Address(address.clone()))
            });
        };
        if OWN_PORTS.contains(&asked.port()) {
            return Err(Unbound::OwnPort(asked.port()));
        }
        if !self.is_one_of(snapshot, workload.waypoint.iter()) {
            return Err(Unbound::Workload(workload.uid.clone()));
        }
        Ok(Bound::Workload {
            workload: Arc::clone(workload),
            address: asked,
        })
    }

    fn is_one_of<'g>(
        &self,
        snapshot: &Snapshot,
        mut gateways: impl Iterator<Item = &'g GatewayAddress>,
    ) -> bool {
        gateways.any(|gateway| is_instance(snapshot, self.own, gateway))
    }
}

/// Where a waypoint sends a connection or request on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Plain TCP, or through a tunnel.
    pub route: Route,
    /// The endpoint, unless it is outside of the mesh.
    pub workload: Option<Arc<Workload>>,
    /// The endpoint's address and port.
    pub address: SocketAddr,
}

/// What an endpoint is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamQuery<'a> {
    /// The waypoint.
    pub own: &'a Workload,
    /// The backend.
    pub target: &'a Bound,
    /// Endpoints that refused already.
    pub tried: &'a [WorkloadUid],
}

/// The endpoints that may take a connection or request, all of equal rank, one at least. Which of
/// them does is for the waypoint to say, which knows what they carry ([`endpoint::draw_lighter`]).
///
/// Whatever waypoints the backend has, it goes straight to the endpoint: routes have been applied
/// here. The waypoint itself is never its own endpoint.
///
/// # Errors
/// There is none.
pub fn upstreams(snapshot: &Snapshot, query: &UpstreamQuery<'_>) -> Result<Vec<Upstream>, Refusal> {
    let (service, port, address) = match query.target {
        Bound::Workload { workload, address } => {
            return straight(query.own, workload, *address, &[]).map(|one| vec![one]);
        }
        Bound::Service {
            service,
            port,
            address,
        } => (service, *port, *address),
    };
    let refuse = |why| Refusal::NoEndpoint {
        service: service.key.clone(),
        why,
    };
    if service.load_balancing.mode == LoadBalancingMode::Passthrough {
        let address = address.ok_or_else(|| refuse(NoEndpoint::default()))?;
        return keeping(snapshot, query.own, SocketAddr::new(address, port)).map(|one| vec![one]);
    }
    let family = || query.own.addresses.first().copied();
    let mut tried = query.tried.to_vec();
    tried.push(query.own.uid.clone());
    let endpoints = EndpointQuery {
        source: query.own,
        service,
        port,
        family_of: address
            .or_else(family)
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        tried: &tried,
        unmapped_port: false,
    };
    let (best, _) = endpoint::best(snapshot, &endpoints).map_err(refuse)?;
    let also = &service.subject_alt_names;
    let mut refused = None;
    let upstream = |(workload, address): Reached| {
        let straight = straight(query.own, &workload, address, also);
        straight.map_err(|why| refused = Some(why)).ok()
    };
    let upstreams: Vec<_> = best.into_iter().filter_map(upstream).collect();
    match refused {
        Some(why) if upstreams.is_empty() => Err(why),
        _ => Ok(upstreams),
    }
}

/// To the address that the application used, which a service keeps.
fn keeping(snapshot: &Snapshot, own: &Workload, kept: SocketAddr) -> Result<Upstream, Refusal> {
    let address = NetworkAddress::new(own.network.clone(), kept.ip());
    match snapshot.workload_by_address(&address) {
        Some(workload) => straight(own, workload, kept, &[]),
        None => {
            no_proxy(own, kept)?;
            Ok(Upstream {
                route: Route::Passthrough(kept),
                workload: None,
                address: kept,
            })
        }
    }
}

/// Neither a port of the proxies nor the waypoint itself.
fn no_proxy(own: &Workload, target: SocketAddr) -> Result<(), Refusal> {
    own_port(target)?;
    match own.has_address(target.ip()) {
        true => Err(Refusal::OwnPort(target)),
        false => Ok(()),
    }
}

/// To a workload, by what it speaks.
fn straight(
    own: &Workload,
    workload: &Arc<Workload>,
    target: SocketAddr,
    also: &[Identity],
) -> Result<Upstream, Refusal> {
    no_proxy(own, target)?;
    let route = match workload.tunnel {
        TunnelProtocol::None => Route::Plain(target),
        TunnelProtocol::Hbone => {
            let identities: BTreeSet<_> = expected(workload, also)?;
            Route::Hbone(HboneRoute {
                peer: SocketAddr::new(target.ip(), HBONE_PORT),
                authority: target.to_string(),
                identities,
                to_waypoint: false,
            })
        }
    };
    Ok(Upstream {
        route,
        workload: Some(Arc::clone(workload)),
        address: target,
    })
}
