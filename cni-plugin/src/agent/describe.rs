//! Asking the control plane who a pod is. Knows no steering.

use std::time::Duration;

use process::grpc::agent::{Described, PodDescription};
use tokio::time::Instant;

use super::Agent;
use crate::message::{Failure, PodName};
use crate::plugin::code;

/// How long the control plane may not know a pod: its source may lag behind the runtime's.
const UNKNOWN_WAIT: Duration = Duration::from_secs(5);
/// Pause between two questions to the control plane.
const ASK_PAUSE: Duration = Duration::from_millis(250);

/// Asks until the control plane knows the pod; a pod that it does not know for 5 s fails, since a
/// pod without identity must not run unprotected by accident.
///
/// # Errors
/// [`Failure`] when it does not know or does not answer.
pub(super) async fn describe(
    agent: &Agent,
    pod: &PodName,
    deadline: Instant,
) -> Result<PodDescription, Failure> {
    let unknown_until = Instant::now() + UNKNOWN_WAIT;
    let mut last = unasked("it did not answer in time".to_owned());
    loop {
        let started = Instant::now();
        let answer = tokio::time::timeout_at(deadline, agent.control.describe(pod)).await;
        let mut over = started + ASK_PAUSE >= deadline;
        match answer {
            Ok(Ok(Described::Pod(description))) => return Ok(description),
            Ok(Ok(Described::Unknown { reason })) => {
                over |= started >= unknown_until;
                last = unknown(pod, reason);
            }
            Ok(Err(reason)) => last = unasked(reason),
            Err(_) => over = true,
        }
        if over {
            return Err(last);
        }
        tokio::time::sleep(ASK_PAUSE).await;
    }
}

fn unasked(details: String) -> Failure {
    let msg = "the control plane cannot be asked who the pod is".to_owned();
    Failure {
        code: code::TRY_LATER,
        msg,
        details,
    }
}

fn unknown(pod: &PodName, details: String) -> Failure {
    let PodName {
        namespace, name, ..
    } = pod;
    let msg = format!("the control plane does not know pod {namespace}/{name} on this node");
    Failure {
        code: code::TRY_LATER,
        msg,
        details,
    }
}
