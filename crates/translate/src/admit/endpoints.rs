//! Checks and defaults of an EndpointSlice.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as discovery;

use super::{Reason, address, is_tcp, meta, port, protocol_known};
use crate::object::{Endpoint, EndpointSlice, Kind, Object};

/// Label that names the service of a slice.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

pub(crate) fn endpoint_slice(from: discovery::EndpointSlice) -> Result<Object, Reason> {
    let meta = meta(Kind::EndpointSlice, from.metadata)?;
    let family = from.address_type.as_str();
    let mut endpoints = Vec::new();
    match family {
        "IPv4" | "IPv6" => {
            for given in from.endpoints {
                endpoints.push(endpoint(given, family == "IPv4")?);
            }
        }
        // Names are resolved by DNS, which this source does not do.
        "FQDN" => return Err("addressType FQDN is not served".to_owned()),
        other => return Err(format!("addressType `{other}` is none of IPv4, IPv6, FQDN")),
    }
    let mut ports = BTreeMap::new();
    for given in from.ports.into_iter().flatten() {
        protocol_known(given.protocol.as_deref())?;
        // A slice's port without a number stands for all ports (Kubernetes API, EndpointPort).
        let Some(number) = given.port.filter(|_| is_tcp(given.protocol.as_deref())) else {
            continue;
        };
        ports.insert(given.name.unwrap_or_default(), port("ports.port", number)?);
    }
    let service = meta.label(SERVICE_NAME_LABEL).map(Arc::from);
    Ok(Object::EndpointSlice(
        EndpointSlice {
            meta,
            service,
            endpoints,
            ports,
        }
        .into(),
    ))
}

fn endpoint(from: discovery::Endpoint, v4: bool) -> Result<Endpoint, Reason> {
    let mut addresses = Vec::new();
    for text in &from.addresses {
        let ip = address("endpoints.addresses", text)?;
        if ip.is_ipv4() != v4 {
            return Err(format!(
                "endpoints.addresses `{text}` is not of the addressType"
            ));
        }
        addresses.push(ip);
    }
    if addresses.is_empty() {
        return Err("an endpoint has no address".to_owned());
    }
    let pod = from
        .target_ref
        .filter(|r| r.kind.as_deref() == Some("Pod"))
        .and_then(|r| r.name);
    Ok(Endpoint {
        addresses,
        ready: from.conditions.and_then(|c| c.ready).unwrap_or(true),
        pod: pod.map(Arc::from),
        node: from.node_name.map(Arc::from),
        zone: from.zone.map(Arc::from),
    })
}
