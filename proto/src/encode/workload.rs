//! Workloads, and the addresses and ports that services share with them.

use std::net::IpAddr;

use mesh::address::NetworkCidr;
use mesh::service::{AppProtocol, GatewayAddress, GatewayDestination, PortMapping};
use mesh::workload::{
    ApplicationProtocol, ApplicationTunnel, Health, Locality, NetworkMode, TunnelProtocol,
    Workload, WorkloadKind,
};

use crate::wire::workload as wire;

/// A workload. Defaults are written out, except a capacity of 1.
pub fn workload(domain: &Workload) -> wire::Workload {
    let services = domain.services.iter().map(|(key, mappings)| {
        (
            key.to_string(),
            wire::PortList {
                ports: mappings.iter().map(port).collect(),
            },
        )
    });
    wire::Workload {
        uid: domain.uid.to_string(),
        name: domain.name.to_string(),
        namespace: domain.namespace.to_string(),
        addresses: domain
            .addresses
            .iter()
            .map(|address| ip(*address))
            .collect(),
        hostname: domain.hostname.to_string(),
        network: domain.network.to_string(),
        tunnel_protocol: tunnel(domain.tunnel).into(),
        trust_domain: domain.trust_domain.to_string(),
        service_account: domain.service_account.to_string(),
        waypoint: domain.waypoint.as_ref().map(gateway),
        network_gateway: domain.network_gateway.as_ref().map(gateway),
        node: domain.node.to_string(),
        canonical_name: domain.canonical_name.to_string(),
        canonical_revision: domain.canonical_revision.to_string(),
        workload_type: kind(domain.kind).into(),
        workload_name: domain.workload_name.to_string(),
        native_tunnel: domain.native_tunnel,
        application_tunnel: domain.application_tunnel.map(application_tunnel),
        services: services.collect(),
        authorization_policies: domain.policies.iter().map(ToString::to_string).collect(),
        status: health(domain.health).into(),
        cluster_id: domain.cluster.to_string(),
        locality: locality(&domain.locality),
        network_mode: network_mode(domain.network_mode).into(),
        extensions: Vec::new(),
        capacity: (domain.capacity != 1).then_some(domain.capacity),
    }
}

pub(super) fn ip(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn tunnel(domain: TunnelProtocol) -> wire::TunnelProtocol {
    match domain {
        TunnelProtocol::None => wire::TunnelProtocol::None,
        TunnelProtocol::Hbone => wire::TunnelProtocol::Hbone,
    }
}

fn kind(domain: WorkloadKind) -> wire::WorkloadType {
    match domain {
        WorkloadKind::Deployment => wire::WorkloadType::Deployment,
        WorkloadKind::CronJob => wire::WorkloadType::Cronjob,
        WorkloadKind::Pod => wire::WorkloadType::Pod,
        WorkloadKind::Job => wire::WorkloadType::Job,
    }
}

fn health(domain: Health) -> wire::WorkloadStatus {
    match domain {
        Health::Healthy => wire::WorkloadStatus::Healthy,
        Health::Unhealthy => wire::WorkloadStatus::Unhealthy,
    }
}

fn network_mode(domain: NetworkMode) -> wire::NetworkMode {
    match domain {
        NetworkMode::Standard => wire::NetworkMode::Standard,
        NetworkMode::HostNetwork => wire::NetworkMode::HostNetwork,
    }
}

fn locality(domain: &Locality) -> Option<wire::Locality> {
    (*domain != Locality::default()).then(|| wire::Locality {
        region: domain.region.to_string(),
        zone: domain.zone.to_string(),
        subzone: domain.subzone.to_string(),
    })
}

fn application_tunnel(domain: ApplicationTunnel) -> wire::ApplicationTunnel {
    use wire::application_tunnel::Protocol;
    let protocol = match domain.protocol {
        ApplicationProtocol::None => Protocol::None,
        ApplicationProtocol::Proxy => Protocol::Proxy,
    };
    wire::ApplicationTunnel {
        protocol: protocol.into(),
        port: domain.port.unwrap_or_default().into(),
    }
}

pub(super) fn port(domain: &PortMapping) -> wire::Port {
    let protocol = match domain.protocol {
        AppProtocol::Unknown => wire::AppProtocol::Unknown,
        AppProtocol::Http11 => wire::AppProtocol::Http11,
        AppProtocol::Http2 => wire::AppProtocol::Http2,
        AppProtocol::Grpc => wire::AppProtocol::Grpc,
        AppProtocol::Tcp => wire::AppProtocol::Tcp,
        AppProtocol::Tls => wire::AppProtocol::Tls,
    };
    wire::Port {
        service_port: domain.service_port.into(),
        target_port: domain.target_port.into(),
        app_protocol: protocol.into(),
    }
}

pub(super) fn gateway(domain: &GatewayAddress) -> wire::GatewayAddress {
    use wire::gateway_address::Destination;
    let destination = match &domain.destination {
        GatewayDestination::Hostname(key) => Destination::Hostname(wire::NamespacedHostname {
            namespace: key.namespace.to_string(),
            hostname: key.hostname.to_string(),
        }),
        GatewayDestination::Address(address) => Destination::Address(wire::NetworkAddress {
            network: address.network.to_string(),
            address: ip(address.ip),
            length: None,
        }),
    };
    wire::GatewayAddress {
        destination: Some(destination),
        hbone_mtls_port: domain.hbone_mtls_port.into(),
    }
}

/// A range; the length is left out for a single address.
pub(super) fn range(domain: &NetworkCidr) -> wire::NetworkAddress {
    let length = domain.cidr.prefix_len();
    wire::NetworkAddress {
        network: domain.network.to_string(),
        address: ip(domain.cidr.addr()),
        length: (length != domain.cidr.max_prefix_len()).then_some(length.into()),
    }
}
