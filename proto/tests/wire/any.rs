//! Any domain value that a control plane may send.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh::address::{NetworkAddress, NetworkCidr, canonical};
use mesh::policy::{Action, Clause, Match, Rule, Scope, ServiceAccountMatch, StringMatch};
use mesh::service::{
    AppProtocol, GatewayAddress, GatewayDestination, HealthPolicy, IpFamilies, LoadBalancing,
    LoadBalancingMode, LocalityScope, PortMapping, Visibility, WeightedWaypoint,
};
use mesh::workload::{
    ApplicationProtocol, ApplicationTunnel, Health, Locality, NetworkMode, TunnelProtocol,
    WorkloadKind,
};
use mesh::{Identity, Policy, PolicyKey, Service, ServiceKey, Workload, WorkloadUid};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proto::Resource;

fn word() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9.-]{0,8}".prop_map(|text| text.into())
}

fn maybe_empty() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![Just("".into()), word(), Just("höhe/ß \u{1F6B0}".into())]
}

fn ip() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>().prop_map(canonical)
}

fn network() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![Just("".into()), word()]
}

fn range() -> impl Strategy<Value = NetworkCidr> {
    (network(), ip(), 0u8..=128).prop_filter_map("too long a prefix", |(network, ip, length)| {
        NetworkCidr::new(network, ip, length)
    })
}

fn key() -> impl Strategy<Value = ServiceKey> {
    (word(), word()).prop_map(|(namespace, hostname)| ServiceKey {
        namespace,
        hostname,
    })
}

fn policy_key() -> impl Strategy<Value = PolicyKey> {
    (word(), word()).prop_map(|(namespace, name)| PolicyKey { namespace, name })
}

fn port() -> impl Strategy<Value = u16> {
    1..=u16::MAX
}

fn ports() -> impl Strategy<Value = Vec<PortMapping>> {
    use AppProtocol::{Grpc, Http2, Http11, Tcp, Tls, Unknown};
    let protocols = select(vec![Unknown, Http11, Http2, Grpc, Tcp, Tls]);
    let one =
        (port(), any::<u16>(), protocols).prop_map(|(service_port, target_port, protocol)| {
            PortMapping {
                service_port,
                target_port,
                protocol,
            }
        });
    vec(one, 0..3)
}

fn gateway() -> impl Strategy<Value = GatewayAddress> {
    let address = (network(), ip()).prop_map(|(network, ip)| NetworkAddress::new(network, ip));
    let destination = prop_oneof![
        key().prop_map(GatewayDestination::Hostname),
        address.prop_map(GatewayDestination::Address),
    ];
    (destination, port()).prop_map(|(destination, hbone_mtls_port)| GatewayAddress {
        destination,
        hbone_mtls_port,
    })
}

fn locality() -> impl Strategy<Value = Locality> {
    (maybe_empty(), maybe_empty(), maybe_empty()).prop_map(|(region, zone, subzone)| Locality {
        region,
        zone,
        subzone,
    })
}

fn application_tunnel() -> impl Strategy<Value = ApplicationTunnel> {
    let protocol = select(vec![ApplicationProtocol::None, ApplicationProtocol::Proxy]);
    (protocol, option::of(port())).prop_map(|(protocol, port)| ApplicationTunnel { protocol, port })
}

/// What a workload is called and who owns it.
type Labels = [Arc<str>; 6];

fn labels() -> impl Strategy<Value = Labels> {
    [
        maybe_empty(),
        maybe_empty(),
        maybe_empty(),
        maybe_empty(),
        maybe_empty(),
        maybe_empty(),
    ]
}

prop_compose! {
    pub fn workload()(
        uid in "[A-Za-z]{1,8}//Pod/[a-z]{1,4}/[a-z]{1,4}",
        identity in (word(), word(), word()),
        addresses in vec(ip(), 0..3),
        network in network(),
        gateways in (option::of(gateway()), option::of(gateway())),
        labels in labels(),
        application_tunnel in option::of(application_tunnel()),
        services in btree_map(key(), ports(), 0..3),
        policies in vec(policy_key(), 0..3),
        locality in locality(),
        revision_and_cluster in (word(), word()),
        kind in select(vec![
            WorkloadKind::Deployment,
            WorkloadKind::CronJob,
            WorkloadKind::Pod,
            WorkloadKind::Job,
        ]),
        flags in any::<[bool; 4]>(),
        capacity in any::<u32>(),
    ) -> Workload {
        let [name, hostname, node, canonical_name, workload_name, _] = labels;
        Workload {
            uid: WorkloadUid(uid.into()),
            name,
            addresses: addresses.into(),
            node,
            health: if flags[2] { Health::Healthy } else { Health::Unhealthy },
            common: Arc::new(mesh::workload::Common {
                namespace: identity.1,
                hostname,
                network,
                tunnel: if flags[0] { TunnelProtocol::Hbone } else { TunnelProtocol::None },
                trust_domain: identity.0,
                service_account: identity.2,
                waypoint: gateways.0,
                network_gateway: gateways.1,
                canonical_name,
                canonical_revision: revision_and_cluster.0,
                kind,
                workload_name,
                native_tunnel: flags[1],
                application_tunnel,
                services,
                policies,
                cluster: revision_and_cluster.1,
                locality,
                network_mode: match flags[3] {
                    true => NetworkMode::HostNetwork,
                    false => NetworkMode::Standard,
                },
                capacity,
                derived: Default::default(),
            }),
        }
    }
}

fn load_balancing() -> impl Strategy<Value = LoadBalancing> {
    use LoadBalancingMode::{Failover, Passthrough, Strict, Unspecified};
    use LocalityScope::{Cluster, Network, Node, Region, Subzone, Zone};
    let scopes = subsequence(vec![Region, Zone, Subzone, Node, Cluster, Network], 0..=6);
    let modes = select(vec![Unspecified, Strict, Failover, Passthrough]);
    let health = select(vec![HealthPolicy::OnlyHealthy, HealthPolicy::AllowAll]);
    (scopes, modes, health).prop_map(|(routing_preference, mode, health)| LoadBalancing {
        routing_preference,
        mode,
        health,
    })
}

fn identity() -> impl Strategy<Value = Identity> {
    (word(), word(), word()).prop_map(|(td, ns, sa)| Identity::new(&td, &ns, &sa).unwrap())
}

prop_compose! {
    pub fn service()(
        key in key(),
        name in maybe_empty(),
        addresses in vec(range(), 0..3),
        ports in ports(),
        subject_alt_names in vec(identity(), 0..3),
        waypoint in option::of(gateway()),
        weighted_waypoints in vec((gateway(), any::<u32>()), 0..3),
        load_balancing in load_balancing(),
        ip_families in select(vec![
            IpFamilies::Automatic,
            IpFamilies::Ipv4Only,
            IpFamilies::Ipv6Only,
            IpFamilies::Dual,
        ]),
        flags in any::<[bool; 3]>(),
    ) -> Service {
        let weighted = |(gateway, weight)| WeightedWaypoint { gateway, weight };
        Service {
            key,
            name,
            addresses,
            ports,
            subject_alt_names,
            waypoint,
            weighted_waypoints: weighted_waypoints.into_iter().map(weighted).collect(),
            load_balancing,
            ip_families,
            canonical: flags[0],
            ingress_use_waypoint: flags[1],
            visibility: if flags[2] { Visibility::Namespace } else { Visibility::Public },
        }
    }
}

fn text() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        maybe_empty().prop_map(StringMatch::Exact),
        maybe_empty().prop_map(StringMatch::Prefix),
        maybe_empty().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ]
}

fn net() -> impl Strategy<Value = IpNet> {
    range().prop_map(|range| range.cidr)
}

fn account() -> impl Strategy<Value = ServiceAccountMatch> {
    (word(), word()).prop_map(|(namespace, service_account)| ServiceAccountMatch {
        namespace,
        service_account,
    })
}

prop_compose! {
    fn one_match()(
        namespaces in [vec(text(), 0..2), vec(text(), 0..2)],
        principals in [vec(text(), 0..2), vec(text(), 0..2)],
        sources in [vec(net(), 0..2), vec(net(), 0..2)],
        destinations in [vec(net(), 0..2), vec(net(), 0..2)],
        ports in [vec(port(), 0..3), vec(port(), 0..3)],
        accounts in [vec(account(), 0..2), vec(account(), 0..2)],
    ) -> Match {
        let [namespaces, not_namespaces] = namespaces;
        let [principals, not_principals] = principals;
        let [source_ips, not_source_ips] = sources;
        let [destination_ips, not_destination_ips] = destinations;
        let [destination_ports, not_destination_ports] = ports;
        let [service_accounts, not_service_accounts] = accounts;
        Match {
            namespaces,
            not_namespaces,
            principals,
            not_principals,
            source_ips,
            not_source_ips,
            destination_ips,
            not_destination_ips,
            destination_ports,
            not_destination_ports,
            service_accounts,
            not_service_accounts,
        }
    }
}

prop_compose! {
    pub fn policy()(
        key in policy_key(),
        scope in select(vec![Scope::Global, Scope::Namespace, Scope::WorkloadSelector]),
        deny in any::<bool>(),
        rules in vec(vec(vec(one_match(), 0..3), 0..3), 0..3),
        dry_run in any::<bool>(),
    ) -> Policy {
        let clause = |matches| Clause { matches };
        let rule = |clauses: Vec<Vec<Match>>| Rule {
            clauses: clauses.into_iter().map(clause).collect(),
        };
        Policy {
            key,
            scope,
            action: if deny { Action::Deny } else { Action::Allow },
            rules: rules.into_iter().map(rule).collect(),
            dry_run,
        }
    }
}

pub fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        workload().prop_map(Resource::Workload),
        service().prop_map(Resource::Service),
        policy().prop_map(Resource::Policy),
    ]
}
