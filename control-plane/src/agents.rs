//! The service for node agents: who a pod is, which pods are there, which waypoints to run.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::wire::agent::agent_service_server::AgentService;
use proto::wire::agent::{
    DescribePodRequest, DescribePodResponse, FollowWaypointsRequest, PodReport as WireReport,
    ReportPodsRequest, ReportPodsResponse, WaypointReport as WireWaypoint,
};
use tonic::{Request, Response, Status};
use translate::enrolment::enrolment;
use translate::object::{Name, Pod};
use translate::{PodReport, WaypointReport};

use crate::callers::caller;
use crate::discovery::acks::Acks;
use crate::engine::EngineHandle;
use crate::waypoints::{Lists, Waypoints};

/// Most pods of a node: eight times what kubelet runs by default.
const MAX_PODS: usize = 1024;

/// Most addresses of a pod: one of a family on each of eight interfaces.
const MAX_POD_IPS: usize = 16;

/// Longest name or UID in bytes.
const MAX_NAME_BYTES: usize = 253;

/// Longest reason in bytes why a waypoint is not ready; the rest of it is cut off.
const MAX_PROBLEM_BYTES: usize = 512;

/// How long a report that waits for acknowledgements is held.
const ACK_WAIT: Duration = Duration::from_secs(5);

/// The service.
pub struct Agents {
    engine: EngineHandle,
    acks: Acks,
    trust_domain: Arc<str>,
    waypoints: Waypoints,
}

impl Agents {
    /// The service on the pods of an engine.
    pub fn new(
        engine: EngineHandle,
        acks: Acks,
        trust_domain: Arc<str>,
        waypoints: Waypoints,
    ) -> Self {
        Self {
            engine,
            acks,
            trust_domain,
            waypoints,
        }
    }

    fn describe(&self, node: &str, asked: &DescribePodRequest) -> DescribePodResponse {
        let unknown = |reason: String| DescribePodResponse {
            reason,
            ..Default::default()
        };
        let name = Name::new(&asked.namespace, &asked.name);
        let published = self.engine.now();
        let pod = published.objects.pods.get(&name);
        // Pods of other nodes are none of the caller's business: not even that they exist.
        let Some(pod) = pod.filter(|pod| pod.node.as_deref() == Some(node)) else {
            return unknown(format!("no manifest binds pod {name} to node {node}"));
        };
        if pod.meta.uid.as_ref().is_some_and(|uid| **uid != asked.uid) {
            return unknown(format!("pod {name} has another UID than {}", asked.uid));
        }
        let enrolment = enrolment(&published.objects, pod);
        self.described(pod, enrolment.enrol, enrolment.reason)
    }

    fn described(&self, pod: &Pod, enrol: bool, reason: String) -> DescribePodResponse {
        DescribePodResponse {
            found: true,
            enrol,
            reason,
            service_account: pod.service_account.to_string(),
            labels: pod.meta.labels.clone().into_iter().collect(),
            trust_domain: self.trust_domain.to_string(),
        }
    }
}

fn report(node: &Arc<str>, wire: WireReport) -> Result<PodReport, Status> {
    let wrong = |what: &str| Status::invalid_argument(format!("report of a pod: {what}"));
    for text in [&wire.namespace, &wire.name, &wire.uid] {
        if text.is_empty() || text.len() > MAX_NAME_BYTES {
            return Err(wrong("namespace, name and uid must have 1 to 253 bytes"));
        }
    }
    if wire.ips.len() > MAX_POD_IPS {
        return Err(wrong("too many addresses"));
    }
    let mut ips = Vec::new();
    for text in &wire.ips {
        let ip: IpAddr = text
            .parse()
            .map_err(|_| wrong("an address cannot be read"))?;
        let ip = mesh::address::canonical(ip);
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            return Err(wrong("an address is loopback, unspecified or multicast"));
        }
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(PodReport {
        node: node.clone(),
        name: Name::new(&wire.namespace, &wire.name),
        uid: wire.uid.into(),
        ips,
        enrolled: wire.enrolled,
        waypoint: wire.waypoint.map(waypoint).transpose()?,
    })
}

fn waypoint(wire: WireWaypoint) -> Result<WaypointReport, Status> {
    let wrong = |what: &str| Status::invalid_argument(format!("report of a waypoint: {what}"));
    if wire.gateway.is_empty() || wire.gateway.len() > MAX_NAME_BYTES {
        return Err(wrong("gateway must have 1 to 253 bytes"));
    }
    if wire.revision.len() > MAX_NAME_BYTES {
        return Err(wrong("revision must have at most 253 bytes"));
    }
    let mut problem = wire.problem;
    problem.truncate(problem.floor_char_boundary(MAX_PROBLEM_BYTES));
    Ok(WaypointReport {
        gateway: wire.gateway.into(),
        replica: wire.replica,
        revision: wire.revision.into(),
        ready: wire.ready,
        draining: wire.draining,
        problem: problem.into(),
    })
}

#[tonic::async_trait]
impl AgentService for Agents {
    async fn describe_pod(
        &self,
        request: Request<DescribePodRequest>,
    ) -> Result<Response<DescribePodResponse>, Status> {
        let node = caller(&request)?.node;
        Ok(Response::new(self.describe(&node, request.get_ref())))
    }

    async fn report_pods(
        &self,
        request: Request<ReportPodsRequest>,
    ) -> Result<Response<ReportPodsResponse>, Status> {
        let node = caller(&request)?.node;
        let ReportPodsRequest {
            pods,
            wait_for_acks,
        } = request.into_inner();
        if pods.len() > MAX_PODS {
            return Err(Status::invalid_argument(format!(
                "more than {MAX_PODS} pods"
            )));
        }
        let pods: Result<Vec<PodReport>, Status> =
            pods.into_iter().map(|pod| report(&node, pod)).collect();
        let mut pods = pods?;
        self.waypoints.seen(&node);
        self.waypoints.check(&node, &mut pods);
        let revision = self.engine.report(node, pods).await;
        let revision = revision.ok_or_else(|| Status::unavailable("culvertd is stopping"))?;
        let acked = !wait_for_acks || self.acks.reached(revision, ACK_WAIT).await;
        Ok(Response::new(ReportPodsResponse { acked }))
    }

    type FollowWaypointsStream = Lists;

    async fn follow_waypoints(
        &self,
        request: Request<FollowWaypointsRequest>,
    ) -> Result<Response<Lists>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.waypoints.follow(caller)))
    }
}
