//! The objects that the mesh is made of: what is left of Kubernetes objects once they are checked
//! and defaulted. Knows neither YAML nor the wire; every value here is valid.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh::service::{AppProtocol, IpFamilies};
use serde::Serialize;

use crate::gateway::{
    GatewayClassSpec, GatewaySpec, GrpcRouteSpec, HttpRouteSpec, ReferenceGrantSpec,
    StreamRouteSpec,
};
use crate::security::{AuthorizationSpec, PeerMode};

/// Labels or annotations of an object.
pub type Labels = BTreeMap<String, String>;

/// Namespace and name of an object of a known kind; the namespace of cluster objects is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Namespace, empty for cluster objects.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Name {
    /// A name of its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)]
pub enum Kind {
    Namespace,
    Node,
    ServiceAccount,
    Pod,
    Service,
    EndpointSlice,
    AuthorizationPolicy,
    PeerAuthentication,
    GatewayClass,
    Gateway,
    HTTPRoute,
    GRPCRoute,
    TLSRoute,
    TCPRoute,
    ReferenceGrant,
}

impl Kind {
    /// The kind of an `apiVersion` and `kind`, if it is read.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        const SECURITY: [&str; 2] = ["security.istio.io/v1", "security.istio.io/v1beta1"];
        const GATEWAY: [&str; 2] = [
            "gateway.networking.k8s.io/v1",
            "gateway.networking.k8s.io/v1beta1",
        ];
        const STREAMS: [&str; 3] = [
            "gateway.networking.k8s.io/v1",
            "gateway.networking.k8s.io/v1alpha2",
            "gateway.networking.k8s.io/v1alpha3",
        ];
        Some(match (api_version, kind) {
            ("v1", "Namespace") => Self::Namespace,
            ("v1", "Node") => Self::Node,
            ("v1", "ServiceAccount") => Self::ServiceAccount,
            ("v1", "Pod") => Self::Pod,
            ("v1", "Service") => Self::Service,
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice,
            (v, "AuthorizationPolicy") if SECURITY.contains(&v) => Self::AuthorizationPolicy,
            (v, "PeerAuthentication") if SECURITY.contains(&v) => Self::PeerAuthentication,
            (v, "GatewayClass") if GATEWAY.contains(&v) => Self::GatewayClass,
            (v, "Gateway") if GATEWAY.contains(&v) => Self::Gateway,
            (v, "HTTPRoute") if GATEWAY.contains(&v) => Self::HTTPRoute,
            (v, "GRPCRoute") if GATEWAY.contains(&v) => Self::GRPCRoute,
            (v, "TLSRoute") if STREAMS.contains(&v) => Self::TLSRoute,
            (v, "TCPRoute") if STREAMS.contains(&v) => Self::TCPRoute,
            (v, "ReferenceGrant") if GATEWAY.contains(&v) => Self::ReferenceGrant,
            _ => return None,
        })
    }

    /// Whether objects of the kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::GatewayClass)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Which object: at most one of a key exists.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace and name.
    pub name: Name,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// What every object has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Namespace and name.
    pub name: Name,
    /// Kubernetes UID; manifests rarely have one.
    pub uid: Option<Arc<str>>,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// The controlling owner, if any.
    pub owner: Option<Owner>,
    /// Whether a deletion has begun.
    pub deleting: bool,
}

impl Meta {
    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

/// A controlling owner.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Owner {
    pub kind: String,
    pub name: String,
}

/// Any object that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Object {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    ServiceAccount(Arc<ServiceAccount>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    PeerAuthentication(Arc<PeerAuthentication>),
    GatewayClass(Arc<Custom<GatewayClassSpec>>),
    Gateway(Arc<Custom<GatewaySpec>>),
    HttpRoute(Arc<Custom<HttpRouteSpec>>),
    GrpcRoute(Arc<Custom<GrpcRouteSpec>>),
    TlsRoute(Arc<Custom<StreamRouteSpec>>),
    TcpRoute(Arc<Custom<StreamRouteSpec>>),
    ReferenceGrant(Arc<Custom<ReferenceGrantSpec>>),
}

/// An object whose checked `spec` is kept as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custom<S> {
    /// Name, labels.
    pub meta: Meta,
    /// Creation in seconds since 1970, if the object says it.
    pub created: Option<u64>,
    /// As written.
    pub spec: S,
}

impl Object {
    /// Its kind and name.
    pub fn key(&self) -> ObjectKey {
        let (kind, meta) = match self {
            Self::Namespace(o) => (Kind::Namespace, &o.meta),
            Self::Node(o) => (Kind::Node, &o.meta),
            Self::ServiceAccount(o) => (Kind::ServiceAccount, &o.meta),
            Self::Pod(o) => (Kind::Pod, &o.meta),
            Self::Service(o) => (Kind::Service, &o.meta),
            Self::EndpointSlice(o) => (Kind::EndpointSlice, &o.meta),
            Self::AuthorizationPolicy(o) => (Kind::AuthorizationPolicy, &o.meta),
            Self::PeerAuthentication(o) => (Kind::PeerAuthentication, &o.meta),
            Self::GatewayClass(o) => (Kind::GatewayClass, &o.meta),
            Self::Gateway(o) => (Kind::Gateway, &o.meta),
            Self::HttpRoute(o) => (Kind::HTTPRoute, &o.meta),
            Self::GrpcRoute(o) => (Kind::GRPCRoute, &o.meta),
            Self::TlsRoute(o) => (Kind::TLSRoute, &o.meta),
            Self::TcpRoute(o) => (Kind::TCPRoute, &o.meta),
            Self::ReferenceGrant(o) => (Kind::ReferenceGrant, &o.meta),
        };
        ObjectKey {
            kind,
            name: meta.name.clone(),
        }
    }
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Namespace {
    pub meta: Meta,
}

/// A service account; its existence is all that is used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ServiceAccount {
    pub meta: Meta,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name, labels.
    pub meta: Meta,
    /// Ranges its pods have addresses of; empty when unknown.
    pub pod_cidrs: Vec<IpNet>,
    /// Its own addresses.
    pub internal_ips: Vec<IpAddr>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Name, labels.
    pub meta: Meta,
    /// Node it is bound to; None: not scheduled.
    pub node: Option<Arc<str>>,
    /// Service account, `default` by default.
    pub service_account: Arc<str>,
    /// Whether it shares its node's network.
    pub host_network: bool,
    /// Addresses of its status, when the source gives one.
    pub ips: Vec<IpAddr>,
    /// The Ready condition of its status, when the source gives one.
    pub ready: Option<bool>,
    /// Whether it has run to its end (phase Succeeded or Failed).
    pub finished: bool,
    /// TCP ports of its containers by name.
    pub ports: BTreeMap<String, u16>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name, labels.
    pub meta: Meta,
    /// How it is reached.
    pub exposure: Exposure,
    /// Addresses of load balancers that lead to it unchanged (ipMode VIP).
    pub balancer_ips: Vec<IpAddr>,
    /// TCP ports.
    pub ports: Vec<ServicePort>,
    /// Labels of its pods; empty when endpoints are given otherwise.
    pub selector: Labels,
    /// Address families, as asked for.
    pub families: IpFamilies,
    /// Whether it keeps to endpoints of the client's node (internalTrafficPolicy Local).
    pub node_local: bool,
    /// trafficDistribution of the spec.
    pub distribution: Option<String>,
    /// Whether endpoints that are not ready are published.
    pub publish_not_ready: bool,
}

/// How a service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// By these addresses, one of a family at most.
    Addresses(Vec<IpAddr>),
    /// By addresses still to be allocated, of the families of [`Service::families`].
    Allocate,
    /// By the addresses of its pods (clusterIP None).
    Headless,
    /// It is a DNS alias (type ExternalName).
    External,
}

/// A TCP port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty for the only port.
    pub name: String,
    /// Port clients connect to.
    pub port: u16,
    /// Port of the pods.
    pub target: TargetPort,
    /// What the application speaks.
    pub protocol: AppProtocol,
}

/// Where a port of a service leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// To this port.
    Number(u16),
    /// To the container port of this name.
    Name(String),
}

/// A part of the endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name, labels.
    pub meta: Meta,
    /// Name of its service (label `kubernetes.io/service-name`), in its own namespace.
    pub service: Option<Arc<str>>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// TCP ports by the names of the service's ports.
    pub ports: BTreeMap<String, u16>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it takes connections; unknown counts as yes (Kubernetes API, EndpointConditions).
    pub ready: bool,
    /// The pod behind it, in the slice's namespace.
    pub pod: Option<Arc<str>>,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
}

/// A policy on who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct AuthorizationPolicy {
    pub meta: Meta,
    pub spec: AuthorizationSpec,
}

/// A policy on mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Name, namespace.
    pub meta: Meta,
    /// Labels of the workloads; empty: all of the namespace, or of the mesh in the root namespace.
    pub selector: Labels,
    /// Mode of all ports.
    pub mode: PeerMode,
    /// Modes of single ports of the workload.
    pub port_modes: BTreeMap<u16, PeerMode>,
}

/// All objects of a source, by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Objects {
    pub namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    pub nodes: BTreeMap<Arc<str>, Arc<Node>>,
    pub service_accounts: BTreeMap<Name, Arc<ServiceAccount>>,
    pub pods: BTreeMap<Name, Arc<Pod>>,
    pub services: BTreeMap<Name, Arc<Service>>,
    pub endpoint_slices: BTreeMap<Name, Arc<EndpointSlice>>,
    pub authorization_policies: BTreeMap<Name, Arc<AuthorizationPolicy>>,
    pub peer_authentications: BTreeMap<Name, Arc<PeerAuthentication>>,
    pub gateway_classes: BTreeMap<Arc<str>, Arc<Custom<GatewayClassSpec>>>,
    pub gateways: BTreeMap<Name, Arc<Custom<GatewaySpec>>>,
    pub http_routes: BTreeMap<Name, Arc<Custom<HttpRouteSpec>>>,
    pub grpc_routes: BTreeMap<Name, Arc<Custom<GrpcRouteSpec>>>,
    pub tls_routes: BTreeMap<Name, Arc<Custom<StreamRouteSpec>>>,
    pub tcp_routes: BTreeMap<Name, Arc<Custom<StreamRouteSpec>>>,
    pub reference_grants: BTreeMap<Name, Arc<Custom<ReferenceGrantSpec>>>,
}

impl Objects {
    /// Puts an object in; one of the same key is replaced.
    pub fn insert(&mut self, object: Object) {
        let name = object.key().name;
        match object {
            Object::Namespace(o) => drop(self.namespaces.insert(name.name, o)),
            Object::Node(o) => drop(self.nodes.insert(name.name, o)),
            Object::ServiceAccount(o) => drop(self.service_accounts.insert(name, o)),
            Object::Pod(o) => drop(self.pods.insert(name, o)),
            Object::Service(o) => drop(self.services.insert(name, o)),
            Object::EndpointSlice(o) => drop(self.endpoint_slices.insert(name, o)),
            Object::AuthorizationPolicy(o) => {
                drop(self.authorization_policies.insert(name, o));
            }
            Object::PeerAuthentication(o) => {
                drop(self.peer_authentications.insert(name, o));
            }
            Object::GatewayClass(o) => {
                drop(self.gateway_classes.insert(name.name, o));
            }
            Object::Gateway(o) => drop(self.gateways.insert(name, o)),
            Object::HttpRoute(o) => drop(self.http_routes.insert(name, o)),
            Object::GrpcRoute(o) => drop(self.grpc_routes.insert(name, o)),
            Object::TlsRoute(o) => drop(self.tls_routes.insert(name, o)),
            Object::TcpRoute(o) => drop(self.tcp_routes.insert(name, o)),
            Object::ReferenceGrant(o) => drop(self.reference_grants.insert(name, o)),
        }
    }

    /// Number of objects of all kinds.
    pub fn len(&self) -> usize {
        self.namespaces.len()
            + self.nodes.len()
            + self.service_accounts.len()
            + self.pods.len()
            + self.services.len()
            + self.endpoint_slices.len()
            + self.authorization_policies.len()
            + self.peer_authentications.len()
            + self.gateway_classes.len()
            + self.gateways.len()
            + self.http_routes.len()
            + self.grpc_routes.len()
            + self.tls_routes.len()
            + self.tcp_routes.len()
            + self.reference_grants.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
