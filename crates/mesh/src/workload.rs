//! Workloads: pods and other things with an address that send or take connections.

mod addresses;
mod derived;
mod pool;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::address::{NetworkAddress, canonical};
use crate::identity::{Identity, IdentityError};
use crate::policy::PolicyKey;
use crate::service::{GatewayAddress, PortMapping, ServiceKey};

pub use addresses::Addresses;
use derived::Derived;
pub use pool::Pool;

/// Name of a workload in discovery: `cluster/group/kind/namespace/name[/section]`,
/// for pods `Kubernetes//Pod/<namespace>/<name>`. Not the Kubernetes UID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(pub Arc<str>);

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One workload as discovery describes it: what is its own, and what it has in common with others.
///
/// The fields of [`Common`] are read and written as if they were its own. Writing one takes a
/// copy first if others share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Discovery name.
    pub uid: WorkloadUid,
    /// Kubernetes name (of the pod).
    pub name: Arc<str>,
    /// Addresses, canonical; empty when only `hostname` is known.
    pub addresses: Addresses,
    /// Name of its node, empty when unknown.
    pub node: Arc<str>,
    /// Whether it takes new connections.
    pub health: Health,
    /// What it has in common with others of its deployment: one value for all of them, once they
    /// went through a [`Pool`].
    pub common: Arc<Common>,
}

/// What the replicas of one deployment have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Common {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// DNS name of a workload without a fixed address, else empty.
    pub hostname: Arc<str>,
    /// Network the addresses are valid in, empty by default.
    pub network: Arc<str>,
    /// How to reach it.
    pub tunnel: TunnelProtocol,
    /// Trust domain of its identity.
    pub trust_domain: Arc<str>,
    /// Service account of its identity.
    pub service_account: Arc<str>,
    /// Waypoint for traffic addressed to the workload itself.
    pub waypoint: Option<GatewayAddress>,
    /// Gateway of its network, when that is another network.
    pub network_gateway: Option<GatewayAddress>,
    /// Value of `service.istio.io/canonical-name` (or what stands for it).
    pub canonical_name: Arc<str>,
    /// Value of `service.istio.io/canonical-revision`, `latest` by default.
    pub canonical_revision: Arc<str>,
    /// What kind of owner it has; telemetry only.
    pub kind: WorkloadKind,
    /// Name of that owner; telemetry only.
    pub workload_name: Arc<str>,
    /// Whether the workload speaks HBONE by itself, with no node proxy in front.
    pub native_tunnel: bool,
    /// Where and how the application itself takes tunnelled connections.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Services it is an endpoint of, with the target port of each service port.
    pub services: BTreeMap<ServiceKey, Vec<PortMapping>>,
    /// Policies that select this workload by name (those of its namespace and the global
    /// ones apply without being listed).
    pub policies: Vec<PolicyKey>,
    /// Cluster, `Kubernetes` by default.
    pub cluster: Arc<str>,
    /// Region, zone and subzone.
    pub locality: Locality,
    /// Whether it shares its node's network.
    pub network_mode: NetworkMode,
    /// Weight among the endpoints of a service; 1 by default, 0 takes no new connection.
    pub capacity: u32,
    /// What is made of the rest once, at its first use. Empty by default.
    pub derived: Derived,
}

impl Deref for Workload {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl DerefMut for Workload {
    fn deref_mut(&mut self) -> &mut Common {
        let common = Arc::make_mut(&mut self.common);
        // It will not be what it was made of.
        common.derived = Derived::default();
        common
    }
}

impl Workload {
    /// The SPIFFE identity that its certificate must carry.
    ///
    /// # Errors
    /// Parts that no SPIFFE ID may have (`proto::decode` refuses such workloads).
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        self.derived
            .identity(|| Identity::new(&self.trust_domain, &self.namespace, &self.service_account))
    }

    /// A text that says of it what the replicas of its deployment have in common: written by the
    /// first who asks, the same for all. There is one such text, for one purpose in a process.
    pub fn described(&self, write: impl FnOnce(&Self) -> String) -> &Arc<str> {
        self.derived.text(|| write(self))
    }

    /// Its addresses with its network.
    pub fn network_addresses(&self) -> impl Iterator<Item = NetworkAddress> + '_ {
        self.addresses
            .iter()
            .map(|ip| NetworkAddress::new(self.network.clone(), *ip))
    }

    /// Whether one of its addresses is `ip`, in whatever form `ip` is written.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&canonical(ip))
    }

    /// Whether its uid says that it is a Kubernetes pod.
    pub fn is_pod(&self) -> bool {
        let mut steps = self.uid.0.split('/').skip(1);
        steps.next() == Some("") && steps.next() == Some("Pod")
    }
}

/// How to reach a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// Plain TCP.
    #[default]
    None,
    /// HBONE to port 15008.
    Hbone,
}

/// Kubernetes kind of the owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum WorkloadKind {
    #[default]
    Deployment,
    CronJob,
    Pod,
    Job,
}

/// Whether a workload takes new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Ready.
    #[default]
    Healthy,
    /// Not ready, or being deleted.
    Unhealthy,
}

/// Whether the workload has a network of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// Its own addresses.
    #[default]
    Standard,
    /// Its node's addresses: found by address only when nothing else has it.
    HostNetwork,
}

/// How the application itself takes a tunnelled connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApplicationTunnel {
    /// Protocol in front of the bytes.
    pub protocol: ApplicationProtocol,
    /// Port of the application, None for the port of the request.
    pub port: Option<u16>,
}

/// Protocol of an [`ApplicationTunnel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApplicationProtocol {
    /// No header.
    None,
    /// PROXY protocol version 2.
    Proxy,
}

/// Where a workload stands; parts are empty when unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}
