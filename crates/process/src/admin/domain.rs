//! The domain as the ecosystem's tools read it in the proxies' `/config_dump`. Pure: it must not
//! know who asks.

use mesh::policy::{Action, Clause, Match, Scope, StringMatch};
use mesh::service::{GatewayAddress, GatewayDestination, LoadBalancingMode};
use mesh::workload::{Health, TunnelProtocol};
use mesh::{Policy, Service, Workload};
use serde_json::{Map, Value, json};

/// One workload.
pub fn workload(workload: &Workload) -> Value {
    let services = workload.services.iter().map(|(key, ports)| {
        let ports = ports
            .iter()
            .map(|p| (p.service_port.to_string(), json!(p.target_port)));
        (key.to_string(), Value::Object(ports.collect()))
    });
    json!({
        "uid": workload.uid.to_string(),
        "name": workload.name,
        "namespace": workload.namespace,
        "workloadIps": &workload.addresses[..],
        "network": workload.network,
        "protocol": match workload.tunnel {
            TunnelProtocol::Hbone => "HBONE",
            TunnelProtocol::None => "TCP",
        },
        "trustDomain": workload.trust_domain,
        "serviceAccount": workload.service_account,
        "waypoint": workload.waypoint.as_ref().map(gateway),
        "node": workload.node,
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "workloadName": workload.workload_name,
        "status": match workload.health {
            Health::Healthy => "Healthy",
            Health::Unhealthy => "Unhealthy",
        },
        "clusterId": workload.cluster,
        "locality": {
            "region": workload.locality.region,
            "zone": workload.locality.zone,
            "subzone": workload.locality.subzone,
        },
        "capacity": workload.capacity,
        "services": services.collect::<Map<_, _>>(),
        "authorizationPolicies": list(&workload.policies),
    })
}

/// One service.
pub fn service(service: &Service) -> Value {
    let ports = service.ports.iter();
    let ports = ports.map(|port| (port.service_port.to_string(), json!(port.target_port)));
    json!({
        "name": service.name,
        "namespace": service.key.namespace,
        "hostname": service.key.hostname,
        "vips": list(&service.addresses),
        "ports": ports.collect::<Map<_, _>>(),
        "subjectAltNames": list(&service.subject_alt_names),
        "waypoint": service.waypoint.as_ref().map(gateway),
        "loadBalancer": match service.load_balancing.mode {
            LoadBalancingMode::Unspecified => "Unspecified",
            LoadBalancingMode::Strict => "Strict",
            LoadBalancingMode::Failover => "Failover",
            LoadBalancingMode::Passthrough => "Passthrough",
        },
    })
}

/// One policy.
pub fn policy(policy: &Policy) -> Value {
    let clause = |c: &Clause| c.matches.iter().map(fields).collect::<Vec<_>>();
    let rules: Vec<Vec<_>> = policy
        .rules
        .iter()
        .map(|rule| rule.clauses.iter().map(clause).collect())
        .collect();
    json!({
        "name": policy.key.name,
        "namespace": policy.key.namespace,
        "scope": match policy.scope {
            Scope::Global => "Global",
            Scope::Namespace => "Namespace",
            Scope::WorkloadSelector => "WorkloadSelector",
        },
        "action": match policy.action {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
        },
        "dryRun": policy.dry_run,
        "rules": rules,
    })
}

/// The fields of a match that are given.
fn fields(m: &Match) -> Value {
    let texts = |values: &[StringMatch]| values.iter().map(text).collect::<Vec<_>>();
    let accounts = |values: &[mesh::policy::ServiceAccountMatch]| {
        values
            .iter()
            .map(|a| format!("{}/{}", a.namespace, a.service_account))
            .collect::<Vec<_>>()
    };
    let numbers = |values: &[u16]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
    let all = [
        ("namespaces", texts(&m.namespaces)),
        ("notNamespaces", texts(&m.not_namespaces)),
        ("principals", texts(&m.principals)),
        ("notPrincipals", texts(&m.not_principals)),
        ("sourceIps", list(&m.source_ips)),
        ("notSourceIps", list(&m.not_source_ips)),
        ("destinationIps", list(&m.destination_ips)),
        ("notDestinationIps", list(&m.not_destination_ips)),
        ("destinationPorts", numbers(&m.destination_ports)),
        ("notDestinationPorts", numbers(&m.not_destination_ports)),
        ("serviceAccounts", accounts(&m.service_accounts)),
        ("notServiceAccounts", accounts(&m.not_service_accounts)),
    ];
    let given = all.into_iter().filter(|(_, values)| !values.is_empty());
    Value::Object(
        given
            .map(|(name, values)| (name.to_owned(), json!(values)))
            .collect(),
    )
}

fn text(matcher: &StringMatch) -> String {
    match matcher {
        StringMatch::Exact(text) => text.to_string(),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::Suffix(text) => format!("*{text}"),
        StringMatch::Presence => "*".to_owned(),
    }
}

fn gateway(gateway: &GatewayAddress) -> Value {
    let destination = match &gateway.destination {
        GatewayDestination::Hostname(key) => key.to_string(),
        GatewayDestination::Address(address) => address.to_string(),
    };
    json!({ "destination": destination, "hboneMtlsPort": gateway.hbone_mtls_port })
}

fn list<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}
