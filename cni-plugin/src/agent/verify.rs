//! Verified capture: whether the connections of the captured pods really go to their listeners,
//! and putting right what is missing.
//!
//! A verification first looks at every part, then makes connections in the pod's namespace (see
//! `steering::probe`), which find what no list of parts has. It never changes a pod that is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::record::{Phase, Record};
use super::release::netns_of;
use super::table::Entry;
use super::{Agent, recover};
use crate::message::{Answer, Failure, PodVerdict};
use crate::plugin::code;
use crate::steering::fault::{Cause, Fault};
use crate::steering::pod::{Listeners, PodSteering, SteerError};

/// Pods that are verified at the same time. A whole one takes some milliseconds.
const AT_ONCE: usize = 4;
/// Pause before a fault is believed: the address follower may be just putting it right.
const SECOND_LOOK: Duration = Duration::from_millis(200);
/// Looks at a pod before the last one's faults are its faults.
const LOOKS_MAX: usize = 5;
/// How long an enrolment tries to become verified.
const CONFIRM_WAIT: Duration = Duration::from_secs(2);
/// Pause between two tries.
const CONFIRM_PAUSE: Duration = Duration::from_millis(50);
/// Shortest pause between two rounds; 100 pods take about a second.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// What the last verification of each pod said.
#[derive(Debug, Default)]
pub struct Verdicts {
    captured: Mutex<BTreeMap<String, bool>>,
}

impl Verdicts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        // Nothing that can panic runs under this lock.
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Verifies and repairs all captured pods at once and then every `interval`, until the stop.
pub async fn run(agent: Arc<Agent>, interval: Duration, stop: CancellationToken) {
    loop {
        let verdicts = tokio::select! {
            () = stop.cancelled() => return,
            verdicts = all(&agent, true) => verdicts,
        };
        let captured = verdicts.iter().filter(|verdict| verdict.captured).count();
        let repaired = verdicts
            .iter()
            .filter(|verdict| !verdict.repaired.is_empty())
            .count();
        let pods = verdicts.len();
        tracing::info!(pods, captured, repaired, "capture verified");
        agent.metrics.rounds.inc();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval.max(SHORTEST_INTERVAL)) => {}
        }
    }
}

/// The verify command: one datagram that says how many pods follow, then the pods.
pub async fn answer(agent: &Arc<Agent>, uid: Option<String>, repair: bool) -> Vec<Answer> {
    let verdicts = match &uid {
        None => all(agent, repair).await,
        Some(uid) => one(agent, uid, repair).await.into_iter().collect(),
    };
    agent.metrics.call("verify", true);
    if let (Some(uid), true) = (uid, verdicts.is_empty()) {
        return vec![Answer::Failed(Failure {
            code: code::UNKNOWN_CONTAINER,
            msg: "there is no enrolled pod of this uid".into(),
            details: uid,
        })];
    }
    let head = Answer::Verified {
        pods: verdicts.len(),
    };
    let pods = verdicts.into_iter().map(Answer::Verdict);
    std::iter::once(head).chain(pods).collect()
}

async fn all(agent: &Arc<Agent>, repair: bool) -> Vec<PodVerdict> {
    let entries = agent.table.all().into_iter();
    let uids: Vec<String> = entries
        .filter(|entry| entry.record.phase == Phase::Enrolled)
        .map(|entry| entry.record.pod.uid)
        .collect();
    let verified = futures::stream::iter(uids).map(|uid| {
        let agent = agent.clone();
        async move { one(&agent, &uid, repair).await }
    });
    let verdicts: Vec<Option<PodVerdict>> = verified.buffered(AT_ONCE).collect().await;
    verdicts.into_iter().flatten().collect()
}

/// Verifies one pod; a fault counts when two looks in a row find it, and all of the last look's do
/// when each of [`LOOKS_MAX`] finds something else. None when the pod is not captured by intention.
pub(super) async fn one(agent: &Arc<Agent>, uid: &str, repair: bool) -> Option<PodVerdict> {
    let mut turn = agent.table.lock(uid).await;
    let mut entry = enrolled(agent, uid)?;
    let mut faults = look(agent, &entry).await;
    for _ in 1..LOOKS_MAX {
        if faults.is_empty() {
            break;
        }
        drop(turn);
        tokio::time::sleep(SECOND_LOOK).await;
        turn = agent.table.lock(uid).await;
        entry = enrolled(agent, uid)?;
        match lasting(&faults, look(agent, &entry).await) {
            Ok(agreed) => {
                faults = agreed;
                break;
            }
            Err(others) => faults = others,
        }
    }
    let mut repaired = Vec::new();
    if repair && !faults.is_empty() {
        if let Err(error) = restore(agent, &entry).await {
            tracing::error!(uid, %error, "a pod's capture could not be repaired");
        }
        entry = enrolled(agent, uid)?;
        let left = look(agent, &entry).await;
        faults.retain(|fault| !has_cause(&left, fault));
        repaired = std::mem::replace(&mut faults, left);
    }
    drop(turn);
    let verdict = PodVerdict {
        pod: entry.record.pod,
        ips: entry.record.ips,
        captured: faults.is_empty(),
        faults,
        repaired,
    };
    note(agent, &verdict);
    Some(verdict)
}

/// What two looks agree on; of a clean one nothing. An error are the faults of the second look when
/// it found others than the first: something is wrong, and nobody can say what yet.
fn lasting(before: &[Fault], mut now: Vec<Fault>) -> Result<Vec<Fault>, Vec<Fault>> {
    let is_lasting = |fault: &Fault| has_cause(before, fault);
    if now.is_empty() || now.iter().any(is_lasting) {
        now.retain(is_lasting);
        return Ok(now);
    }
    Err(now)
}

fn has_cause(faults: &[Fault], wanted: &Fault) -> bool {
    faults.iter().any(|fault| fault.cause == wanted.cause)
}

fn enrolled(agent: &Agent, uid: &str) -> Option<Entry> {
    let entry = agent.table.get(uid)?;
    (entry.record.phase == Phase::Enrolled).then_some(entry)
}

/// Log and metrics of one verdict.
fn note(agent: &Agent, verdict: &PodVerdict) {
    let (uid, pod) = (verdict.pod.uid.as_str(), verdict.pod.name.as_str());
    let namespace = verdict.pod.namespace.as_str();
    if !verdict.repaired.is_empty() {
        let faults = Fault::join(&verdict.repaired);
        tracing::warn!(
            uid,
            namespace,
            pod,
            faults,
            "capture was broken and is repaired"
        );
        let causes: BTreeSet<Cause> = verdict.repaired.iter().map(|fault| fault.cause).collect();
        causes
            .into_iter()
            .for_each(|cause| agent.metrics.repaired(cause));
    }
    if !verdict.captured {
        let faults = Fault::join(&verdict.faults);
        tracing::error!(uid, namespace, pod, faults, "the pod is not captured");
    }
    let captured = verdict.captured;
    agent.verdicts.lock().insert(uid.to_owned(), captured);
    publish(agent);
}

/// Sets the gauge from what is known of the pods that are enrolled now.
pub fn publish(agent: &Agent) {
    let mut verdicts = agent.verdicts.lock();
    verdicts.retain(|uid, _| enrolled(agent, uid).is_some());
    let captured = verdicts.values().filter(|captured| **captured).count();
    agent
        .metrics
        .set_verified(captured, verdicts.len() - captured);
}

/// What is wrong with a captured pod.
async fn look(agent: &Agent, entry: &Entry) -> Vec<Fault> {
    match &entry.live {
        Some(live) => look_at(agent, &live.steering, &live.listeners).await,
        None => vec![Fault::new(
            Cause::Namespace,
            "the agent could not take the pod over",
        )],
    }
}

/// The parts, then, when all are in place, connections.
async fn look_at(agent: &Agent, steering: &PodSteering, listeners: &Listeners) -> Vec<Fault> {
    let unseen = |error: SteerError| Fault::new(Cause::Namespace, error.to_string());
    let mut faults = match steering.faults(listeners).await {
        Ok(faults) => faults,
        Err(error) => return vec![unseen(error)],
    };
    {
        let mut hook = agent.hook();
        if !hook.is_attached() {
            faults.push(Fault::new(
                Cause::Hook,
                "the connect hook is not attached to the cgroup root",
            ));
        }
        let known = hook.enrolled();
        if !known.is_ok_and(|known| known.contains(&steering.cookie())) {
            faults.push(Fault::new(
                Cause::Cookie,
                "the connect hook does not know the pod's namespace",
            ));
        }
    }
    if faults.is_empty() {
        faults = match steering.try_connections(agent.hooked).await {
            Ok(faults) => faults,
            Err(error) => vec![unseen(error)],
        };
    }
    faults
}

/// Verifies a pod whose enrolment is at its last step, and repairs what changed meanwhile.
///
/// Repeated for a while: the kernel makes an IPv6 address known before it is local (a work queue,
/// net/ipv6/addrconf.c, addrconf_dad_work), so that under load one of some hundred new pods does
/// not reach itself yet.
///
/// # Errors
/// The faults that are left.
pub(super) async fn confirm(
    agent: &Agent,
    record: &Record,
    steering: &PodSteering,
    listeners: &Listeners,
    latest: Instant,
) -> Result<(), Vec<Fault>> {
    let deadline = latest.min(Instant::now() + CONFIRM_WAIT);
    loop {
        let mut faults = look_at(agent, steering, listeners).await;
        if faults.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(faults);
        }
        if let Err(error) = mend(agent, steering, listeners, &record.ips).await {
            faults.push(Fault::new(Cause::Namespace, error.to_string()));
            return Err(faults);
        }
        tokio::time::sleep(CONFIRM_PAUSE).await;
    }
}

/// Verifies a pod that a call finds enrolled, and repairs it. The caller holds its turn. Gives what
/// was broken.
///
/// # Errors
/// The faults that are left.
pub(super) async fn assure(
    agent: &Arc<Agent>,
    uid: &str,
    latest: Instant,
) -> Result<Vec<Fault>, Vec<Fault>> {
    let deadline = latest.min(Instant::now() + CONFIRM_WAIT);
    let mut repaired: Option<Vec<Fault>> = None;
    while let Some(entry) = enrolled(agent, uid) {
        let mut faults = look(agent, &entry).await;
        if faults.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            return Err(faults);
        }
        let found = Fault::join(&faults);
        tracing::warn!(
            uid,
            found,
            "a call found the pod's capture broken, repairing it"
        );
        if let Err(error) = restore(agent, &entry).await {
            faults.push(Fault::new(Cause::Namespace, error.to_string()));
            return Err(faults);
        }
        repaired.get_or_insert(faults);
        tokio::time::sleep(CONFIRM_PAUSE).await;
    }
    let repaired = repaired.unwrap_or_default();
    let causes: BTreeSet<Cause> = repaired.iter().map(|fault| fault.cause).collect();
    causes
        .into_iter()
        .for_each(|cause| agent.metrics.repaired(cause));
    Ok(repaired)
}

/// Repairs a captured pod. The caller holds its turn.
async fn restore(agent: &Arc<Agent>, entry: &Entry) -> Result<(), SteerError> {
    match &entry.live {
        Some(live) if live.steering.is_pinned() => {
            mend(agent, &live.steering, &live.listeners, &entry.record.ips).await
        }
        _ => {
            let netns = netns_of(entry)
                .map_err(|gone| std::io::Error::other(format!("its namespace is {gone:?}")))?;
            recover::rebuild(agent, entry.record.clone(), netns).await
        }
    }
}

/// Every step of an enrolment again, in its order, where it is missing.
async fn mend(
    agent: &Agent,
    steering: &PodSteering,
    listeners: &Listeners,
    preferred: &[IpAddr],
) -> Result<(), SteerError> {
    steering.restore_listeners(listeners)?;
    // What they were before enrolment is in the record since then.
    steering.set_sysctls()?;
    steering.route(preferred).await?;
    if !steering.is_attached() {
        steering.attach()?;
    }
    let mut hook = agent.hook();
    hook.restore()?;
    hook.enrol(steering.cookie())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(causes: &[Cause]) -> Vec<Fault> {
        let fault = |cause: &Cause| Fault::new(*cause, "seen".to_owned());
        causes.iter().map(fault).collect()
    }

    #[test]
    fn looks_that_find_other_faults_each_do_not_make_a_pod_captured() {
        let connection = faults(&[Cause::Connection]);
        let both = faults(&[Cause::Rule, Cause::Connection]);
        let hook = faults(&[Cause::Hook]);
        assert_eq!(lasting(&connection, both), Ok(connection.clone()));
        assert_eq!(lasting(&connection, hook.clone()), Err(hook));
        assert_eq!(lasting(&connection, Vec::new()), Ok(Vec::new()));
    }
}
