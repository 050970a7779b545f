//! Small values to test with.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh::address::{HBONE_PORT, NetworkAddress, NetworkCidr};
use mesh::decide::{self, Outbound, OutboundQuery};
use mesh::policy::{Action, Clause, Match, Rule, Scope, StringMatch};
use mesh::service::{
    AppProtocol, GatewayAddress, GatewayDestination, IpFamilies, LoadBalancing, PortMapping,
    Visibility,
};
use mesh::workload::{Health, Locality, NetworkMode, TunnelProtocol, WorkloadKind};
use mesh::{Identity, Policy, PolicyKey, Service, ServiceKey, Snapshot, Workload, WorkloadUid};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn address(text: &str) -> NetworkAddress {
    NetworkAddress::new("", ip(text))
}

pub fn range(text: &str) -> NetworkCidr {
    let (ip, length) = text.split_once('/').unwrap();
    NetworkCidr::new("", ip.parse().unwrap(), length.parse().unwrap()).unwrap()
}

/// A healthy HBONE pod `Kubernetes//Pod/shop/<name>` on node `n1`.
pub fn pod(name: &str, addresses: &[&str]) -> Workload {
    Workload {
        uid: uid(name),
        name: name.into(),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        node: "n1".into(),
        health: Health::Healthy,
        common: Arc::new(mesh::workload::Common {
            namespace: "shop".into(),
            hostname: "".into(),
            network: "".into(),
            tunnel: TunnelProtocol::Hbone,
            trust_domain: "cluster.local".into(),
            service_account: name.into(),
            waypoint: None,
            network_gateway: None,
            canonical_name: name.into(),
            canonical_revision: "latest".into(),
            kind: WorkloadKind::Pod,
            workload_name: name.into(),
            native_tunnel: false,
            application_tunnel: None,
            services: BTreeMap::new(),
            policies: vec![],
            cluster: "Kubernetes".into(),
            locality: Locality::default(),
            network_mode: NetworkMode::Standard,
            capacity: 1,
            derived: Default::default(),
        }),
    }
}

/// The same as an endpoint of `shop/<service>`, without port mappings of its own.
pub fn endpoint(name: &str, addresses: &[&str], service: &str) -> Workload {
    let services = BTreeMap::from([(key(service), vec![])]);
    {
        let mut made = pod(name, addresses);
        made.services = services;
        made
    }
}

pub fn uid(name: &str) -> WorkloadUid {
    WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into())
}

pub fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name).unwrap()
}

pub fn key(name: &str) -> ServiceKey {
    let hostname = format!("{name}.shop.svc.cluster.local");
    ServiceKey {
        namespace: "shop".into(),
        hostname: hostname.into(),
    }
}

pub fn port(service_port: u16, target_port: u16) -> PortMapping {
    PortMapping {
        service_port,
        target_port,
        protocol: AppProtocol::Unknown,
    }
}

/// A service `shop/<name>` with port 80 to 8080.
pub fn service(name: &str, ranges: &[&str]) -> Service {
    Service {
        key: key(name),
        name: name.into(),
        addresses: ranges.iter().map(|r| range(r)).collect(),
        ports: vec![port(80, 8080)],
        subject_alt_names: vec![],
        waypoint: None,
        weighted_waypoints: vec![],
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: false,
        ingress_use_waypoint: false,
        visibility: Visibility::Public,
    }
}

pub fn gateway(name: &str) -> GatewayAddress {
    GatewayAddress {
        destination: GatewayDestination::Hostname(key(name)),
        hbone_mtls_port: HBONE_PORT,
    }
}

pub fn gateway_at(text: &str) -> GatewayAddress {
    GatewayAddress {
        destination: GatewayDestination::Address(address(text)),
        hbone_mtls_port: HBONE_PORT,
    }
}

pub fn policy_key(name: &str) -> PolicyKey {
    PolicyKey {
        namespace: "shop".into(),
        name: name.into(),
    }
}

pub fn policy(name: &str, scope: Scope, action: Action, rules: Vec<Rule>) -> Policy {
    Policy {
        key: policy_key(name),
        scope,
        action,
        rules,
        dry_run: false,
    }
}

/// A rule of one match.
pub fn when(m: Match) -> Rule {
    Rule {
        clauses: vec![Clause { matches: vec![m] }],
    }
}

/// A rule that matches everything.
pub fn always() -> Rule {
    Rule::default()
}

/// What STRICT peer authentication becomes.
pub fn strict() -> Policy {
    let no_identity = Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    };
    policy(
        "strict",
        Scope::WorkloadSelector,
        Action::Deny,
        vec![when(no_identity)],
    )
}

/// A synced snapshot of these.
pub fn world(workloads: Vec<Workload>, services: Vec<Service>) -> Snapshot {
    let mut snapshot = unsynced(workloads, services);
    snapshot.set_addresses_synced();
    snapshot.set_policies_synced();
    snapshot
}

pub fn unsynced(workloads: Vec<Workload>, services: Vec<Service>) -> Snapshot {
    let mut snapshot = Snapshot::new();
    services
        .into_iter()
        .for_each(|s| snapshot.insert_service(s));
    workloads
        .into_iter()
        .for_each(|w| snapshot.insert_workload(w));
    snapshot
}

pub fn client() -> Workload {
    pod("client", &["10.0.0.1", "fd00::1"])
}

/// What becomes of a connection of [`client`]; every draw takes the first item.
pub fn send(snapshot: &Snapshot, destination: &str) -> Outbound {
    send_from(snapshot, &client(), destination, &[])
}

pub fn send_from(
    snapshot: &Snapshot,
    source: &Workload,
    destination: &str,
    tried: &[WorkloadUid],
) -> Outbound {
    let query = OutboundQuery {
        source,
        destination: at(destination),
        tried,
    };
    decide::outbound(snapshot, &query, &mut || 0)
}
