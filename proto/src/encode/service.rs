//! Services.

use mesh::service::{
    HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, LocalityScope, Service, Visibility,
    WeightedWaypoint,
};

use super::workload::{gateway, port, range};
use crate::wire::workload as wire;

/// A service. Load balancing is left out when it is the default.
pub fn service(domain: &Service) -> wire::Service {
    wire::Service {
        name: domain.name.to_string(),
        namespace: domain.key.namespace.to_string(),
        hostname: domain.key.hostname.to_string(),
        addresses: domain.addresses.iter().map(range).collect(),
        ports: domain.ports.iter().map(port).collect(),
        subject_alt_names: domain
            .subject_alt_names
            .iter()
            .map(ToString::to_string)
            .collect(),
        waypoint: domain.waypoint.as_ref().map(gateway),
        load_balancing: load_balancing(&domain.load_balancing),
        ip_families: ip_families(domain.ip_families).into(),
        extensions: Vec::new(),
        canonical: domain.canonical,
        ingress_use_waypoint: domain.ingress_use_waypoint,
        weighted_waypoints: domain.weighted_waypoints.iter().map(weighted).collect(),
        visibility: visibility(domain.visibility).into(),
    }
}

fn weighted(domain: &WeightedWaypoint) -> wire::WeightedWaypoint {
    wire::WeightedWaypoint {
        destination: Some(gateway(&domain.gateway)),
        weight: domain.weight,
    }
}

fn load_balancing(domain: &LoadBalancing) -> Option<wire::LoadBalancing> {
    use wire::load_balancing::{HealthPolicy as Policy, Mode};
    let mode = match domain.mode {
        LoadBalancingMode::Unspecified => Mode::UnspecifiedMode,
        LoadBalancingMode::Strict => Mode::Strict,
        LoadBalancingMode::Failover => Mode::Failover,
        LoadBalancingMode::Passthrough => Mode::Passthrough,
    };
    let health_policy = match domain.health {
        HealthPolicy::OnlyHealthy => Policy::OnlyHealthy,
        HealthPolicy::AllowAll => Policy::AllowAll,
    };
    (*domain != LoadBalancing::default()).then(|| wire::LoadBalancing {
        routing_preference: domain
            .routing_preference
            .iter()
            .map(|s| scope(*s).into())
            .collect(),
        mode: mode.into(),
        health_policy: health_policy.into(),
    })
}

fn scope(domain: LocalityScope) -> wire::load_balancing::Scope {
    use wire::load_balancing::Scope;
    match domain {
        LocalityScope::Region => Scope::Region,
        LocalityScope::Zone => Scope::Zone,
        LocalityScope::Subzone => Scope::Subzone,
        LocalityScope::Node => Scope::Node,
        LocalityScope::Cluster => Scope::Cluster,
        LocalityScope::Network => Scope::Network,
    }
}

fn ip_families(domain: IpFamilies) -> wire::IpFamilies {
    match domain {
        IpFamilies::Automatic => wire::IpFamilies::Automatic,
        IpFamilies::Ipv4Only => wire::IpFamilies::Ipv4Only,
        IpFamilies::Ipv6Only => wire::IpFamilies::Ipv6Only,
        IpFamilies::Dual => wire::IpFamilies::Dual,
    }
}

fn visibility(domain: Visibility) -> wire::Visibility {
    match domain {
        Visibility::Public => wire::Visibility::Public,
        Visibility::Namespace => wire::Visibility::Namespace,
    }
}
