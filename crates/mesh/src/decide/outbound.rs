//! The order of the outbound decision. See [`super::outbound`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{HboneRoute, Missing, Outbound, OutboundQuery, Reason, Refusal, Route};
use crate::address::{
    AddressClass, HBONE_PORT, NetworkAddress, NetworkCidr, OWN_PORTS, canonical, classify,
};
use crate::endpoint::{self, Endpoint, EndpointQuery, NoEndpoint};
use crate::identity::Identity;
use crate::service::{
    GatewayAddress, GatewayDestination, LoadBalancingMode, Service, ServiceKey, Visibility,
};
use crate::snapshot::Snapshot;
use crate::workload::{TunnelProtocol, Workload};

pub(super) fn decide(
    snapshot: &Snapshot,
    query: &OutboundQuery<'_>,
    entropy: &mut dyn FnMut() -> u64,
) -> Outbound {
    let ip = canonical(query.destination.ip());
    let mut decision = Decision {
        snapshot,
        query,
        entropy,
        // Rebuilt, so that no IPv6 flow or scope gets into texts.
        destination: SocketAddr::new(ip, query.destination.port()),
        address: NetworkAddress::new(query.source.network.clone(), ip),
        service: None,
        workload: None,
        reasons: Vec::new(),
    };
    let route = decision.route().unwrap_or_else(Stop::into_route);
    let Decision {
        service,
        workload,
        reasons,
        ..
    } = decision;
    Outbound {
        route,
        service,
        workload,
        reasons,
    }
}

/// A decision under way.
struct Decision<'a> {
    snapshot: &'a Snapshot,
    query: &'a OutboundQuery<'a>,
    entropy: &'a mut dyn FnMut() -> u64,
    destination: SocketAddr,
    address: NetworkAddress,
    service: Option<ServiceKey>,
    workload: Option<Arc<Workload>>,
    reasons: Vec<Reason>,
}

/// What ends a decision without a way.
enum Stop {
    NotYet(Missing),
    Refuse(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

impl Stop {
    fn into_route(self) -> Route {
        match self {
            Self::NotYet(missing) => Route::NotYet(missing),
            Self::Refuse(refusal) => Route::Refuse(refusal),
        }
    }
}

/// A waypoint's instance and the identities that it may show.
struct Waypoint {
    workload: Arc<Workload>,
    peer: SocketAddr,
    identities: BTreeSet<Identity>,
}

impl Decision<'_> {
    fn route(&mut self) -> Result<Route, Stop> {
        let ip = self.address.ip;
        match classify(ip) {
            AddressClass::Local => return Err(Stop::Refuse(Refusal::LocalAddress(ip))),
            AddressClass::OwnLink => {
                self.reasons.push(Reason::OwnLink(ip));
                // As it came: a link-local IPv6 address is nothing without its scope.
                return Ok(Route::Passthrough(self.query.destination));
            }
            AddressClass::Ordinary => {}
        }
        if self.query.source.has_address(ip) {
            return self.own_route(self.destination);
        }
        if let Some(service) = self.find_service()? {
            self.service = Some(service.key.clone());
            if let Some(route) = self.service_route(&service)? {
                return Ok(route);
            }
        }
        self.address_route()
    }

    /// The service that was addressed, as far as this client may see it.
    fn find_service(&mut self) -> Result<Option<Arc<Service>>, Stop> {
        for service in self.snapshot.services_by_address(&self.address) {
            let namespace = &self.query.source.namespace;
            if service.visibility == Visibility::Namespace && service.key.namespace != *namespace {
                let (service, namespace) = (service.key.clone(), namespace.to_string());
                self.reasons.push(Reason::Hidden { service, namespace });
                continue;
            }
            // Until discovery is complete, something more specific than a range may still come,
            // perhaps with a waypoint.
            let exact = service
                .addresses
                .contains(&NetworkCidr::host(&self.address));
            if !exact && !self.snapshot.is_absent(&self.address) {
                return Err(Stop::NotYet(Missing::Address(self.address.clone())));
            }
            let (address, key) = (self.address.clone(), service.key.clone());
            self.reasons.push(Reason::Service {
                address,
                service: key,
            });
            return Ok(Some(service.clone()));
        }
        Ok(None)
    }

    /// The way to a service; None when its mode keeps the original address.
    fn service_route(&mut self, service: &Service) -> Result<Option<Route>, Stop> {
        let port = self.destination.port();
        let keeps_address = service.load_balancing.mode == LoadBalancingMode::Passthrough;
        if !keeps_address && !service.ports.iter().any(|p| p.service_port == port) {
            let service = service.key.clone();
            return Err(Stop::Refuse(Refusal::NoSuchPort { service, port }));
        }
        if let Some(gateway) = self.waypoint_of(service)? {
            let of = format!("service {}", service.key);
            return self.waypoint_route(of, &gateway).map(Some);
        }
        if keeps_address {
            self.reasons.push(Reason::KeepsAddress(service.key.clone()));
            return Ok(None);
        }
        let endpoint = self.choose(service, port, false).map_err(|why| {
            let service = service.key.clone();
            if why.known == 0 && !self.snapshot.addresses_synced() {
                Stop::NotYet(Missing::Endpoints(service))
            } else {
                Stop::Refuse(Refusal::NoEndpoint { service, why })
            }
        })?;
        let (workload, address) = (endpoint.workload.clone(), endpoint.address);
        self.record(endpoint);
        self.workload_route(&workload, address, &service.subject_alt_names)
            .map(Some)
    }

    /// The service's waypoint for this connection; None when it has none, or is asked by it.
    fn waypoint_of(&mut self, service: &Service) -> Result<Option<GatewayAddress>, Stop> {
        let weighted = &service.weighted_waypoints;
        let mut all = weighted.iter().map(|w| &w.gateway).chain(&service.waypoint);
        if all.any(|gateway| is_instance(self.snapshot, self.query.source, gateway)) {
            self.reasons.push(Reason::FromWaypoint {
                of: format!("service {}", service.key),
            });
            return Ok(None);
        }
        if weighted.is_empty() {
            return Ok(service.waypoint.clone());
        }
        let drawn = endpoint::draw(weighted, |w| w.weight, self.entropy);
        let none = || Stop::Refuse(Refusal::NoWaypointWeight(service.key.clone()));
        drawn.map(|w| Some(w.gateway.clone())).ok_or_else(none)
    }

    /// What has the address itself: a workload, or nothing in the mesh.
    fn address_route(&mut self) -> Result<Route, Stop> {
        let Some(workload) = self.snapshot.workload_by_address(&self.address).cloned() else {
            if !self.snapshot.is_absent(&self.address) {
                return Err(Stop::NotYet(Missing::Address(self.address.clone())));
            }
            self.reasons.push(Reason::Unknown(self.address.clone()));
            return Ok(Route::Passthrough(self.destination));
        };
        let (address, uid) = (self.address.clone(), workload.uid.clone());
        self.reasons.push(Reason::Workload { address, uid });
        // A service that keeps the original address only gives it a name: the workload itself is
        // addressed, and its waypoint is not gone round.
        if let Some(gateway) = &workload.waypoint {
            let of = format!("workload {}", workload.uid);
            if !is_instance(self.snapshot, self.query.source, gateway) {
                return self.waypoint_route(of, gateway);
            }
            self.reasons.push(Reason::FromWaypoint { of });
        }
        self.workload = Some(workload.clone());
        self.workload_route(&workload, self.destination, &[])
    }

    fn waypoint_route(&mut self, of: String, gateway: &GatewayAddress) -> Result<Route, Stop> {
        self.reasons.push(Reason::Waypoint {
            of,
            gateway: gateway.clone(),
        });
        let Waypoint {
            workload,
            peer,
            identities,
        } = self.find_waypoint(gateway)?;
        self.workload = Some(workload);
        // What the application addressed: the waypoint routes by it.
        let authority = self.destination.to_string();
        Ok(Route::Hbone(HboneRoute {
            peer,
            authority,
            identities,
            to_waypoint: true,
        }))
    }

    fn find_waypoint(&mut self, gateway: &GatewayAddress) -> Result<Waypoint, Stop> {
        let snapshot = self.snapshot;
        match &gateway.destination {
            GatewayDestination::Hostname(key) => match snapshot.service(key) {
                Some(service) => self.draw_waypoint(gateway, service),
                None => Err(unknown_waypoint(gateway, snapshot.addresses_synced())),
            },
            GatewayDestination::Address(address) => {
                if let Some(service) = exact_service(snapshot, address) {
                    return self.draw_waypoint(gateway, service);
                }
                match snapshot.workload_by_address(address) {
                    Some(workload) => self.single_waypoint(gateway, address, workload),
                    None => Err(unknown_waypoint(gateway, snapshot.is_absent(address))),
                }
            }
        }
    }

    /// One of the instances behind a waypoint's service.
    fn draw_waypoint(
        &mut self,
        gateway: &GatewayAddress,
        service: &Service,
    ) -> Result<Waypoint, Stop> {
        let endpoint = self
            .choose(service, gateway.hbone_mtls_port, true)
            .map_err(|why| {
                if why.known == 0 && !self.snapshot.addresses_synced() {
                    Stop::NotYet(Missing::Endpoints(service.key.clone()))
                } else {
                    Stop::Refuse(Refusal::WaypointUnusable {
                        gateway: gateway.clone(),
                        why,
                    })
                }
            })?;
        let (workload, peer) = (endpoint.workload.clone(), endpoint.address);
        self.record(endpoint);
        let identities = expected(&workload, &service.subject_alt_names)?;
        Ok(Waypoint {
            workload,
            peer,
            identities,
        })
    }

    /// A waypoint that is given as the address of one workload.
    fn single_waypoint(
        &self,
        gateway: &GatewayAddress,
        address: &NetworkAddress,
        workload: &Arc<Workload>,
    ) -> Result<Waypoint, Stop> {
        if workload.network != self.query.source.network {
            let (uid, network) = (workload.uid.clone(), workload.network.to_string());
            return Err(Stop::Refuse(Refusal::OtherNetwork { uid, network }));
        }
        let unusable = |why| {
            let gateway = gateway.clone();
            Err(Stop::Refuse(Refusal::WaypointUnusable { gateway, why }))
        };
        if self.query.tried.contains(&workload.uid) {
            return unusable(NoEndpoint {
                known: 1,
                tried: 1,
                ..NoEndpoint::default()
            });
        }
        if classify(address.ip) != AddressClass::Ordinary {
            return unusable(NoEndpoint {
                known: 1,
                without_address: 1,
                ..NoEndpoint::default()
            });
        }
        Ok(Waypoint {
            workload: workload.clone(),
            peer: SocketAddr::new(address.ip, gateway.hbone_mtls_port),
            identities: expected(workload, &[])?,
        })
    }

    /// Straight to a workload, by what it speaks.
    fn workload_route(
        &mut self,
        workload: &Workload,
        target: SocketAddr,
        also: &[Identity],
    ) -> Result<Route, Stop> {
        if workload.uid == self.query.source.uid {
            return self.own_route(target);
        }
        match workload.tunnel {
            TunnelProtocol::None => {
                self.reasons.push(Reason::SpeaksPlain(workload.uid.clone()));
                Ok(Route::Plain(target))
            }
            TunnelProtocol::Hbone => {
                own_port(target)?;
                self.reasons.push(Reason::SpeaksHbone(workload.uid.clone()));
                Ok(Route::Hbone(HboneRoute {
                    peer: SocketAddr::new(target.ip(), HBONE_PORT),
                    authority: target.to_string(),
                    identities: expected(workload, also)?,
                    to_waypoint: false,
                }))
            }
        }
    }

    /// Over the pod's own loopback device, where nothing is captured and no tunnel would arrive.
    fn own_route(&mut self, target: SocketAddr) -> Result<Route, Stop> {
        own_port(target)?;
        self.reasons.push(Reason::ToItself);
        Ok(Route::Plain(target))
    }

    fn choose(
        &mut self,
        service: &Service,
        port: u16,
        unmapped_port: bool,
    ) -> Result<Endpoint, NoEndpoint> {
        let query = EndpointQuery {
            source: self.query.source,
            service,
            port,
            family_of: self.address.ip,
            tried: self.query.tried,
            unmapped_port,
        };
        endpoint::choose(self.snapshot, &query, self.entropy)
    }

    fn record(&mut self, endpoint: Endpoint) {
        let Endpoint {
            workload,
            address,
            among,
            known,
        } = endpoint;
        if address.is_ipv6() != self.address.ip.is_ipv6() {
            self.reasons.push(Reason::OtherFamily);
        }
        self.reasons.push(Reason::Endpoint {
            uid: workload.uid.clone(),
            address,
            among,
            known,
        });
        self.workload = Some(workload);
    }
}

/// Whether a workload is an instance of a waypoint.
pub(super) fn is_instance(snapshot: &Snapshot, own: &Workload, gateway: &GatewayAddress) -> bool {
    match &gateway.destination {
        GatewayDestination::Hostname(key) => own.services.contains_key(key),
        GatewayDestination::Address(address) => {
            let has = own.network == address.network && own.has_address(address.ip);
            let service = exact_service(snapshot, address);
            has || service.is_some_and(|s| own.services.contains_key(&s.key))
        }
    }
}

/// The service that has exactly this address; a range around it does not make a waypoint.
fn exact_service<'a>(snapshot: &'a Snapshot, address: &NetworkAddress) -> Option<&'a Arc<Service>> {
    let host = NetworkCidr::host(address);
    snapshot.services_by_range(&host).next()
}

fn unknown_waypoint(gateway: &GatewayAddress, certain: bool) -> Stop {
    if certain {
        Stop::Refuse(Refusal::WaypointUnknown(gateway.clone()))
    } else {
        Stop::NotYet(Missing::Waypoint(gateway.destination.clone()))
    }
}

/// A tunnel to the proxy's own port would come back to the proxy.
pub(super) fn own_port(target: SocketAddr) -> Result<(), Refusal> {
    if OWN_PORTS.contains(&target.port()) {
        return Err(Refusal::OwnPort(target));
    }
    Ok(())
}

/// The identities that a peer may show: its own, and those that the service adds.
pub(super) fn expected(
    workload: &Workload,
    also: &[Identity],
) -> Result<BTreeSet<Identity>, Refusal> {
    let own = workload.identity().map_err(|error| Refusal::Identity {
        uid: workload.uid.clone(),
        error,
    })?;
    Ok(also.iter().cloned().chain([own]).collect())
}
