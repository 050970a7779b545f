//! Domain to wire: the inverse of [`decode`](crate::decode), as a control plane sends it.

mod policy;
mod route;
mod service;
mod workload;
mod zds;

use mesh::policy::targeted::TargetedPolicy;
use prost::Message;
use prost_types::Any;

use crate::names;
use crate::resource::Resource;
use crate::routed::Routed;
use crate::wire;
use crate::{ADDRESS_TYPE_URL, AUTHORIZATION_TYPE_URL, ROUTE_TYPE_URL, TARGET_POLICY_TYPE_URL};

pub use policy::policy;
pub use service::service;
pub use workload::workload;
pub use zds::{EncodeError, zds_ack, zds_hello, zds_request};

/// A workload or service as the resources of type [`ADDRESS_TYPE_URL`] are; None for a policy.
pub fn address(resource: &Resource) -> Option<wire::workload::Address> {
    use wire::workload::address::Type;
    let content = match resource {
        Resource::Workload(domain) => Type::Workload(workload(domain)),
        Resource::Service(domain) => Type::Service(service(domain)),
        Resource::Policy(_) => return None,
    };
    Some(wire::workload::Address {
        r#type: Some(content),
    })
}

/// A resource as a discovery response carries it: its name, its aliases, its content with the
/// type URL, and the version given.
pub fn discovered(resource: &Resource, version: &str) -> wire::discovery::Resource {
    let (type_url, value) = match resource {
        Resource::Policy(domain) => (AUTHORIZATION_TYPE_URL, policy(domain).encode_to_vec()),
        _ => (
            ADDRESS_TYPE_URL,
            address(resource).unwrap_or_default().encode_to_vec(),
        ),
    };
    wire::discovery::Resource {
        version: version.to_owned(),
        resource: Some(Any {
            type_url: type_url.to_owned(),
            value,
        }),
        name: resource.name().to_string(),
        aliases: match resource {
            Resource::Workload(domain) => names::workload_aliases(domain),
            Resource::Service(domain) => names::service_aliases(domain),
            Resource::Policy(_) => Vec::new(),
        },
        ttl: None,
    }
}

/// A route at its parent as a discovery response carries it.
pub fn routed(domain: &Routed, version: &str) -> wire::discovery::Resource {
    let content = route::route(domain).encode_to_vec();
    plain(
        domain.name().to_string(),
        version,
        (ROUTE_TYPE_URL, content),
    )
}

/// A policy with targets as a discovery response carries it.
pub fn target_policy(domain: &TargetedPolicy, version: &str) -> wire::discovery::Resource {
    let content = route::target_policy(domain).encode_to_vec();
    let name = domain.policy.key.to_string();
    plain(name, version, (TARGET_POLICY_TYPE_URL, content))
}

/// A resource without aliases.
fn plain(
    name: String,
    version: &str,
    (type_url, value): (&str, Vec<u8>),
) -> wire::discovery::Resource {
    wire::discovery::Resource {
        version: version.to_owned(),
        resource: Some(Any {
            type_url: type_url.to_owned(),
            value,
        }),
        name,
        ..wire::discovery::Resource::default()
    }
}
