//! Workloads, and the addresses and ports that services share with them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh::address::{HBONE_PORT, NetworkAddress, NetworkCidr};
use mesh::identity::DEFAULT_TRUST_DOMAIN;
use mesh::service::{AppProtocol, GatewayAddress, GatewayDestination, PortMapping, ServiceKey};
use mesh::workload::{
    ApplicationProtocol, ApplicationTunnel, Health, Locality, NetworkMode, TunnelProtocol,
    Workload, WorkloadKind, WorkloadUid,
};

use super::fault::{
    At, Fault, Problem, each, ip, or_default, port, port_or_zero, raw_ip, required, value, whole,
};
use crate::names;
use crate::wire::workload as wire;

/// Service account of a workload that names none.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// Cluster of a workload that names none.
const DEFAULT_CLUSTER: &str = "Kubernetes";

/// Canonical revision of a workload that names none.
const DEFAULT_REVISION: &str = "latest";

pub(super) fn workload(message: wire::Workload) -> Result<Workload, Fault> {
    let workload = Workload {
        uid: WorkloadUid(required(message.uid).at("uid")?),
        name: message.name.into(),
        addresses: each("addresses", &message.addresses, |bytes| whole(ip(bytes)))?.into(),
        node: message.node.into(),
        health: health(message.status).at("status")?,
        common: Arc::new(mesh::workload::Common {
            namespace: required(message.namespace).at("namespace")?,
            hostname: message.hostname.into(),
            network: message.network.into(),
            tunnel: tunnel(message.tunnel_protocol).at("tunnel_protocol")?,
            trust_domain: or_default(message.trust_domain, DEFAULT_TRUST_DOMAIN),
            service_account: or_default(message.service_account, DEFAULT_SERVICE_ACCOUNT),
            waypoint: message.waypoint.map(gateway).transpose().at("waypoint")?,
            network_gateway: message
                .network_gateway
                .map(gateway)
                .transpose()
                .at("network_gateway")?,
            canonical_name: message.canonical_name.into(),
            canonical_revision: or_default(message.canonical_revision, DEFAULT_REVISION),
            kind: kind(message.workload_type).at("workload_type")?,
            workload_name: message.workload_name.into(),
            native_tunnel: message.native_tunnel,
            application_tunnel: message
                .application_tunnel
                .map(application_tunnel)
                .transpose()
                .at("application_tunnel")?,
            services: services(message.services)?,
            policies: each(
                "authorization_policies",
                &message.authorization_policies,
                |name| whole(names::policy_key(name).map_err(Problem::from)),
            )?,
            cluster: or_default(message.cluster_id, DEFAULT_CLUSTER),
            locality: message.locality.map(locality).unwrap_or_default(),
            network_mode: network_mode(message.network_mode).at("network_mode")?,
            capacity: message.capacity.unwrap_or(1),
            derived: Default::default(),
        }),
    };
    // Whoever holds a workload may rely on its having an identity.
    workload.identity().map_err(Problem::from).at("identity")?;
    Ok(workload)
}

fn services(map: BTreeMap<String, wire::PortList>) -> Result<PortsOfServices, Fault> {
    let read = |(name, list): (String, wire::PortList)| {
        let field = format!("services[{}]", name.chars().take(128).collect::<String>());
        let key = names::service_key(&name)
            .map_err(Problem::from)
            .at(&field)?;
        Ok((key, ports(list.ports).at(field)?))
    };
    map.into_iter().map(read).collect()
}

type PortsOfServices = BTreeMap<ServiceKey, Vec<PortMapping>>;

fn locality(message: wire::Locality) -> Locality {
    Locality {
        region: message.region.into(),
        zone: message.zone.into(),
        subzone: message.subzone.into(),
    }
}

fn application_tunnel(message: wire::ApplicationTunnel) -> Result<ApplicationTunnel, Fault> {
    use wire::application_tunnel::Protocol;
    let protocol = match value(message.protocol).at("protocol")? {
        Protocol::None => ApplicationProtocol::None,
        Protocol::Proxy => ApplicationProtocol::Proxy,
    };
    let port = port_or_zero(message.port).at("port")?;
    Ok(ApplicationTunnel {
        protocol,
        port: (port != 0).then_some(port),
    })
}

fn tunnel(number: i32) -> Result<TunnelProtocol, Problem> {
    match value(number)? {
        wire::TunnelProtocol::None => Ok(TunnelProtocol::None),
        wire::TunnelProtocol::Hbone => Ok(TunnelProtocol::Hbone),
        wire::TunnelProtocol::LegacyIstioMtls => Err(Problem::Unsupported("LEGACY_ISTIO_MTLS")),
    }
}

fn kind(number: i32) -> Result<WorkloadKind, Problem> {
    Ok(match value(number)? {
        wire::WorkloadType::Deployment => WorkloadKind::Deployment,
        wire::WorkloadType::Cronjob => WorkloadKind::CronJob,
        wire::WorkloadType::Pod => WorkloadKind::Pod,
        wire::WorkloadType::Job => WorkloadKind::Job,
    })
}

fn health(number: i32) -> Result<Health, Problem> {
    Ok(match value(number)? {
        wire::WorkloadStatus::Healthy => Health::Healthy,
        wire::WorkloadStatus::Unhealthy => Health::Unhealthy,
    })
}

fn network_mode(number: i32) -> Result<NetworkMode, Problem> {
    Ok(match value(number)? {
        wire::NetworkMode::Standard => NetworkMode::Standard,
        wire::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
    })
}

/// Ports of a service, or of an endpoint for it.
pub(super) fn ports(messages: Vec<wire::Port>) -> Result<Vec<PortMapping>, Fault> {
    each("ports", messages, |message| {
        Ok(PortMapping {
            service_port: port(message.service_port).at("service_port")?,
            target_port: port_or_zero(message.target_port).at("target_port")?,
            protocol: app_protocol(message.app_protocol).at("app_protocol")?,
        })
    })
}

fn app_protocol(number: i32) -> Result<AppProtocol, Problem> {
    Ok(match value(number)? {
        wire::AppProtocol::Unknown => AppProtocol::Unknown,
        wire::AppProtocol::Http11 => AppProtocol::Http11,
        wire::AppProtocol::Http2 => AppProtocol::Http2,
        wire::AppProtocol::Grpc => AppProtocol::Grpc,
        wire::AppProtocol::Tcp => AppProtocol::Tcp,
        wire::AppProtocol::Tls => AppProtocol::Tls,
    })
}

/// A waypoint or network gateway. One that is given must say where it is: a workload or service
/// without its waypoint would be reached round the waypoint's policies.
pub(super) fn gateway(message: wire::GatewayAddress) -> Result<GatewayAddress, Fault> {
    use wire::gateway_address::Destination;
    let destination = match message
        .destination
        .ok_or(Problem::Missing)
        .at("destination")?
    {
        Destination::Hostname(name) => GatewayDestination::Hostname(ServiceKey {
            namespace: required(name.namespace).at("hostname.namespace")?,
            hostname: required(name.hostname).at("hostname.hostname")?,
        }),
        Destination::Address(address) => {
            let range = range(address).at("address")?;
            let single = range
                .single()
                .ok_or(Problem::Unsupported("a range of addresses"));
            GatewayDestination::Address(single.at("address")?)
        }
    };
    let port = port_or_zero(message.hbone_mtls_port).at("hbone_mtls_port")?;
    Ok(GatewayAddress {
        destination,
        hbone_mtls_port: if port == 0 { HBONE_PORT } else { port },
    })
}

/// An address or range; without a length, the one address.
pub(super) fn range(message: wire::NetworkAddress) -> Result<NetworkCidr, Fault> {
    let address: IpAddr = raw_ip(&message.address).at("address")?;
    let network: Arc<str> = message.network.into();
    let Some(length) = message.length else {
        return Ok(NetworkCidr::host(&NetworkAddress::new(network, address)));
    };
    let range = u8::try_from(length)
        .ok()
        .and_then(|l| NetworkCidr::new(network, address, l));
    range.ok_or(Problem::PrefixLength(length)).at("length")
}
