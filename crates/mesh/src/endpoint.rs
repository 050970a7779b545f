//! Which endpoint of a service takes a connection: health, capacity, locality, address family.
//!
//! Knows nothing of tunnels and policies. Randomness comes in as a function, so that a test or
//! `culvert why` gets the same answer for the same numbers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::address::{AddressClass, classify};
use crate::service::{
    HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, LocalityScope, PortMapping, Service,
};
use crate::snapshot::Snapshot;
use crate::workload::{Common, Health, Workload, WorkloadUid};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct EndpointQuery<'a> {
    /// Who connects: gives the locality and the network.
    pub source: &'a Workload,
    /// The service.
    pub service: &'a Service,
    /// The service's port.
    pub port: u16,
    /// Address of the family that is preferred (the one that the application used).
    pub family_of: IpAddr,
    /// Endpoints that are out of the question, since they refused already.
    pub tried: &'a [WorkloadUid],
    /// Whether `port` itself is meant when nobody maps it (a waypoint's HBONE port).
    pub unmapped_port: bool,
}

/// The endpoint drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// One of its addresses, with the target port.
    pub address: SocketAddr,
    /// Among how many of equal rank it was drawn, itself included.
    pub among: usize,
    /// How many endpoints the service has in all.
    pub known: usize,
}

/// Why there is none: how many endpoints there are, and how many fell to each rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoEndpoint {
    /// Endpoints of the service that are known.
    pub known: usize,
    /// Refused already.
    pub tried: usize,
    /// Not ready or going away, and the service wants healthy ones.
    pub unhealthy: usize,
    /// With a capacity of 0.
    pub without_capacity: usize,
    /// With no address that a proxy may connect to, of a family that the service has.
    pub without_address: usize,
    /// That do not serve the port.
    pub without_port: usize,
    /// On another network, which takes a gateway.
    pub other_network: usize,
    /// Outside of the scopes that the service insists on.
    pub not_local: usize,
}

impl fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.known == 0 {
            return f.write_str("it has no endpoints");
        }
        write!(f, "of {} endpoints none is usable", self.known)?;
        let counts = [
            (self.tried, "already refused the connection"),
            (self.unhealthy, "not healthy"),
            (self.without_capacity, "with a capacity of 0"),
            (self.without_address, "without a usable address"),
            (self.without_port, "without a target for the port"),
            (self.other_network, "on another network (not supported yet)"),
            (
                self.not_local,
                "outside of the locality that the service insists on",
            ),
        ];
        let mut before = ": ";
        for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
            write!(f, "{before}{count} {what}")?;
            before = ", ";
        }
        Ok(())
    }
}

/// Draws an endpoint of the service, by capacity among the best ranked that are usable.
///
/// Endpoints with an address of the preferred family come first; only when none of them is left
/// after all rules, the other family's are looked at.
///
/// # Errors
/// No endpoint is usable.
pub fn choose(
    snapshot: &Snapshot,
    query: &EndpointQuery<'_>,
    entropy: &mut dyn FnMut() -> u64,
) -> Result<Endpoint, NoEndpoint> {
    let (endpoints, known) = best(snapshot, query)?;
    let drawn = draw(&endpoints, |(workload, _)| workload.capacity, entropy);
    // Those without capacity are not among the best.
    let (workload, address) = drawn.expect("one of the best has a capacity").clone();
    Ok(Endpoint {
        workload,
        address,
        among: endpoints.len(),
        known,
    })
}

/// An endpoint, and where it takes connections.
pub type Reached = (Arc<Workload>, SocketAddr);

/// The endpoints that [`choose`] draws from, one at least, and how many the service has in all.
///
/// # Errors
/// No endpoint is usable.
pub fn best(
    snapshot: &Snapshot,
    query: &EndpointQuery<'_>,
) -> Result<(Vec<Reached>, usize), NoEndpoint> {
    let mut none = NoEndpoint::default();
    let mut usable = Vec::new();
    let mut ports = Ports::default();
    for workload in snapshot.endpoints(&query.service.key) {
        none.known += 1;
        match query.admit(workload, &mut ports) {
            Ok(candidate) => usable.push(candidate),
            Err(Unusable::Tried) => none.tried += 1,
            Err(Unusable::Health) => none.unhealthy += 1,
            Err(Unusable::Capacity) => none.without_capacity += 1,
            Err(Unusable::Address) => none.without_address += 1,
            Err(Unusable::Port) => none.without_port += 1,
            Err(Unusable::Network) => none.other_network += 1,
        }
    }
    for v6 in [query.family_of.is_ipv6(), !query.family_of.is_ipv6()] {
        let mut of_family = Vec::with_capacity(usable.len());
        of_family.extend(
            usable
                .iter()
                .filter_map(|candidate| candidate.of_family(v6)),
        );
        retain_preferred(query, &mut of_family);
        if !of_family.is_empty() {
            let owned = |(workload, address): (&Arc<_>, _)| (Arc::clone(workload), address);
            return Ok((of_family.into_iter().map(owned).collect(), none.known));
        }
    }
    none.not_local = usable.len();
    Err(none)
}

/// Of two items that are drawn by weight the one with less load for its weight; None when all
/// weights are 0. Two are about as good as a look at all, and no item that has just come back gets
/// everything.
pub fn draw_lighter<'a, T>(
    items: &'a [T],
    weight: impl Fn(&T) -> u32,
    load: impl Fn(&T) -> u32,
    entropy: &mut dyn FnMut() -> u64,
) -> Option<&'a T> {
    let first = draw(items, &weight, entropy)?;
    let others = |item: &T| match std::ptr::eq(item, first) {
        true => 0,
        false => weight(item),
    };
    let Some(second) = draw(items, others, entropy) else {
        return Some(first);
    };
    // Load for weight, without a division.
    let burden = |of: &T, beside: &T| (u64::from(load(of)) + 1) * u64::from(weight(beside));
    let is_lighter = burden(second, first) < burden(first, second);
    Some(if is_lighter { second } else { first })
}

/// The item drawn with a chance proportional to its weight; None when all weights are 0.
pub fn draw<'a, T>(
    items: &'a [T],
    weight: impl Fn(&T) -> u32,
    entropy: &mut dyn FnMut() -> u64,
) -> Option<&'a T> {
    let total: u64 = items.iter().map(|item| u64::from(weight(item))).sum();
    if total == 0 {
        return None;
    }
    // A product's upper half instead of a remainder: no bias that matters, no division.
    let mut left = ((u128::from(entropy()) * u128::from(total)) >> 64) as u64;
    items.iter().find(|item| {
        let weight = u64::from(weight(item));
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    })
}

/// The port of the workload on which it serves a service's port: its own mapping if it has one,
/// else the service's.
pub fn target_port(service: &Service, workload: &Workload, port: u16) -> Option<u16> {
    let mapped = |ports: &[PortMapping]| {
        let mapping = ports
            .iter()
            .find(|m| m.service_port == port && m.target_port != 0);
        mapping.map(|m| m.target_port)
    };
    let own = workload
        .services
        .get(&service.key)
        .and_then(|ports| mapped(ports));
    own.or_else(|| mapped(&service.ports))
}

/// The rule that an endpoint fell to.
enum Unusable {
    Tried,
    Health,
    Capacity,
    Address,
    Port,
    Network,
}

/// An endpoint that may be drawn.
struct Candidate<'a> {
    workload: &'a Arc<Workload>,
    /// The first usable address of IPv4 and of IPv6; one of them at least.
    addresses: [Option<IpAddr>; 2],
    port: u16,
}

/// The port of the last workload that was asked for, with what it follows from: endpoints of a
/// service are replicas mostly, and looking it up compares names.
#[derive(Default)]
struct Ports<'a>(Option<(&'a Arc<Common>, Option<u16>)>);

impl<'a> Ports<'a> {
    /// As [`target_port`].
    fn of(&mut self, query: &EndpointQuery<'_>, workload: &'a Workload) -> Option<u16> {
        match self.0 {
            Some((common, port)) if Arc::ptr_eq(common, &workload.common) => port,
            _ => {
                let port = target_port(query.service, workload, query.port);
                self.0 = Some((&workload.common, port));
                port
            }
        }
    }
}

impl<'a> Candidate<'a> {
    fn of_family(&self, v6: bool) -> Option<(&'a Arc<Workload>, SocketAddr)> {
        let ip = self.addresses[usize::from(v6)]?;
        Some((self.workload, SocketAddr::new(ip, self.port)))
    }
}

impl EndpointQuery<'_> {
    /// The candidate, if the endpoint may be drawn at all.
    fn admit<'a>(
        &self,
        workload: &'a Arc<Workload>,
        ports: &mut Ports<'a>,
    ) -> Result<Candidate<'a>, Unusable> {
        let wants_healthy = self.service.load_balancing.health == HealthPolicy::OnlyHealthy;
        if self.tried.contains(&workload.uid) {
            return Err(Unusable::Tried);
        }
        if wants_healthy && workload.health != Health::Healthy {
            return Err(Unusable::Health);
        }
        if workload.capacity == 0 {
            return Err(Unusable::Capacity);
        }
        if workload.network != self.source.network {
            return Err(Unusable::Network);
        }
        let addresses = [false, true].map(|v6| self.usable_address(workload, v6));
        if addresses == [None, None] {
            return Err(Unusable::Address);
        }
        let unmapped = self.unmapped_port.then_some(self.port);
        let port = ports.of(self, workload).or(unmapped);
        Ok(Candidate {
            workload,
            addresses,
            port: port.ok_or(Unusable::Port)?,
        })
    }

    /// The first address of a family that a proxy may connect to, if the service has the family.
    fn usable_address(&self, workload: &Workload, v6: bool) -> Option<IpAddr> {
        let offered = match self.service.ip_families {
            IpFamilies::Automatic | IpFamilies::Dual => true,
            IpFamilies::Ipv4Only => !v6,
            IpFamilies::Ipv6Only => v6,
        };
        let usable = |ip: &IpAddr| ip.is_ipv6() == v6 && classify(*ip) == AddressClass::Ordinary;
        let mut addresses = workload.addresses.iter().copied();
        addresses.find(|ip| offered && usable(ip))
    }
}

/// Keeps those of the best rank that the service's preference allows.
fn retain_preferred(query: &EndpointQuery<'_>, endpoints: &mut Vec<(&Arc<Workload>, SocketAddr)>) {
    let preference = &query.service.load_balancing;
    let rank = |workload: &Workload| rank(preference, query.source, workload);
    let wanted = match preference.mode {
        LoadBalancingMode::Unspecified | LoadBalancingMode::Passthrough => return,
        LoadBalancingMode::Strict => Some(preference.routing_preference.len()),
        LoadBalancingMode::Failover => endpoints.iter().map(|(w, _)| rank(w)).max(),
    };
    endpoints.retain(|(workload, _)| Some(rank(workload)) == wanted);
}

/// How many scopes match, counted from the first until one does not.
///
/// Since the count stops at the first mismatch, a preference that begins with NETWORK puts every
/// endpoint of the own network before every other, whatever the later scopes say.
pub fn rank(preference: &LoadBalancing, source: &Workload, workload: &Workload) -> usize {
    let scopes = preference.routing_preference.iter();
    scopes
        .take_while(|scope| same_scope(**scope, source, workload))
        .count()
}

/// Whether two workloads are alike in a scope. Unknown regions, zones and subzones are alike: in
/// a cluster without such labels a preference for the own node must still have its effect. An
/// unknown node is nobody's.
fn same_scope(scope: LocalityScope, a: &Workload, b: &Workload) -> bool {
    match scope {
        LocalityScope::Region => a.locality.region == b.locality.region,
        LocalityScope::Zone => a.locality.zone == b.locality.zone,
        LocalityScope::Subzone => a.locality.subzone == b.locality.subzone,
        LocalityScope::Node => !a.node.is_empty() && a.node == b.node,
        LocalityScope::Cluster => a.cluster == b.cluster,
        LocalityScope::Network => a.network == b.network,
    }
}
