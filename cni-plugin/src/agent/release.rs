//! The way of a pod out of the mesh: deleted, un-enrolled while it runs, or vanished.
//!
//! ```text
//!  enrolled --unenrol--> leaving --captured connections ended--> not_enrolled
//!  (any) --DEL, GC, namespace gone--> (unknown)
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use netio::netns::{Netns, NetnsError};
use tokio_util::sync::CancellationToken;

use super::Agent;
use super::enrol::Outcome;
use super::record::{Phase, Record};
use super::table::Entry;
use crate::message::{Failure, PodName};
use crate::plugin::code;
use crate::steering::BpfError;
use crate::steering::pod::{captured_connections, unroute};
use crate::steering::program;

/// Pause between two looks for captured connections that live on.
const LEAVING_PAUSE: Duration = Duration::from_secs(1);
/// What an un-enrolment answers.
const GOES_ON: &str = "captured connections go on until they end";
/// Pause between two looks for namespaces that vanished.
const SWEEP_PAUSE: Duration = Duration::from_secs(5);

/// Forgets a pod with all that was made for it. Unknown is fine. The caller holds its turn.
///
/// The pod's processes are gone when the runtime calls DEL, so that ztunnel is told first: peers
/// learn of the end before the veth goes.
pub async fn forget(agent: &Agent, uid: &str) {
    let Some(entry) = agent.table.take(uid) else {
        return;
    };
    agent.reporter.changed();
    agent.zds.delete(uid).await;
    drop_steering(agent, &entry.record);
    tracing::info!(
        uid,
        namespace = entry.record.pod.namespace,
        pod = entry.record.pod.name,
        "pod forgotten"
    );
}

/// Hook, pins and record of a pod; goes on where one fails.
pub(super) fn drop_steering(agent: &Agent, record: &Record) {
    let uid = record.pod.uid.as_str();
    agent.withdraw(record.cookie);
    if let Err(error) = program::unpin(&agent.pod_dir(uid)) {
        tracing::error!(uid, %error, "the pod's program stays pinned");
    }
    if let Err(error) = agent.state.remove(uid) {
        tracing::error!(uid, %error, "the pod's record stays");
    }
}

/// CNI DEL. An ADD of the same sandbox that has not ended is ended, and waited for.
pub async fn delete(agent: &Agent, container_id: &str) -> Outcome {
    let known = agent.table.by_container(container_id);
    let mut uids: BTreeSet<String> = agent
        .calls
        .end(container_id, known.as_deref())
        .into_iter()
        .collect();
    // After the calls: one that ended between the two looks has left its pod in the table.
    uids.extend(known);
    uids.extend(agent.table.by_container(container_id));
    let mut forgotten = false;
    for uid in &uids {
        let _turn = agent.table.lock(uid).await;
        let entry = agent.table.get(uid);
        // The same pod may have got another sandbox.
        if entry.is_some_and(|entry| entry.record.container_id == container_id) {
            forget(agent, uid).await;
            forgotten = true;
        }
    }
    let reason = match (forgotten, uids.is_empty()) {
        (true, _) => "forgotten",
        (false, true) => "the sandbox is not known",
        (false, false) => "its enrolment was ended and undone",
    };
    Outcome {
        enrolled: false,
        reason: reason.into(),
    }
}

/// CNI GC: forgets every pod whose sandbox is not in `keep`. Pods that only a command named stay.
pub async fn collect(agent: &Agent, keep: Vec<String>) -> Outcome {
    let keep: BTreeSet<String> = keep.into_iter().collect();
    let entries = agent.table.all().into_iter();
    let known = entries.map(|entry| entry.record.container_id);
    let known: BTreeSet<String> = known.chain(agent.calls.containers()).collect();
    let mut forgotten = 0;
    for container in known.difference(&keep).filter(|id| !id.is_empty()) {
        delete(agent, container).await;
        forgotten += 1;
    }
    Outcome {
        enrolled: false,
        reason: format!("{forgotten} sandboxes forgotten"),
    }
}

/// Lets a running pod go: withdraws HBONE, waits until the proxies know (5 s at most), stops
/// outbound, then inbound capture. Rules, routes and ztunnel stay for the captured connections.
///
/// # Errors
/// [`Failure`] when the pod is unknown or its capture cannot be stopped.
pub async fn unenrol(agent: &Arc<Agent>, pod: &PodName) -> Result<Outcome, Failure> {
    let _turn = agent.table.lock(&pod.uid).await;
    let Some(mut entry) = agent.table.get(&pod.uid) else {
        let msg = format!("pod {}/{} is not known", pod.namespace, pod.name);
        let details = format!("no pod has uid {}", pod.uid);
        return Err(Failure {
            code: code::UNKNOWN_CONTAINER,
            msg,
            details,
        });
    };
    let outcome = |reason: &str| Outcome {
        enrolled: false,
        reason: reason.to_owned(),
    };
    match entry.record.phase {
        Phase::Enrolled => {}
        Phase::Leaving => {
            stop_capture(agent, &entry)?;
            return Ok(outcome(GOES_ON));
        }
        _ => return Ok(outcome("it is not enrolled")),
    }
    entry.record.phase = Phase::Leaving;
    entry.record.reason = "un-enrolled by command".into();
    if let Err(error) = agent.state.save(&entry.record) {
        tracing::warn!(uid = pod.uid, %error, "the record could not be renewed");
    }
    agent.table.put(entry.clone());
    if !agent.reporter.now(true).await {
        tracing::warn!(
            uid = pod.uid,
            "not all proxies know yet that the pod leaves the mesh"
        );
    }
    // Before the attempt: this repeats it when it fails.
    agent
        .tasks
        .spawn("leaving pod", leave(agent.clone(), pod.uid.clone()));
    stop_capture(agent, &entry)?;
    tracing::info!(
        uid = pod.uid,
        "pod un-enrolled; its captured connections go on"
    );
    Ok(outcome(GOES_ON))
}

/// No new connection of a leaving pod is captured after this. May be repeated.
fn stop_capture(agent: &Agent, entry: &Entry) -> Result<(), Failure> {
    let failed = |way: &str, error: BpfError| Failure {
        code: code::NOT_CAPTURED,
        msg: format!("{way} capture could not be stopped; the agent goes on trying"),
        details: error.to_string(),
    };
    let withdrawn = agent.hook().withdraw(entry.record.cookie);
    withdrawn.map_err(|error| failed("outbound", error))?;
    let detached = match &entry.live {
        Some(live) => live.steering.detach(),
        None => program::detach(&agent.pod_dir(&entry.record.pod.uid)),
    };
    detached.map_err(|error| failed("inbound", error))
}

/// Waits for the captured connections of a leaving pod, then removes the rest.
pub async fn leave(agent: Arc<Agent>, uid: String) {
    let stop = agent.tasks.stop();
    loop {
        let turn = agent.table.lock(&uid).await;
        let Some(entry) = agent.table.get(&uid) else {
            return;
        };
        if entry.record.phase != Phase::Leaving || finish_if_quiet(&agent, entry).await {
            return;
        }
        drop(turn);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LEAVING_PAUSE) => {}
        }
    }
}

/// Whether the pod has left.
async fn finish_if_quiet(agent: &Agent, mut entry: Entry) -> bool {
    let uid = entry.record.pod.uid.clone();
    if let Err(failure) = stop_capture(agent, &entry) {
        tracing::error!(uid, details = failure.details, "{}", failure.msg);
        return false;
    }
    let netns = match netns_of(&entry) {
        Ok(netns) => netns,
        // The sweep takes it when it is gone.
        Err(_) => return false,
    };
    match captured_connections(&netns) {
        Ok(0) => {}
        Ok(live) => {
            tracing::debug!(uid, live, "captured connections live on");
            return false;
        }
        Err(error) => {
            tracing::warn!(uid, %error, "captured connections cannot be counted");
            return false;
        }
    }
    if let Err(error) = program::unpin(&agent.pod_dir(&uid)) {
        tracing::error!(uid, %error, "the pod's program stays pinned");
        return false;
    }
    if let Err(error) = unroute(&netns, &entry.record.sysctls_before).await {
        tracing::error!(uid, %error, "rules or sysctls stay in the pod");
    }
    agent.zds.delete(&uid).await;
    entry.live = None;
    entry.record.phase = Phase::NotEnrolled;
    entry.record.sysctls_before.clear();
    if let Err(error) = agent.state.save(&entry.record) {
        tracing::warn!(uid, %error, "the record could not be renewed");
    }
    agent.table.put(entry);
    agent.reporter.changed();
    tracing::info!(
        uid,
        "the last captured connection ended, the pod has left the mesh"
    );
    true
}

/// The namespace of a pod: the held one, else that of its path, if it is still the same.
pub(super) fn netns_of(entry: &Entry) -> Result<Netns, Gone> {
    if let Some(live) = &entry.live {
        return Ok(live.steering.netns().clone());
    }
    open_same(&entry.record)
}

/// Why a recorded namespace cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// It is no more.
    Vanished,
    /// It cannot be opened from here; it may live.
    Unreachable,
}

pub(super) fn open_same(record: &Record) -> Result<Netns, Gone> {
    let path = record.netns.as_ref().ok_or(Gone::Unreachable)?;
    let netns = Netns::open(path).map_err(|error| match &error {
        NetnsError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Gone::Vanished
        }
        // The runtime's mount point without the namespace on it.
        NetnsError::NotNsfs { .. } => Gone::Vanished,
        _ => Gone::Unreachable,
    })?;
    match netns.cookie() {
        Ok(cookie) if cookie == record.cookie => Ok(netns),
        Ok(_) => Err(Gone::Vanished),
        Err(_) => Err(Gone::Unreachable),
    }
}

/// Forgets pods whose namespace went away without a DEL, every five seconds.
pub async fn sweep(agent: Arc<Agent>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_PAUSE) => {}
        }
        let vanished = |entry: &Entry| open_same(&entry.record) == Err(Gone::Vanished);
        for entry in agent.table.all().into_iter().filter(vanished) {
            let uid = entry.record.pod.uid;
            let _turn = agent.table.lock(&uid).await;
            let still = agent.table.get(&uid).is_some_and(|entry| vanished(&entry));
            if still {
                tracing::warn!(uid, "the pod's namespace vanished without a DEL");
                agent.metrics.vanished.inc();
                forget(&agent, &uid).await;
            }
        }
    }
}
