//! Services to mesh services, and which pods and addresses are their endpoints.

mod endpoints;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh::address::NetworkCidr;
use mesh::service::{
    HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, LocalityScope, PortMapping,
    ServiceKey, Visibility,
};

pub(crate) use endpoints::{Endpoints, SliceEndpoint};

use crate::object::{Exposure, Kind, Name, Objects, Service, TargetPort};
use crate::status::{Condition, SERVED, VISIBILITY_APPLIED};
use crate::translation::{Input, Options, Statuses};
use crate::vips::Allocations;
use crate::waypoints::{Traffic, Waypoints};

const DISTRIBUTION_ANNOTATION: &str = "networking.istio.io/traffic-distribution";
const EXPORT_ANNOTATION: &str = "networking.istio.io/exportTo";

/// Name of a service in discovery.
pub(crate) fn key(name: &Name, options: &Options) -> ServiceKey {
    let Name { namespace, name } = name;
    let hostname = format!("{name}.{namespace}.svc.{}", options.cluster_domain);
    ServiceKey {
        namespace: namespace.clone(),
        hostname: hostname.into(),
    }
}

/// All services, and the addresses that were allocated.
pub(crate) fn services(
    input: &Input<'_>,
    waypoints: &Waypoints<'_>,
    statuses: &mut Statuses,
) -> (BTreeMap<ServiceKey, mesh::Service>, Allocations) {
    let mut vips = Vips::new(input, statuses);
    vips.allocate(input, statuses);
    let mut made = BTreeMap::new();
    for (name, service) in &input.objects.services {
        if service.exposure == Exposure::External {
            let message = "a service of type ExternalName is a DNS alias; it is not served";
            statuses.add(
                Kind::Service,
                name,
                Condition::fails(SERVED, "ExternalName", message),
            );
            continue;
        }
        let (waypoint, condition) = waypoints.bound(&service.meta, Traffic::Service);
        if let Some(condition) = condition {
            statuses.add(Kind::Service, name, condition);
        }
        let ips = vips.given.get(name).cloned().unwrap_or_default();
        let network = &input.options.network;
        let cidr = |ip: &IpAddr| NetworkCidr {
            network: network.clone(),
            cidr: IpNet::from(*ip),
        };
        let service = mesh::Service {
            key: key(name, input.options),
            name: name.name.clone(),
            addresses: ips.iter().map(cidr).collect(),
            ports: service
                .ports
                .iter()
                .map(|p| port(p, number(&p.target)))
                .collect(),
            subject_alt_names: Vec::new(),
            waypoint,
            weighted_waypoints: Vec::new(),
            load_balancing: load_balancing(input.objects, service),
            ip_families: families(service, &ips),
            // A Kubernetes Service is the one that answers for its host name.
            canonical: true,
            ingress_use_waypoint: service.meta.label("istio.io/ingress-use-waypoint")
                == Some("true"),
            visibility: visibility(name, service, statuses),
        };
        made.insert(service.key.clone(), service);
    }
    (made, vips.allocated)
}

fn number(target: &TargetPort) -> u16 {
    match target {
        TargetPort::Number(port) => *port,
        // The endpoint's own mapping decides.
        TargetPort::Name(_) => 0,
    }
}

fn port(port: &crate::object::ServicePort, target_port: u16) -> PortMapping {
    PortMapping {
        service_port: port.port,
        target_port,
        protocol: port.protocol,
    }
}

fn families(service: &Service, ips: &[IpAddr]) -> IpFamilies {
    match (service.families, service.exposure == Exposure::Allocate) {
        (IpFamilies::Automatic, true) if !ips.is_empty() => IpFamilies::Ipv4Only,
        (families, _) => families,
    }
}

fn load_balancing(objects: &Objects, service: &Service) -> LoadBalancing {
    use LocalityScope::{Network, Node, Region, Subzone, Zone};
    let health = match service.publish_not_ready {
        true => HealthPolicy::AllowAll,
        false => HealthPolicy::OnlyHealthy,
    };
    let of_namespace = objects.namespaces.get(&service.meta.name.namespace);
    let distribution = (service.meta.annotation(DISTRIBUTION_ANNOTATION))
        .or(service.distribution.as_deref())
        .or(of_namespace.and_then(|n| n.meta.annotation(DISTRIBUTION_ANNOTATION)));
    let (mode, routing_preference) = match distribution {
        _ if service.node_local => (LoadBalancingMode::Strict, vec![Node]),
        Some("PreferClose" | "PreferSameZone") => {
            (LoadBalancingMode::Failover, vec![Network, Region, Zone])
        }
        Some("PreferSameNode") => (
            LoadBalancingMode::Failover,
            vec![Network, Region, Zone, Subzone, Node],
        ),
        _ => (LoadBalancingMode::Unspecified, Vec::new()),
    };
    LoadBalancing {
        routing_preference,
        mode,
        health,
    }
}

fn visibility(name: &Name, service: &Service, statuses: &mut Statuses) -> Visibility {
    match service.meta.annotation(EXPORT_ANNOTATION) {
        None | Some("*") => Visibility::Public,
        Some(".") => Visibility::Namespace,
        Some(other) => {
            // Narrower than can be said: the narrowest that can be is taken.
            let message = format!("exportTo `{other}` is neither `*` nor `.`; `.` is applied");
            let condition = Condition::fails(VISIBILITY_APPLIED, "UnsupportedValue", message);
            statuses.add(Kind::Service, name, condition);
            Visibility::Namespace
        }
    }
}

/// Addresses of services, each given to one only.
struct Vips {
    taken: BTreeSet<IpAddr>,
    given: BTreeMap<Name, Vec<IpAddr>>,
    allocated: Allocations,
}

impl Vips {
    /// With the addresses that manifests give: the first by name gets a contested one.
    fn new(input: &Input<'_>, statuses: &mut Statuses) -> Self {
        let mut owners: BTreeMap<IpAddr, &Name> = BTreeMap::new();
        let mut given: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
        for (name, service) in &input.objects.services {
            let own: &[IpAddr] = match &service.exposure {
                Exposure::Addresses(ips) => ips,
                Exposure::External => continue,
                Exposure::Allocate | Exposure::Headless => &[],
            };
            for ip in own.iter().chain(&service.balancer_ips) {
                let owner = *owners.entry(*ip).or_insert(name);
                let ips = given.entry(name.clone()).or_default();
                if owner != name {
                    let message = format!("{ip} is already the address of service {owner}");
                    let condition = Condition::fails(SERVED, "AddressConflict", message);
                    statuses.add(Kind::Service, name, condition);
                } else if !ips.contains(ip) {
                    ips.push(*ip);
                }
            }
        }
        Self {
            taken: owners.into_keys().collect(),
            given,
            allocated: Allocations::new(),
        }
    }

    /// First those who held an address, then the new ones: nobody new displaces anybody.
    fn allocate(&mut self, input: &Input<'_>, statuses: &mut Statuses) {
        let wanting = || {
            let all = input.objects.services.iter();
            all.filter(|(_, service)| service.exposure == Exposure::Allocate)
        };
        let held = |name: &Name| input.vips.get(&name.to_string());
        for (name, service) in wanting().filter(|(name, _)| held(name).is_some()) {
            self.allocate_one(input, (name, service), statuses);
        }
        for (name, service) in wanting().filter(|(name, _)| held(name).is_none()) {
            self.allocate_one(input, (name, service), statuses);
        }
    }

    fn allocate_one(
        &mut self,
        input: &Input<'_>,
        (name, service): (&Name, &Arc<Service>),
        statuses: &mut Statuses,
    ) {
        let text = name.to_string();
        let held = input.vips.get(&text).map(Vec::as_slice).unwrap_or_default();
        let families: &[bool] = match service.families {
            IpFamilies::Automatic | IpFamilies::Ipv4Only => &[true],
            IpFamilies::Ipv6Only => &[false],
            IpFamilies::Dual => &[true, false],
        };
        for v4 in families {
            let range = input.options.vip_ranges.range(*v4);
            let before = held.iter().copied().find(|ip| ip.is_ipv4() == *v4);
            match range.take(&text, before, &mut self.taken) {
                Some(ip) => {
                    self.given.entry(name.clone()).or_default().push(ip);
                    self.allocated.entry(text.clone()).or_default().push(ip);
                }
                None => {
                    let message = "the range for service addresses is used up";
                    let condition = Condition::fails(SERVED, "AddressesExhausted", message);
                    statuses.add(Kind::Service, name, condition);
                }
            }
        }
    }
}
