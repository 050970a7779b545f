//! Services: a name and virtual addresses in front of workloads.

use std::fmt;
use std::sync::Arc;

use crate::address::{NetworkAddress, NetworkCidr};
use crate::identity::Identity;

/// Name of a service in discovery: `namespace/hostname`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Fully qualified host name, such as `web.shop.svc.cluster.local`.
    pub hostname: Arc<str>,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// One service as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and host name.
    pub key: ServiceKey,
    /// Kubernetes name.
    pub name: Arc<str>,
    /// Virtual addresses; a range for services with a CIDR.
    pub addresses: Vec<NetworkCidr>,
    /// Ports of the service.
    pub ports: Vec<PortMapping>,
    /// Identities that its endpoints may show besides their own.
    pub subject_alt_names: Vec<Identity>,
    /// Waypoint for traffic addressed to the service.
    pub waypoint: Option<GatewayAddress>,
    /// Waypoints of which one is drawn by weight for each connection; before `waypoint` if given.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// Address families it is offered in.
    pub ip_families: IpFamilies,
    /// Whether this is the one that answers for its hostname when several namespaces define it.
    pub canonical: bool,
    /// Whether ingress traffic passes the waypoint too.
    pub ingress_use_waypoint: bool,
    /// Who may see it.
    pub visibility: Visibility,
}

/// A port of a service and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// Port clients connect to.
    pub service_port: u16,
    /// Port on the endpoint; 0: the endpoint's own mapping decides.
    pub target_port: u16,
    /// What the application speaks, when it said so.
    pub protocol: AppProtocol,
}

/// What an application said that it speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum AppProtocol {
    #[default]
    Unknown,
    Http11,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

/// Address of a waypoint or network gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    /// By name or by address.
    pub destination: GatewayDestination,
    /// Port on which it takes HBONE with mutual TLS, 15008 by default.
    pub hbone_mtls_port: u16,
}

/// Where a gateway is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    /// A service.
    Hostname(ServiceKey),
    /// An address: of a service, or of one workload.
    Address(NetworkAddress),
}

impl fmt::Display for GatewayDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hostname(key) => key.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.destination, self.hbone_mtls_port)
    }
}

/// One of several waypoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightedWaypoint {
    /// The waypoint.
    pub gateway: GatewayAddress,
    /// Its share; 0 is never drawn.
    pub weight: u32,
}

/// How an endpoint is chosen among those of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoadBalancing {
    /// Scopes to match, most significant first.
    pub routing_preference: Vec<LocalityScope>,
    /// What the preference means.
    pub mode: LoadBalancingMode,
    /// Whether unhealthy endpoints may be chosen.
    pub health: HealthPolicy,
}

/// A scope in which two workloads may be alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum LocalityScope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// What a routing preference means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LoadBalancingMode {
    /// No preference.
    #[default]
    Unspecified,
    /// All scopes must match, else there is no endpoint.
    Strict,
    /// The best matched prefix of the preference wins.
    Failover,
    /// The original address is kept.
    Passthrough,
}

/// Whether unhealthy endpoints may be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum HealthPolicy {
    #[default]
    OnlyHealthy,
    AllowAll,
}

/// Address families a service is offered in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum IpFamilies {
    #[default]
    Automatic,
    Ipv4Only,
    Ipv6Only,
    Dual,
}

/// Who may see a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Everybody.
    #[default]
    Public,
    /// Clients of its own namespace.
    Namespace,
}
