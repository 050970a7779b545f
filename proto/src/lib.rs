//! The wire: `.proto` files, the code generated from them, and the one place where wire becomes
//! domain ([`decode`]) and domain becomes wire ([`encode`]).
//!
//! Knows no sockets and no policy: a message that cannot be a domain value is an error that names
//! the resource and the field.

pub mod decode;
pub mod encode;
pub mod names;
pub mod resource;
pub mod routed;
pub mod zds;

/// Generated code. Documented in the `.proto` files.
#[allow(missing_docs, clippy::all)]
pub mod wire {
    pub mod workload {
        tonic::include_proto!("istio.workload");
    }
    pub mod security {
        tonic::include_proto!("istio.security");
    }
    pub mod zds {
        tonic::include_proto!("istio.workload.zds");
    }
    pub mod ca {
        tonic::include_proto!("istio.v1.auth");
    }
    pub mod discovery {
        tonic::include_proto!("envoy.service.discovery.v3");
    }
    pub mod agent {
        tonic::include_proto!("culvert.agent.v1");
    }
    pub mod route {
        tonic::include_proto!("culvert.route.v1");
    }
}

pub use decode::{DecodeError, Problem};
pub use names::ResourceName;
pub use resource::Resource;
pub use routed::{Routed, RoutedName};

/// Type URL of workloads and services.
pub const ADDRESS_TYPE_URL: &str = "type.googleapis.com/istio.workload.Address";
/// Type URL of workloads alone.
pub const WORKLOAD_TYPE_URL: &str = "type.googleapis.com/istio.workload.Workload";
/// Type URL of L4 authorization policies.
pub const AUTHORIZATION_TYPE_URL: &str = "type.googleapis.com/istio.security.Authorization";
/// Type URL of routes at their parents.
pub const ROUTE_TYPE_URL: &str = "type.googleapis.com/culvert.route.v1.Route";
/// Type URL of policies that are for services and gateways.
pub const TARGET_POLICY_TYPE_URL: &str = "type.googleapis.com/culvert.route.v1.TargetPolicy";
