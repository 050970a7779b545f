//! Services.

use mesh::Identity;
use mesh::service::{
    HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, LocalityScope, Service, ServiceKey,
    Visibility, WeightedWaypoint,
};

use super::fault::{At, Fault, Problem, each, required, value, whole};
use super::workload::{gateway, ports, range};
use crate::wire::workload as wire;

pub(super) fn service(message: wire::Service) -> Result<Service, Fault> {
    Ok(Service {
        key: ServiceKey {
            namespace: required(message.namespace).at("namespace")?,
            hostname: required(message.hostname).at("hostname")?,
        },
        name: message.name.into(),
        addresses: each("addresses", message.addresses, range)?,
        ports: ports(message.ports)?,
        subject_alt_names: identities(&message.subject_alt_names)?,
        waypoint: message.waypoint.map(gateway).transpose().at("waypoint")?,
        weighted_waypoints: each("weighted_waypoints", message.weighted_waypoints, weighted)?,
        load_balancing: message
            .load_balancing
            .map(load_balancing)
            .transpose()
            .at("load_balancing")?
            .unwrap_or_default(),
        ip_families: ip_families(message.ip_families).at("ip_families")?,
        canonical: message.canonical,
        ingress_use_waypoint: message.ingress_use_waypoint,
        visibility: visibility(message.visibility).at("visibility")?,
    })
}

/// Identities that endpoints may show besides their own. Names that are no SPIFFE IDs stand here
/// too, for TLS that an L7 proxy originates; a tunnel's peer never shows one, so they are left out.
fn identities(texts: &[String]) -> Result<Vec<Identity>, Fault> {
    let all = each("subject_alt_names", texts, |text| {
        if !text.starts_with("spiffe://") {
            return Ok(None);
        }
        whole(text.parse().map(Some).map_err(Problem::Identity))
    })?;
    Ok(all.into_iter().flatten().collect())
}

fn weighted(message: wire::WeightedWaypoint) -> Result<WeightedWaypoint, Fault> {
    let destination = message
        .destination
        .ok_or(Problem::Missing)
        .at("destination")?;
    Ok(WeightedWaypoint {
        gateway: gateway(destination).at("destination")?,
        weight: message.weight,
    })
}

fn load_balancing(message: wire::LoadBalancing) -> Result<LoadBalancing, Fault> {
    use wire::load_balancing::{HealthPolicy as Policy, Mode};
    Ok(LoadBalancing {
        routing_preference: each("routing_preference", message.routing_preference, |number| {
            whole(scope(number))
        })?,
        mode: match value(message.mode).at("mode")? {
            Mode::UnspecifiedMode => LoadBalancingMode::Unspecified,
            Mode::Strict => LoadBalancingMode::Strict,
            Mode::Failover => LoadBalancingMode::Failover,
            Mode::Passthrough => LoadBalancingMode::Passthrough,
        },
        health: match value(message.health_policy).at("health_policy")? {
            Policy::OnlyHealthy => HealthPolicy::OnlyHealthy,
            Policy::AllowAll => HealthPolicy::AllowAll,
        },
    })
}

fn scope(number: i32) -> Result<LocalityScope, Problem> {
    use wire::load_balancing::Scope;
    Ok(match value(number)? {
        Scope::UnspecifiedScope => return Err(Problem::Unsupported("UNSPECIFIED_SCOPE")),
        Scope::Region => LocalityScope::Region,
        Scope::Zone => LocalityScope::Zone,
        Scope::Subzone => LocalityScope::Subzone,
        Scope::Node => LocalityScope::Node,
        Scope::Cluster => LocalityScope::Cluster,
        Scope::Network => LocalityScope::Network,
    })
}

fn ip_families(number: i32) -> Result<IpFamilies, Problem> {
    Ok(match value(number)? {
        wire::IpFamilies::Automatic => IpFamilies::Automatic,
        wire::IpFamilies::Ipv4Only => IpFamilies::Ipv4Only,
        wire::IpFamilies::Ipv6Only => IpFamilies::Ipv6Only,
        wire::IpFamilies::Dual => IpFamilies::Dual,
    })
}

fn visibility(number: i32) -> Result<Visibility, Problem> {
    Ok(match value(number)? {
        wire::Visibility::Public => Visibility::Public,
        wire::Visibility::Namespace => Visibility::Namespace,
    })
}
