//! What the agent asks of the control plane, so that tests can stand in for it.

use std::future::Future;
use std::pin::Pin;

use process::grpc::agent::{AgentClient, Described, PodReport};

use crate::message::PodName;

/// A boxed future of an answer; errors are sentences.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// The control plane's service for agents.
pub trait Control: Send + Sync {
    /// Who the pod is.
    fn describe<'a>(&'a self, pod: &'a PodName) -> Asked<'a, Described>;

    /// All pods of the node; gives whether all proxies acknowledged, when asked to wait for that.
    fn report<'a>(&'a self, pods: &'a [PodReport], wait_for_acks: bool) -> Asked<'a, bool>;
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
}
