//! Names of resources in discovery, and the aliases under which they are asked for.
//!
//! Workloads: `cluster/group/kind/namespace/name[/section]`. Services: `namespace/hostname`.
//! Policies: `namespace/name`. Both kinds of addresses: the alias `network/ip`.

use std::fmt;
use std::net::IpAddr;

use mesh::{NetworkAddress, PolicyKey, Service, ServiceKey, Snapshot, Workload, WorkloadUid};

use crate::AUTHORIZATION_TYPE_URL;

/// A name that discovery uses for something that is, or is gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceName {
    /// A workload, by uid.
    Workload(WorkloadUid),
    /// A service.
    Service(ServiceKey),
    /// A policy.
    Policy(PolicyKey),
    /// Whatever has an address.
    Address(NetworkAddress),
}

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not of the form {form}")]
pub struct NameError {
    /// The text, cut at 128 characters.
    pub text: String,
    /// The form that it should have.
    pub form: &'static str,
}

impl NameError {
    fn new(text: &str, form: &'static str) -> Self {
        Self {
            text: text.chars().take(128).collect(),
            form,
        }
    }
}

impl ResourceName {
    /// Reads the name of a (removed) resource of a type.
    ///
    /// Under the types of addresses, a name of one `/` is a service or an alias, by whether its
    /// second part is an IP address; any other name is the uid of a workload.
    ///
    /// # Errors
    /// An empty name, or one that a policy cannot have.
    pub fn parse(type_url: &str, name: &str) -> Result<Self, NameError> {
        if type_url == AUTHORIZATION_TYPE_URL {
            return policy_key(name).map(Self::Policy);
        }
        if let Ok(address) = network_address(name) {
            return Ok(Self::Address(address));
        }
        match name.split('/').count() {
            2 => service_key(name).map(Self::Service),
            _ if name.is_empty() => Err(NameError::new(name, "of a workload or service")),
            _ => Ok(Self::Workload(WorkloadUid(name.into()))),
        }
    }

    /// Takes what has this name out of a snapshot. An alias is marked as absent: that is what
    /// "removed" means in answer to a question for an address.
    ///
    /// Returns the address that [`Snapshot::mark_absent`] had to forget, if one.
    pub fn remove_from(&self, snapshot: &mut Snapshot) -> Option<NetworkAddress> {
        match self {
            Self::Workload(uid) => snapshot.remove_workload(uid),
            Self::Service(key) => snapshot.remove_service(key),
            Self::Policy(key) => snapshot.remove_policy(key),
            Self::Address(address) => return snapshot.mark_absent(address.clone()),
        };
        None
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(uid) => uid.fmt(f),
            Self::Service(key) => key.fmt(f),
            Self::Policy(key) => key.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// The uid of a pod's workload: `<cluster>//Pod/<namespace>/<name>`.
pub fn pod_uid(cluster: &str, namespace: &str, name: &str) -> WorkloadUid {
    WorkloadUid(format!("{cluster}//Pod/{namespace}/{name}").into())
}

/// Reads `namespace/hostname`; neither may be empty.
///
/// # Errors
/// Any other form.
pub fn service_key(text: &str) -> Result<ServiceKey, NameError> {
    match text.split('/').collect::<Vec<_>>()[..] {
        [namespace, hostname] if !namespace.is_empty() && !hostname.is_empty() => Ok(ServiceKey {
            namespace: namespace.into(),
            hostname: hostname.into(),
        }),
        _ => Err(NameError::new(text, "namespace/hostname")),
    }
}

/// Reads `namespace/name`; the namespace may be empty (a global policy), the name may not.
///
/// # Errors
/// Any other form.
pub fn policy_key(text: &str) -> Result<PolicyKey, NameError> {
    match text.split('/').collect::<Vec<_>>()[..] {
        [namespace, name] if !name.is_empty() => Ok(PolicyKey {
            namespace: namespace.into(),
            name: name.into(),
        }),
        _ => Err(NameError::new(text, "namespace/name")),
    }
}

/// Reads `network/ip`; the network may be empty.
///
/// # Errors
/// Any other form.
pub fn network_address(text: &str) -> Result<NetworkAddress, NameError> {
    let form = || NameError::new(text, "network/ip");
    let (network, ip) = text.rsplit_once('/').ok_or_else(form)?;
    let ip: IpAddr = ip.parse().map_err(|_| form())?;
    if network.contains('/') {
        return Err(form());
    }
    Ok(NetworkAddress::new(network, ip))
}

/// Aliases of a workload: `network/ip` of each address.
pub fn workload_aliases(workload: &Workload) -> Vec<String> {
    workload
        .network_addresses()
        .map(|address| address.to_string())
        .collect()
}

/// Aliases of a service: `network/ip` of each single address (a range has none).
pub fn service_aliases(service: &Service) -> Vec<String> {
    service
        .addresses
        .iter()
        .filter_map(|range| range.single())
        .map(|a| a.to_string())
        .collect()
}
