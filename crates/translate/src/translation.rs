//! The whole translation: objects and what the nodes report, in; the mesh, out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh::policy::targeted::TargetedPolicy;
use mesh::policy::{Policy, PolicyKey};
use mesh::service::ServiceKey;
use mesh::workload::WorkloadUid;
use mesh::{Service, Workload};
use serde::{Deserialize, Serialize};

use crate::gateways;
use crate::object::{Name, ObjectKey, Objects};
use crate::policies::Policies;
use crate::routes::{self, Routes};
use crate::services::{self, Endpoints};
use crate::status::{Condition, ListenerStatus};
use crate::vips::{Allocations, VipRanges};
use crate::waypoint_only::WaypointOnly;
use crate::waypoints::Waypoints;
use crate::workloads;

/// What the mesh is called.
#[derive(Clone, Debug)]
pub struct Options {
    /// Trust domain of all identities, `cluster.local` by default.
    pub trust_domain: Arc<str>,
    /// Domain of service host names, `cluster.local` by default.
    pub cluster_domain: Arc<str>,
    /// Name of the cluster, `Kubernetes` by default.
    pub cluster_id: Arc<str>,
    /// Network of pods without the label `topology.istio.io/network`; empty by default.
    pub network: Arc<str>,
    /// Namespace whose policies are for the mesh, `istio-system` by default.
    pub root_namespace: Arc<str>,
    /// Where addresses of services come from that have none.
    pub vip_ranges: VipRanges,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            trust_domain: mesh::identity::DEFAULT_TRUST_DOMAIN.into(),
            cluster_domain: "cluster.local".into(),
            cluster_id: "Kubernetes".into(),
            network: "".into(),
            root_namespace: "istio-system".into(),
            vip_ranges: VipRanges::default(),
        }
    }
}

/// What a node's agent says of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodReport {
    /// Node of the agent: its token says so.
    pub node: Arc<str>,
    /// Namespace and name.
    pub name: Name,
    /// Kubernetes UID as the runtime gave it.
    pub uid: Arc<str>,
    /// Addresses of its network.
    pub ips: Vec<IpAddr>,
    /// Whether it is captured and its proxy listens.
    pub enrolled: bool,
    /// There when the agent runs it as a replica of a waypoint that it was told to run.
    pub waypoint: Option<WaypointReport>,
}

/// What a node's agent says of a replica of a waypoint; the Gateway is in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WaypointReport {
    /// Name of the Gateway, and of the service account of its identity.
    pub gateway: Arc<str>,
    /// Number of the replica, from 0.
    pub replica: u32,
    /// What it was started for.
    pub revision: Arc<str>,
    /// Whether it may be given connections; it gets its certificate before that.
    pub ready: bool,
    /// Whether it only ends what it has.
    pub draining: bool,
    /// Why it is not ready; empty when it is, or only starts.
    pub problem: Arc<str>,
}

/// All that a translation depends on.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Input<'a> {
    pub objects: &'a Objects,
    /// In any order; reports of pods that no manifest binds to that node change nothing.
    pub reports: &'a [PodReport],
    /// Allocations of the last translation.
    pub vips: &'a Allocations,
    pub options: &'a Options,
}

/// The mesh, and what became of every object.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Output {
    pub workloads: BTreeMap<WorkloadUid, Workload>,
    pub services: BTreeMap<ServiceKey, Service>,
    pub policies: BTreeMap<PolicyKey, Policy>,
    /// Policies that are for services and gateways.
    pub target_policies: BTreeMap<PolicyKey, TargetedPolicy>,
    pub routes: Routes,
    /// For the next translation.
    pub vips: Allocations,
    /// Conditions of objects that have any.
    pub statuses: BTreeMap<ObjectKey, Vec<Condition>>,
    /// What is said of listeners beside conditions, by Gateway, in the order of its spec.
    pub listeners: BTreeMap<ObjectKey, Vec<ListenerStatus>>,
}

/// Conditions as they come up.
#[derive(Default)]
pub(crate) struct Statuses(pub(crate) BTreeMap<ObjectKey, Vec<Condition>>);

/// Translates. The same input gives the same output, whatever the order of its parts.
pub fn translate(input: &Input<'_>) -> Output {
    Translator::default().translate(input)
}

/// Translates one input after another. It gives what [`translate`] gives, and keeps what follows
/// from parts of the input that stayed the same: those parts of its outputs are shared.
#[derive(Debug, Default)]
pub struct Translator {
    routes: routes::Kept,
}

impl Translator {
    /// The output of this input alone, whatever came before it.
    pub fn translate(&mut self, input: &Input<'_>) -> Output {
        translated(input, &mut self.routes)
    }
}

fn translated(input: &Input<'_>, kept: &mut routes::Kept) -> Output {
    let mut statuses = Statuses::default();
    let objects = gateways::completed(input);
    let written = input.objects;
    let input = &Input {
        objects: &objects,
        ..*input
    };
    let waypoints = Waypoints::of(input.objects, input.options);
    let policies = Policies::of(input, &waypoints, &mut statuses);
    let (services, vips) = services::services(input, &waypoints, &mut statuses);
    let (routes, attached) = routes::routes(input, &waypoints, kept, &mut statuses);
    let endpoints = Endpoints::of(input.objects, input.options);
    let waypoint_only = WaypointOnly::of(input, &waypoints, &services, &endpoints);
    let parts = workloads::Parts {
        input: *input,
        services: &services,
        endpoints: &endpoints,
        policies: &policies,
        waypoints: &waypoints,
        waypoint_only: &waypoint_only,
    };
    let (workloads, of_waypoints) = workloads::workloads(&parts, &mut statuses);
    let Policies {
        mut policies,
        targeted: target_policies,
        ..
    } = policies;
    policies.extend(of_waypoints);
    let mut output = Output {
        workloads,
        services,
        policies,
        target_policies,
        routes,
        vips,
        statuses: BTreeMap::new(),
        listeners: BTreeMap::new(),
    };
    let found = gateways::Found {
        input,
        written,
        attached: &attached,
        output: &output,
    };
    output.listeners = gateways::describe(&found, &mut statuses);
    for conditions in statuses.0.values_mut() {
        conditions.sort();
    }
    output.statuses = statuses.0;
    output
}
