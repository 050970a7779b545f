//! Connections from before an enrolment: they go on past the proxy, in plaintext, until they end.
//! Counted and logged; closed only when the operator says so.

use std::net::IpAddr;

use netio::netns::Netns;

use super::Agent;
use super::record::Phase;
use crate::message::{Failure, PodName};
use crate::plugin::code;
use crate::steering::connections::{self, Connection};
use crate::steering::pod::{close_connections, existing_connections};

/// Connections that one log line names.
const NAMED: usize = 5;

/// Whether the connections from before could be closed, asked before anything is done.
///
/// # Errors
/// [`Failure`] when they are not known any more, or the kernel cannot.
pub fn check(pod: &PodName, phase: Option<Phase>) -> Result<(), Failure> {
    let refuse = |details: String| Failure {
        code: code::INVALID_ENV,
        msg: format!(
            "the connections of pod {}/{} from before its enrolment cannot be closed",
            pod.namespace, pod.name
        ),
        details,
    };
    if matches!(phase, Some(Phase::Enrolled | Phase::Leaving)) {
        let details = "it is enrolled already, and only an enrolment tells which they are";
        return Err(refuse(details.into()));
    }
    match connections::can_close() {
        Ok(true) => Ok(()),
        Ok(false) => {
            let details = "this kernel has no SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY)";
            Err(refuse(details.into()))
        }
        Err(error) => Err(refuse(format!("sock_diag: {error}"))),
    }
}

/// What is there; a kernel that does not tell is no reason to leave a pod uncaptured.
pub fn find(netns: &Netns, own: &[IpAddr]) -> Vec<Connection> {
    existing_connections(netns, own).unwrap_or_else(|error| {
        tracing::warn!(%error, "connections from before the enrolment cannot be counted");
        Vec::new()
    })
}

/// Counts and logs them, and closes them if told to. Gives what to add to the answer.
///
/// # Errors
/// [`Failure`] when they could not be closed; the pod is enrolled all the same.
pub fn settle(
    agent: &Agent,
    pod: &PodName,
    netns: &Netns,
    before: &[Connection],
    close: bool,
) -> Result<String, Failure> {
    let (uid, found) = (pod.uid.as_str(), before.len());
    if before.is_empty() {
        return Ok(String::new());
    }
    let some: Vec<String> = before
        .iter()
        .take(NAMED)
        .map(Connection::to_string)
        .collect();
    if !close {
        agent.metrics.existing("left", found);
        tracing::warn!(
            uid,
            found,
            some = some.join(", "),
            "connections from before the enrolment go on past the proxy until they end"
        );
        return Ok(format!(
            "; {found} connections from before go on uncaptured"
        ));
    }
    let closed = close_connections(netns, before).map_err(|error| {
        agent.metrics.existing("left", found);
        Failure {
            code: code::IO,
            msg: "the pod is enrolled, but its connections from before could not be closed".into(),
            details: error.to_string(),
        }
    })?;
    agent.metrics.existing("closed", closed);
    tracing::warn!(
        uid,
        found,
        closed,
        some = some.join(", "),
        "closed the connections from before the enrolment"
    );
    Ok(format!("; {closed} connections from before closed"))
}
