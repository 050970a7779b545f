//! A mesh of any size, always the same: pods of deployments of 50 behind one service each.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use mesh::workload::Pool;
use mesh::{Snapshot, Workload};
use prost::Message;
use prost_types::Any;
use proto::wire::discovery::Resource as Discovered;
use proto::wire::workload::address::Type;
use proto::wire::workload::{
    Address, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload as Wire,
};
use proto::{ADDRESS_TYPE_URL, Resource};

/// Pods behind one service.
const PER_SERVICE: usize = 50;
/// Decisions that are timed.
const LOOKUPS: usize = 200_000;
/// Port of every service and pod.
const PORT: u16 = 8080;

/// All workloads with their services.
pub(super) fn all(count: usize) -> Vec<Discovered> {
    let services = (0..count.div_ceil(PER_SERVICE)).map(service);
    let workloads = (0..count).map(|index| workload(index, "v1"));
    services.chain(workloads).collect()
}

/// One of `count` workloads with another revision; another one for each `change`.
pub(super) fn changed(count: usize, change: usize) -> Discovered {
    // A prime, so that changes are spread over the mesh.
    workload(change * 7919 % count, &format!("v2-{change}"))
}

/// Time of one decision on an outbound connection to a workload, in ns.
pub(super) fn lookup_ns(all: &[Discovered]) -> anyhow::Result<f64> {
    let mut snapshot = Snapshot::default();
    let (mut pool, mut workloads) = (Pool::default(), Vec::new());
    for one in all {
        match proto::decode::discovered(one)? {
            // As the feed holds them.
            Resource::Workload(mut workload) => {
                pool.share(&mut workload);
                workloads.push(Arc::new(workload));
            }
            other => other.insert_into(&mut snapshot),
        }
    }
    snapshot.insert_workloads(workloads);
    snapshot.set_addresses_synced();
    snapshot.set_policies_synced();
    let workloads: Vec<Arc<Workload>> = snapshot.workloads().cloned().collect();
    let source = Arc::clone(workloads.first().context("no workloads")?);
    let count = workloads.len();
    let begun = Instant::now();
    for turn in 0..LOOKUPS {
        let query = mesh::decide::OutboundQuery {
            source: &source,
            destination: SocketAddr::new(address(10, turn * 7919 % count), PORT),
            tried: &[],
        };
        black_box(mesh::decide::outbound(&snapshot, &query, &mut || 0));
    }
    Ok(begun.elapsed().as_nanos() as f64 / LOOKUPS as f64)
}

fn workload(index: usize, revision: &str) -> Discovered {
    let deployment = index / PER_SERVICE;
    let (namespace, app) = (
        format!("team-{}", deployment % 40),
        format!("app-{deployment}"),
    );
    let name = format!("{app}-7c9d8f6b54-{index:05}");
    let ports = PortList {
        ports: vec![port()],
    };
    let uid = format!("Kubernetes//Pod/{namespace}/{name}");
    let wire = Wire {
        uid: uid.clone(),
        name,
        namespace: namespace.clone(),
        addresses: vec![octets(address(10, index))],
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        service_account: app.clone(),
        node: format!("node-{}", index % 500),
        canonical_name: app.clone(),
        canonical_revision: revision.to_owned(),
        workload_name: app,
        services: [(service_name(deployment), ports)].into(),
        cluster_id: "Kubernetes".to_owned(),
        ..Wire::default()
    };
    discovered(&uid, revision, Type::Workload(wire))
}

fn service(deployment: usize) -> Discovered {
    let name = service_name(deployment);
    let (namespace, hostname) = name.split_once('/').unwrap_or_default();
    let wire = Service {
        name: format!("app-{deployment}"),
        namespace: namespace.to_owned(),
        hostname: hostname.to_owned(),
        addresses: vec![NetworkAddress {
            address: octets(address(11, deployment)),
            ..NetworkAddress::default()
        }],
        ports: vec![port()],
        ..Service::default()
    };
    discovered(&name, "1", Type::Service(wire))
}

fn service_name(deployment: usize) -> String {
    let namespace = format!("team-{}", deployment % 40);
    format!("{namespace}/app-{deployment}.{namespace}.svc.cluster.local")
}

fn discovered(name: &str, version: &str, content: Type) -> Discovered {
    let address = Address {
        r#type: Some(content),
    };
    Discovered {
        version: version.to_owned(),
        resource: Some(Any {
            type_url: ADDRESS_TYPE_URL.to_owned(),
            value: address.encode_to_vec(),
        }),
        name: name.to_owned(),
        ..Discovered::default()
    }
}

fn port() -> Port {
    Port {
        service_port: PORT.into(),
        target_port: PORT.into(),
        ..Port::default()
    }
}

/// The address number `index` of a network of 16 million.
fn address(network: u8, index: usize) -> IpAddr {
    let [_, a, b, c] = u32::try_from(index + 1).unwrap_or_default().to_be_bytes();
    Ipv4Addr::new(network, a, b, c).into()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_takes_every_resource_that_is_fed() {
        let all = all(120);
        let decoded: Result<Vec<Resource>, _> = all.iter().map(proto::decode::discovered).collect();
        assert_eq!(decoded.unwrap().len(), 120 + 3);
        assert!(proto::decode::discovered(&changed(120, 5)).is_ok());
        assert!(lookup_ns(&all).unwrap() > 0.0);
    }
}
