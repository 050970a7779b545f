//! Checks and defaults of a Node and of a Service.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh::service::{AppProtocol, IpFamilies};

use super::{Reason, address, is_tcp, meta, port, protocol_known};
use crate::object::{Exposure, Kind, Node, Object, Service, ServicePort, TargetPort};

pub(crate) fn node(from: core::Node) -> Result<Object, Reason> {
    let meta = meta(Kind::Node, from.metadata)?;
    let spec = from.spec.unwrap_or_default();
    let mut pod_cidrs: Vec<IpNet> = Vec::new();
    for text in spec.pod_cidrs.into_iter().flatten().chain(spec.pod_cidr) {
        let range: IpNet = text
            .parse()
            .map_err(|_| format!("spec.podCIDRs `{text}` is no range"))?;
        if !pod_cidrs.contains(&range.trunc()) {
            pod_cidrs.push(range.trunc());
        }
    }
    let mut internal_ips = Vec::new();
    for given in from.status.and_then(|s| s.addresses).unwrap_or_default() {
        if given.type_ == "InternalIP" {
            internal_ips.push(address("status.addresses", &given.address)?);
        }
    }
    Ok(Object::Node(
        Node {
            meta,
            pod_cidrs,
            internal_ips,
        }
        .into(),
    ))
}

pub(crate) fn service(from: core::Service) -> Result<Object, Reason> {
    let meta = meta(Kind::Service, from.metadata)?;
    let spec = from.spec.unwrap_or_default();
    let mut balancer_ips = Vec::new();
    let balancer = from
        .status
        .and_then(|s| s.load_balancer)
        .and_then(|b| b.ingress);
    for ingress in balancer.unwrap_or_default() {
        // ipMode Proxy: the balancer itself is the destination (KEP-1860).
        if ingress.ip_mode.as_deref() != Some("Proxy")
            && let Some(ip) = ingress.ip
        {
            balancer_ips.push(address("status.loadBalancer.ingress.ip", &ip)?);
        }
    }
    let exposure = exposure(&spec)?;
    let families = families(&spec, &exposure)?;
    let ports = ports(&spec)?;
    let distribution = spec.traffic_distribution;
    Ok(Object::Service(
        Service {
            meta,
            exposure,
            balancer_ips,
            ports,
            selector: spec.selector.unwrap_or_default(),
            families,
            node_local: one_of(
                "spec.internalTrafficPolicy",
                spec.internal_traffic_policy.as_deref().unwrap_or("Cluster"),
                ["Cluster", "Local"],
            )? == "Local",
            distribution,
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        }
        .into(),
    ))
}

fn one_of<'a>(field: &str, text: &'a str, allowed: [&str; 2]) -> Result<&'a str, Reason> {
    if allowed.contains(&text) {
        return Ok(text);
    }
    Err(format!(
        "{field} `{text}` is none of {}, {}",
        allowed[0], allowed[1]
    ))
}

fn exposure(spec: &core::ServiceSpec) -> Result<Exposure, Reason> {
    match spec.type_.as_deref() {
        Some("ExternalName") => return Ok(Exposure::External),
        None | Some("ClusterIP" | "NodePort" | "LoadBalancer") => {}
        Some(other) => return Err(format!("spec.type `{other}` is not known")),
    }
    let listed = spec.cluster_ips.clone().unwrap_or_default();
    let texts: Vec<String> = match spec.cluster_ip.clone().filter(|ip| !ip.is_empty()) {
        None => listed,
        Some(ip) if listed.is_empty() => vec![ip],
        Some(ip) if listed[0] == ip => listed,
        Some(ip) => {
            return Err(format!(
                "spec.clusterIP `{ip}` is not the first of clusterIPs"
            ));
        }
    };
    if texts.iter().any(|t| t == "None") {
        let alone = texts.len() == 1;
        return alone
            .then_some(Exposure::Headless)
            .ok_or("clusterIPs has None and more".into());
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in texts {
        let ip = address("spec.clusterIPs", &text)?;
        if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            return Err("spec.clusterIPs has two addresses of one family".to_owned());
        }
        ips.push(ip);
    }
    Ok(if ips.is_empty() {
        Exposure::Allocate
    } else {
        Exposure::Addresses(ips)
    })
}

/// The families asked for; without a word those of the addresses, and IPv4 for an allocation.
fn families(spec: &core::ServiceSpec, exposure: &Exposure) -> Result<IpFamilies, Reason> {
    let (mut v4, mut v6) = (false, false);
    for family in spec.ip_families.iter().flatten() {
        match family.as_str() {
            "IPv4" => v4 = true,
            "IPv6" => v6 = true,
            other => return Err(format!("spec.ipFamilies `{other}` is none of IPv4, IPv6")),
        }
    }
    let policy = spec.ip_family_policy.as_deref();
    match policy {
        None | Some("SingleStack") => {}
        Some("PreferDualStack" | "RequireDualStack") => (v4, v6) = (true, true),
        Some(other) => return Err(format!("spec.ipFamilyPolicy `{other}` is not known")),
    }
    if let Exposure::Addresses(ips) = exposure {
        (v4, v6) = (
            ips.iter().any(IpAddr::is_ipv4),
            ips.iter().any(IpAddr::is_ipv6),
        );
    }
    Ok(match (v4, v6) {
        (true, true) => IpFamilies::Dual,
        (true, false) => IpFamilies::Ipv4Only,
        (false, true) => IpFamilies::Ipv6Only,
        (false, false) => IpFamilies::Automatic,
    })
}

fn ports(spec: &core::ServiceSpec) -> Result<Vec<ServicePort>, Reason> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for given in spec.ports.iter().flatten() {
        let number = port("spec.ports.port", given.port)?;
        protocol_known(given.protocol.as_deref())?;
        let target = match &given.target_port {
            None => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => {
                TargetPort::Number(port("spec.ports.targetPort", *target)?)
            }
            Some(IntOrString::String(name)) if name.is_empty() => TargetPort::Number(number),
            Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
        };
        if !is_tcp(given.protocol.as_deref()) {
            continue;
        }
        let name = given.name.clone().unwrap_or_default();
        if ports.iter().any(|p| p.port == number || p.name == name) {
            return Err(format!(
                "spec.ports has port {number} or name `{name}` twice"
            ));
        }
        let protocol = app_protocol(given.app_protocol.as_deref(), &name);
        ports.push(ServicePort {
            name,
            port: number,
            target,
            protocol,
        });
    }
    Ok(ports)
}

/// `appProtocol`, else the part of the port's name before its first dash (the ecosystem's custom).
fn app_protocol(given: Option<&str>, name: &str) -> AppProtocol {
    let word = given.unwrap_or_else(|| name.split('-').next().unwrap_or_default());
    match word.to_ascii_lowercase().as_str() {
        "http" | "kubernetes.io/ws" => AppProtocol::Http11,
        "http2" | "kubernetes.io/h2c" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" => AppProtocol::Tcp,
        "tls" | "https" => AppProtocol::Tls,
        _ => AppProtocol::Unknown,
    }
}
