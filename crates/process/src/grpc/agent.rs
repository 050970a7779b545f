//! The node agent's questions to culvertd, in manifests mode: who a pod is, and which pods are on
//! the node. Knows no pod's sockets and no CNI.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proto::wire::agent as wire;
use proto::wire::agent::agent_service_client::AgentServiceClient;
use tonic::transport::Channel;

use super::{CallError, ControlPlane};

/// Time for an answer: a report that waits for proxies takes up to 5 s there.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer in bytes: one pod with its labels.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Who a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDescription {
    /// Whether it shall be captured.
    pub enrol: bool,
    /// Why (not), in a sentence for a log line.
    pub reason: String,
    /// Service account of its identity.
    pub service_account: String,
    /// Trust domain of its identity.
    pub trust_domain: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Whether culvertd knows a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Described {
    /// It does.
    Pod(PodDescription),
    /// It does not (yet), and says why.
    Unknown {
        /// A sentence for a log line.
        reason: String,
    },
}

/// A pod of this node, as the agent has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodReport {
    /// Kubernetes UID.
    pub uid: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes name.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Captured and its proxy listens: may be advertised as HBONE.
    pub enrolled: bool,
    /// There when the agent runs it as a replica of a waypoint.
    pub waypoint: Option<WaypointReport>,
}

/// How a replica of a waypoint is that the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaypointReport {
    /// Name of the Gateway; its namespace is the pod's.
    pub gateway: String,
    /// Number of the replica, from 0.
    pub replica: u32,
    /// Revision that it was started for.
    pub revision: String,
    /// Whether it may be given connections.
    pub ready: bool,
    /// Whether it only ends what it has.
    pub draining: bool,
    /// Why it is not ready; empty when it is, or only starts.
    pub problem: String,
}

/// A replica of a waypoint that the node shall run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct WaypointReplica {
    /// Kubernetes namespace of the Gateway, its pods and their identity.
    pub namespace: String,
    /// Name of the Gateway.
    pub gateway: String,
    /// Number of the replica among those of all nodes, from 0.
    pub replica: u32,
    /// Service account of its identity.
    pub service_account: String,
    /// Changes when a running one has to be replaced.
    pub revision: String,
    /// Trust domain of its identity.
    pub trust_domain: String,
}

/// Lists of the replicas that the node shall run, each whole; from
/// [`AgentClient::follow_waypoints`].
#[derive(Debug)]
pub struct WaypointReplicas {
    control_plane: ControlPlane,
    lists: tonic::Streaming<wire::FollowWaypointsResponse>,
}

impl WaypointReplicas {
    /// The next list. Cancel safe.
    ///
    /// # Errors
    /// The stream ended; see [`CallError`].
    pub async fn next(&mut self) -> Result<Vec<WaypointReplica>, CallError> {
        let ended = || tonic::Status::unavailable("the stream ended");
        let next = self.lists.message().await;
        match next.and_then(|list| list.ok_or_else(ended)) {
            Ok(list) => Ok(list.replicas.into_iter().map(replica).collect()),
            Err(status) => Err(self.control_plane.refused(&status).await),
        }
    }
}

/// Client of culvertd's service for agents. Cheap to clone; connects when first asked. Never
/// retries by itself: its caller knows how long a pod may wait.
#[derive(Clone, Debug)]
pub struct AgentClient {
    control_plane: ControlPlane,
}

impl AgentClient {
    /// A client; makes no connection yet.
    pub fn new(control_plane: ControlPlane) -> Self {
        Self { control_plane }
    }

    /// Who the pod of that namespace, name and Kubernetes UID is. Ends within 20 s (connect and
    /// answer).
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn describe_pod(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Described, CallError> {
        let mut request = self.control_plane.request(wire::DescribePodRequest {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        })?;
        request.set_timeout(CALL_TIMEOUT);
        match self.client().await?.describe_pod(request).await {
            Ok(answer) => Ok(described(answer.into_inner())),
            Err(status) => Err(self.control_plane.refused(&status).await),
        }
    }

    /// Reports all pods of the node: what is not listed is gone. With `wait_for_acks` it answers
    /// when all proxies have acknowledged the change, or after 5 s; the answer says whether they
    /// have.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn report_pods(
        &self,
        pods: &[PodReport],
        wait_for_acks: bool,
    ) -> Result<bool, CallError> {
        let pods = pods.iter().map(report).collect();
        let message = wire::ReportPodsRequest {
            pods,
            wait_for_acks,
        };
        let mut request = self.control_plane.request(message)?;
        request.set_timeout(CALL_TIMEOUT);
        match self.client().await?.report_pods(request).await {
            Ok(answer) => Ok(answer.into_inner().acked),
            Err(status) => Err(self.control_plane.refused(&status).await),
        }
    }

    /// Follows which replicas of waypoints the node shall run: a list at once and one at each
    /// change, for as long as the stream holds.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn follow_waypoints(&self) -> Result<WaypointReplicas, CallError> {
        let request = self
            .control_plane
            .request(wire::FollowWaypointsRequest {})?;
        match self.client().await?.follow_waypoints(request).await {
            Ok(answer) => Ok(WaypointReplicas {
                control_plane: self.control_plane.clone(),
                lists: answer.into_inner(),
            }),
            Err(status) => Err(self.control_plane.refused(&status).await),
        }
    }

    async fn client(&self) -> Result<AgentServiceClient<Channel>, CallError> {
        let channel = self.control_plane.channel().await?;
        Ok(AgentServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
    }
}

fn described(answer: wire::DescribePodResponse) -> Described {
    if !answer.found {
        return Described::Unknown {
            reason: answer.reason,
        };
    }
    Described::Pod(PodDescription {
        enrol: answer.enrol,
        reason: answer.reason,
        service_account: answer.service_account,
        trust_domain: answer.trust_domain,
        labels: answer.labels.into_iter().collect(),
    })
}

fn report(pod: &PodReport) -> wire::PodReport {
    wire::PodReport {
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        ips: pod.ips.iter().map(ToString::to_string).collect(),
        enrolled: pod.enrolled,
        waypoint: pod.waypoint.as_ref().map(waypoint),
    }
}

fn waypoint(report: &WaypointReport) -> wire::WaypointReport {
    wire::WaypointReport {
        gateway: report.gateway.clone(),
        replica: report.replica,
        revision: report.revision.clone(),
        ready: report.ready,
        draining: report.draining,
        problem: report.problem.clone(),
    }
}

fn replica(wire: wire::WaypointReplica) -> WaypointReplica {
    WaypointReplica {
        namespace: wire.namespace,
        gateway: wire.gateway,
        replica: wire.replica,
        service_account: wire.service_account,
        revision: wire.revision,
        trust_domain: wire.trust_domain,
    }
}
