//! Pods and bare endpoint addresses to workloads.
//!
//! A pod is a workload once it is bound to a node and has an address; it is advertised as HBONE
//! only when its node reports it captured, so that nobody tunnels into nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh::policy::{Policy, PolicyKey};
use mesh::service::ServiceKey;
use mesh::workload::{
    Health, Locality, NetworkMode, TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};

use crate::object::{Kind, Labels, Meta, Name, Node, Pod};
use crate::policies::Policies;
use crate::services::{Endpoints, SliceEndpoint};
use crate::status::{Condition, SERVED};
use crate::translation::{Input, PodReport, Statuses};
use crate::waypoint_only::WaypointOnly;
use crate::waypoints::{Traffic, Waypoints};

const REDIRECTION_ANNOTATION: &str = "ambient.istio.io/redirection";
pub(crate) const TUNNEL_LABEL: &str = "networking.istio.io/tunnel";
const NETWORK_LABEL: &str = "topology.istio.io/network";

/// What workloads are made of.
pub(crate) struct Parts<'a> {
    pub(crate) input: Input<'a>,
    pub(crate) services: &'a BTreeMap<ServiceKey, mesh::Service>,
    pub(crate) endpoints: &'a Endpoints,
    pub(crate) policies: &'a Policies,
    pub(crate) waypoints: &'a Waypoints<'a>,
    pub(crate) waypoint_only: &'a WaypointOnly<'a>,
}

/// All workloads, by their discovery names, and the policies of those that are for their waypoint
/// only.
pub(crate) fn workloads(
    parts: &Parts<'_>,
    statuses: &mut Statuses,
) -> (BTreeMap<WorkloadUid, Workload>, BTreeMap<PolicyKey, Policy>) {
    let reports = reports(parts.input.reports);
    let mut made = BTreeMap::new();
    let mut policies = BTreeMap::new();
    // Who has an address: a service first, then pods in the order of their names.
    let mut owners: BTreeMap<(Arc<str>, IpAddr), String> = BTreeMap::new();
    for service in parts.services.values() {
        for given in &service.addresses {
            let owner = format!("service {}", service.key);
            owners.insert((given.network.clone(), given.cidr.addr()), owner);
        }
    }
    for (name, pod) in &parts.input.objects.pods {
        let placed = match Placed::of(parts, pod, &reports) {
            Ok(placed) => placed,
            Err(condition) => {
                statuses.add(Kind::Pod, name, condition);
                continue;
            }
        };
        let mut workload = placed.workload(parts, statuses);
        let (policy, condition) = parts.waypoint_only.policy(pod);
        if let Some(condition) = condition {
            statuses.add(Kind::Pod, name, condition);
        }
        if let Some(policy) = policy {
            workload.policies.push(policy.key.clone());
            workload.policies.sort();
            policies.insert(policy.key.clone(), policy);
        }
        if workload.network_mode == NetworkMode::Standard {
            let network = workload.network.clone();
            workload.addresses.retain(|ip| {
                let owner = owners.entry((network.clone(), *ip));
                let owner = owner.or_insert_with(|| format!("pod {name}"));
                let own = *owner == format!("pod {name}");
                if !own {
                    let message = format!("{ip} is already the address of {owner}");
                    let condition = Condition::fails(SERVED, "AddressConflict", message);
                    statuses.add(Kind::Pod, name, condition);
                }
                own
            });
            if workload.addresses.is_empty() {
                continue;
            }
        }
        made.insert(workload.uid.clone(), workload);
    }
    add_addresses(parts, &owners, &mut made);
    (made, policies)
}

/// Reports by pod; of several the first in their own order.
fn reports(reports: &[PodReport]) -> BTreeMap<(&str, &Name), &PodReport> {
    let mut sorted: Vec<&PodReport> = reports.iter().collect();
    sorted.sort();
    let mut by_pod = BTreeMap::new();
    for report in sorted {
        by_pod
            .entry((&*report.node, &report.name))
            .or_insert(report);
    }
    by_pod
}

/// A pod that is on a node and has an address.
struct Placed<'a> {
    pod: &'a Pod,
    node_name: &'a Arc<str>,
    node: Option<&'a Node>,
    ips: Vec<IpAddr>,
    enrolled: bool,
}

impl<'a> Placed<'a> {
    fn of(
        parts: &Parts<'a>,
        pod: &'a Pod,
        reports: &BTreeMap<(&str, &Name), &'a PodReport>,
    ) -> Result<Self, Condition> {
        let not = |reason, message: String| Condition::fails(SERVED, reason, message);
        let Some(node_name) = &pod.node else {
            return Err(not(
                "NotScheduled",
                "spec.nodeName names no node".to_owned(),
            ));
        };
        if pod.finished {
            return Err(not("Finished", "the pod has run to its end".to_owned()));
        }
        let node = parts.input.objects.nodes.get(node_name).map(|n| &**n);
        let report = reports.get(&(&**node_name, &pod.meta.name)).copied();
        let report = report.filter(|r| pod.meta.uid.as_ref().is_none_or(|uid| *uid == r.uid));
        let mut ips: Vec<IpAddr> = match report {
            Some(report) => report.ips.clone(),
            None => pod.ips.clone(),
        };
        if pod.host_network && ips.is_empty() {
            ips = node.map(|n| n.internal_ips.clone()).unwrap_or_default();
        }
        if let Some(node) = node.filter(|n| !pod.host_network && !n.pod_cidrs.is_empty()) {
            // A node speaks for its own addresses only.
            let of_node = |ip: &IpAddr| node.pod_cidrs.iter().any(|range| range.contains(ip));
            if let Some(ip) = ips.iter().find(|ip| !of_node(ip)) {
                let message = format!("{ip} is not of the pod ranges of node {node_name}");
                return Err(not("ForeignAddress", message));
            }
        }
        if ips.is_empty() {
            let message = format!("node {node_name} has not reported an address of it yet");
            return Err(not("NoAddress", message));
        }
        let enrolled = report.is_some_and(|r| r.enrolled) && !pod.host_network;
        Ok(Self {
            pod,
            node_name,
            node,
            ips,
            enrolled,
        })
    }

    fn workload(&self, parts: &Parts<'_>, statuses: &mut Statuses) -> Workload {
        let Self { pod, .. } = self;
        let options = parts.input.options;
        let meta = &pod.meta;
        let Name { namespace, name } = &meta.name;
        let (waypoint, condition) = parts.waypoints.bound(meta, Traffic::Workload);
        if let Some(condition) = condition {
            statuses.add(Kind::Pod, &meta.name, condition);
        }
        let native_tunnel = meta.label(TUNNEL_LABEL) == Some("http");
        let captured = self.enrolled || meta.annotation(REDIRECTION_ANNOTATION) == Some("enabled");
        let workload_name = owner_name(meta);
        {
            let mut made = blank(parts);
            made.uid =
                WorkloadUid(format!("{}//Pod/{namespace}/{name}", options.cluster_id).into());
            made.name = name.clone();
            made.namespace = namespace.clone();
            made.addresses = self.ips.clone().into();
            made.network = meta
                .label(NETWORK_LABEL)
                .map_or(options.network.clone(), Arc::from);
            made.tunnel = match captured || native_tunnel {
                true => TunnelProtocol::Hbone,
                false => TunnelProtocol::None,
            };
            made.service_account = pod.service_account.clone();
            made.waypoint = waypoint;
            made.node = self.node_name.clone();
            made.canonical_name = canonical_name(&meta.labels, &workload_name);
            made.canonical_revision = canonical_revision(&meta.labels);
            made.workload_name = workload_name.into();
            made.native_tunnel = native_tunnel;
            made.services = parts
                .endpoints
                .pods
                .get(&meta.name)
                .cloned()
                .unwrap_or_default();
            made.policies = parts.policies.listed(namespace, &meta.labels);
            made.health = match pod.ready != Some(false) && !meta.deleting {
                true => Health::Healthy,
                false => Health::Unhealthy,
            };
            made.locality = self.node.map(locality).unwrap_or_default();
            made.network_mode = match pod.host_network {
                true => NetworkMode::HostNetwork,
                false => NetworkMode::Standard,
            };
            made
        }
    }
}

/// A workload of this cluster of which nothing more is known.
fn blank(parts: &Parts<'_>) -> Workload {
    let options = parts.input.options;
    let empty: Arc<str> = "".into();
    Workload {
        uid: WorkloadUid(empty.clone()),
        name: empty.clone(),
        addresses: Default::default(),
        node: empty.clone(),
        health: Health::Healthy,
        common: Arc::new(mesh::workload::Common {
            namespace: empty.clone(),
            hostname: empty.clone(),
            network: options.network.clone(),
            tunnel: TunnelProtocol::None,
            trust_domain: options.trust_domain.clone(),
            service_account: "default".into(),
            waypoint: None,
            network_gateway: None,
            canonical_name: empty.clone(),
            canonical_revision: "latest".into(),
            kind: WorkloadKind::Pod,
            workload_name: empty,
            native_tunnel: false,
            application_tunnel: None,
            services: BTreeMap::new(),
            policies: Vec::new(),
            cluster: options.cluster_id.clone(),
            locality: Locality::default(),
            network_mode: NetworkMode::Standard,
            capacity: 1,
            derived: Default::default(),
        }),
    }
}

/// Endpoint addresses without a pod; where a pod has the address, it becomes an endpoint instead.
fn add_addresses(
    parts: &Parts<'_>,
    owners: &BTreeMap<(Arc<str>, IpAddr), String>,
    made: &mut BTreeMap<WorkloadUid, Workload>,
) {
    let options = parts.input.options;
    let mut by_address = BTreeMap::new();
    for workload in made
        .values()
        .filter(|w| w.network_mode == NetworkMode::Standard)
    {
        for ip in workload
            .addresses
            .iter()
            .filter(|_| workload.network == options.network)
        {
            by_address.insert(*ip, workload.uid.clone());
        }
    }
    for ((slice, ip), endpoint) in &parts.endpoints.addresses {
        if let Some(workload) = by_address.get(ip).and_then(|uid| made.get_mut(uid)) {
            for (key, ports) in &endpoint.services {
                workload
                    .services
                    .entry(key.clone())
                    .or_insert_with(|| ports.clone());
            }
            continue;
        }
        // A service's own address behind a service would lead in a circle.
        if owners.contains_key(&(options.network.clone(), *ip)) {
            continue;
        }
        let workload = address_workload(parts, slice, *ip, endpoint);
        by_address.insert(*ip, workload.uid.clone());
        made.insert(workload.uid.clone(), workload);
    }
}

fn address_workload(
    parts: &Parts<'_>,
    slice: &Name,
    ip: IpAddr,
    endpoint: &SliceEndpoint,
) -> Workload {
    let cluster = &parts.input.options.cluster_id;
    let Name { namespace, name } = slice;
    let uid = format!("{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{ip}");
    let node = endpoint
        .node
        .as_ref()
        .and_then(|n| parts.input.objects.nodes.get(n));
    let mut locality = node.map(|n| locality(n)).unwrap_or_default();
    if let Some(zone) = endpoint.zone.clone().filter(|_| locality.zone.is_empty()) {
        locality.zone = zone;
    }
    {
        let mut made = blank(parts);
        made.uid = WorkloadUid(uid.into());
        made.name = name.clone();
        made.namespace = namespace.clone();
        made.addresses = vec![ip].into();
        made.node = endpoint.node.clone().unwrap_or_else(|| "".into());
        made.canonical_name = name.clone();
        made.workload_name = name.clone();
        made.services = endpoint.services.clone();
        made.health = if endpoint.ready {
            Health::Healthy
        } else {
            Health::Unhealthy
        };
        made.locality = locality;
        made
    }
}

fn locality(node: &Node) -> Locality {
    let label = |key: &str| Arc::from(node.meta.label(key).unwrap_or_default());
    Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone"),
    }
}

/// The name of what made the pod: the Deployment behind a ReplicaSet, else the owner, else itself.
fn owner_name(meta: &Meta) -> String {
    let Some(owner) = &meta.owner else {
        return meta.name.name.to_string();
    };
    let hash = meta
        .label("pod-template-hash")
        .map(|hash| format!("-{hash}"));
    match hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())) {
        Some(deployment) if owner.kind == "ReplicaSet" => deployment.to_owned(),
        _ => owner.name.clone(),
    }
}

fn canonical_name(labels: &Labels, workload: &str) -> Arc<str> {
    first(
        labels,
        [
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ],
    )
    .unwrap_or(workload)
    .into()
}

fn canonical_revision(labels: &Labels) -> Arc<str> {
    first(
        labels,
        [
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ],
    )
    .unwrap_or("latest")
    .into()
}

fn first<'a>(labels: &'a Labels, keys: [&str; 3]) -> Option<&'a str> {
    keys.iter()
        .find_map(|key| labels.get(*key))
        .map(String::as_str)
        .filter(|v| !v.is_empty())
}
