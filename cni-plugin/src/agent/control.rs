//! What the agent asks of the control plane, so that tests can stand in for it.

use std::future::Future;
use std::pin::Pin;

use futures::Stream;
use futures::stream;
use process::grpc::agent::{AgentClient, Described, PodReport, WaypointReplica};

use crate::message::PodName;

/// A boxed future of an answer; errors are sentences.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// Lists of the waypoints that the node shall run, each whole.
pub type WaypointLists = Pin<Box<dyn Stream<Item = Result<Vec<WaypointReplica>, String>> + Send>>;

/// The control plane's service for agents.
pub trait Control: Send + Sync {
    /// Who the pod is.
    fn describe<'a>(&'a self, pod: &'a PodName) -> Asked<'a, Described>;

    /// All pods of the node; gives whether all proxies acknowledged, when asked to wait for that.
    fn report<'a>(&'a self, pods: &'a [PodReport], wait_for_acks: bool) -> Asked<'a, bool>;

    /// Which waypoints the node shall run: a list at once, and one at each change.
    fn waypoints(&self) -> Asked<'_, WaypointLists> {
        Box::pin(async { Err("this control plane has no waypoints".to_owned()) })
    }
}

impl Control for AgentClient {
    fn describe<'a>(&'a self, pod: &'a PodName) -> Asked<'a, Described> {
        Box::pin(async move {
            let answer = self.describe_pod(&pod.namespace, &pod.name, &pod.uid).await;
            answer.map_err(|error| error.to_string())
        })
    }

    fn report<'a>(&'a self, pods: &'a [PodReport], wait_for_acks: bool) -> Asked<'a, bool> {
        Box::pin(async move {
            self.report_pods(pods, wait_for_acks)
                .await
                .map_err(|error| error.to_string())
        })
    }

    fn waypoints(&self) -> Asked<'_, WaypointLists> {
        Box::pin(async move {
            let lists = self
                .follow_waypoints()
                .await
                .map_err(|error| error.to_string())?;
            let lists = stream::unfold(Some(lists), async |lists| {
                let mut lists = lists?;
                match lists.next().await {
                    Ok(list) => Some((Ok(list), Some(lists))),
                    Err(error) => Some((Err(error.to_string()), None)),
                }
            });
            Ok(Box::pin(lists) as WaypointLists)
        })
    }
}
