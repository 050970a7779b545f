//! What the API server would do with an object: check it, give it its defaults. Here it is also cut
//! down to what the mesh needs. Knows no text; says why an object is refused in one sentence.

mod endpoints;
mod gateway;
mod network;
mod security;

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(crate) use endpoints::endpoint_slice;
pub(crate) use gateway::{
    gateway, gateway_class, grpc_route, http_route, reference_grant, tcp_route, tls_route,
};
pub(crate) use network::{node, service};
pub(crate) use security::{authorization_policy, peer_authentication};

use crate::identifier::{is_label, is_name};
use crate::object::{Kind, Meta, Name, Namespace, Object, Owner, Pod, ServiceAccount};

/// Namespace of an object that names none, as `kubectl apply` does.
const DEFAULT_NAMESPACE: &str = "default";

/// Why an object is refused, in a sentence.
pub(crate) type Reason = String;

/// A name as the object's header gives it.
pub(crate) fn name(
    kind: Kind,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<Name, Reason> {
    let name = name
        .filter(|n| !n.is_empty())
        .ok_or("metadata.name is missing")?;
    // A namespace becomes a DNS label, a service too; others may have dots.
    let label = matches!(kind, Kind::Namespace | Kind::Service);
    if (label && !is_label(name)) || !is_name(name) {
        return Err(format!("metadata.name `{name}` is no name of a {kind}"));
    }
    let namespace = namespace.filter(|n| !n.is_empty());
    match (kind.is_namespaced(), namespace) {
        (false, None) => Ok(Name::new("", name)),
        (false, Some(_)) => Err(format!(
            "a {kind} is in no namespace, metadata.namespace is"
        )),
        (true, namespace) => {
            let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
            if !is_label(namespace) {
                return Err(format!(
                    "metadata.namespace `{namespace}` is no name of a namespace"
                ));
            }
            Ok(Name::new(namespace, name))
        }
    }
}

pub(crate) fn meta(kind: Kind, from: ObjectMeta) -> Result<Meta, Reason> {
    let owner = from
        .owner_references
        .unwrap_or_default()
        .into_iter()
        .find(|o| o.controller == Some(true))
        .map(|o| Owner {
            kind: o.kind,
            name: o.name,
        });
    Ok(Meta {
        name: name(kind, from.namespace.as_deref(), from.name.as_deref())?,
        uid: from.uid.filter(|u| !u.is_empty()).map(Arc::from),
        labels: from.labels.unwrap_or_default(),
        annotations: from.annotations.unwrap_or_default(),
        owner,
        deleting: from.deletion_timestamp.is_some(),
    })
}

pub(crate) fn namespace(from: core::Namespace) -> Result<Object, Reason> {
    Ok(Object::Namespace(
        Namespace {
            meta: meta(Kind::Namespace, from.metadata)?,
        }
        .into(),
    ))
}

pub(crate) fn service_account(from: core::ServiceAccount) -> Result<Object, Reason> {
    let meta = meta(Kind::ServiceAccount, from.metadata)?;
    Ok(Object::ServiceAccount(ServiceAccount { meta }.into()))
}

pub(crate) fn pod(from: core::Pod) -> Result<Object, Reason> {
    let meta = meta(Kind::Pod, from.metadata)?;
    let spec = from.spec.ok_or("spec is missing")?;
    let status = from.status.unwrap_or_default();
    let account = spec.service_account_name.filter(|a| !a.is_empty());
    let account = account.unwrap_or_else(|| "default".to_owned());
    if !is_name(&account) {
        return Err(format!("spec.serviceAccountName `{account}` is no name"));
    }
    let node = spec.node_name.filter(|n| !n.is_empty());
    if let Some(node) = node.as_deref().filter(|n| !is_name(n)) {
        return Err(format!("spec.nodeName `{node}` is no name of a node"));
    }
    let listed = status.pod_ips.unwrap_or_default().into_iter().map(|p| p.ip);
    let mut ips = Vec::new();
    for text in listed.chain(status.pod_ip).filter(|ip| !ip.is_empty()) {
        let ip = address("status.podIPs", &text)?;
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    let conditions = status.conditions.unwrap_or_default();
    let ready = conditions
        .iter()
        .find(|c| c.type_ == "Ready")
        .map(|c| c.status == "True");
    let ports = named_ports(&spec.containers)?;
    Ok(Object::Pod(
        Pod {
            meta,
            node: node.map(Arc::from),
            service_account: account.into(),
            host_network: spec.host_network.unwrap_or(false),
            ips,
            ready,
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            ports,
        }
        .into(),
    ))
}

fn named_ports(
    containers: &[core::Container],
) -> Result<std::collections::BTreeMap<String, u16>, Reason> {
    let mut named = std::collections::BTreeMap::new();
    for container in containers {
        for given in container.ports.iter().flatten() {
            let number = port("containerPort", given.container_port)?;
            let Some(name) = given
                .name
                .as_ref()
                .filter(|_| is_tcp(given.protocol.as_deref()))
            else {
                continue;
            };
            named.entry(name.clone()).or_insert(number);
        }
    }
    Ok(named)
}

/// Whether a port's protocol is TCP, which is also the default; another known one is not carried.
fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

fn protocol_known(protocol: Option<&str>) -> Result<(), Reason> {
    match protocol {
        None | Some("" | "TCP" | "UDP" | "SCTP") => Ok(()),
        Some(other) => Err(format!("protocol `{other}` is none of TCP, UDP, SCTP")),
    }
}

fn port(field: &str, number: i32) -> Result<u16, Reason> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{field} {number} is not from 1 to 65535")),
    }
}

fn address(field: &str, text: &str) -> Result<IpAddr, Reason> {
    let parsed: Result<IpAddr, _> = text.parse();
    let ip = parsed.map_err(|_| format!("{field} `{text}` is no IP address"))?;
    let ip = mesh::address::canonical(ip);
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return Err(format!(
            "{field} `{text}` is unspecified, loopback or multicast"
        ));
    }
    Ok(ip)
}
