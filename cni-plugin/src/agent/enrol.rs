//! The way of a pod into the mesh: who it is, then steering in the order of `steering.md`, and
//! back again when a step fails.
//!
//! ```text
//!  (unknown) --ADD--> not_enrolled            the control plane says no
//!  (unknown) --ADD--> enrolling --> enrolled  listeners, program, ztunnel's ack, sysctls and
//!                         |                   rules, link (inbound starts), cookie
//!                         |                   (outbound), verification
//!                         +--> (unknown)      a step failed, the caller's time was over, or a
//!                                             DEL came: all is undone
//! ```

mod failure;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use netio::netns::Netns;
use proto::zds::PodInfo;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::call::{Call, Ended};
use super::describe::describe;
use super::record::{Phase, Record};
use super::table::{Entry, Live};
use super::{Agent, existing, follow, verify};
use crate::message::Failure;
use crate::plugin::code;
use crate::steering::connections::Connection;
use crate::steering::fault::Fault;
use crate::steering::pod::unroute;
use crate::steering::pod::{Listeners, PodSteering, SteerError};
use crate::steering::program;
use crate::steering::watch::AddressWatch;
use crate::zds::{HandError, HandedPod};
use failure::{StepError, busy, foreign, unusable};

/// How much before the caller's deadline the agent answers, so that its reason arrives.
const ANSWER_EARLY: Duration = Duration::from_millis(500);
/// How long an enrolment waits for a ztunnel: one that lost its agent connects again within it.
const ZTUNNEL_WAIT: Duration = Duration::from_secs(3);
/// How long an ADD waits for the report of its pod. Not needed for safety: it is repeated.
const REPORT_WAIT: Duration = Duration::from_secs(2);

/// What a caller asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Who, where and since when; phase and cookie are filled in here.
    pub record: Record,
    /// The pod's namespace.
    pub netns: Netns,
    /// When the caller stops waiting.
    pub timeout: Duration,
    /// Capture it even if the control plane would not.
    pub by_command: bool,
    /// Close the connections from before.
    pub close_existing: bool,
}

/// How a call ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the pod is captured now.
    pub enrolled: bool,
    /// Why (not).
    pub reason: String,
}

/// ADD and the enrol command.
///
/// # Errors
/// [`Failure`]; the pod is then as it was before.
pub async fn add(agent: &Arc<Agent>, wanted: Wanted) -> Result<Outcome, Failure> {
    let deadline = Instant::now() + wanted.timeout.saturating_sub(ANSWER_EARLY);
    let pod = wanted.record.pod.clone();
    let container = wanted.record.container_id.as_str();
    let call = agent.calls.begin(&pod.uid, container, deadline);
    let turn = call.within(agent.table.lock(&pod.uid)).await;
    let _turn = turn.map_err(|ended| busy(&pod, ended))?;
    let cookie = wanted.netns.cookie().map_err(|error| unusable(&error))?;
    if let Some(holder) = agent.table.holder(cookie, &pod.uid) {
        return Err(foreign(&pod, &holder));
    }
    let known = agent
        .table
        .get(&pod.uid)
        .filter(|entry| entry.record.cookie == cookie);
    if wanted.close_existing {
        let phase = known.as_ref().map(|entry| entry.record.phase);
        existing::check(&pod, phase)?;
    }
    match &known {
        Some(entry) if entry.record.phase == Phase::Enrolled => {
            return already(agent, entry.clone(), &wanted.record, &call).await;
        }
        Some(entry) if entry.record.phase == Phase::Leaving => {
            return again(agent, entry.clone(), &call).await;
        }
        Some(_) => {}
        // Another sandbox of the same pod, whose DEL is still to come.
        None => super::release::forget(agent, &pod.uid).await,
    }
    first(
        agent,
        Record {
            cookie,
            ..wanted.record.clone()
        },
        wanted,
        known,
        &call,
    )
    .await
}

/// A pod that is not captured. It is in the table before the first step, so that every look there
/// finds it: a DEL by its sandbox, another uid by its namespace.
async fn first(
    agent: &Arc<Agent>,
    mut record: Record,
    wanted: Wanted,
    known: Option<Entry>,
    call: &Call,
) -> Result<Outcome, Failure> {
    let pod = record.pod.clone();
    if let (true, Some(entry)) = (record.container_id.is_empty(), &known) {
        record.container_id = entry.record.container_id.clone();
        record.ips = entry.record.ips.clone();
        // A command names a pod of the runtime: the runtime's word stays. It names one that only
        // commands know: the operator means the pod as it is.
        if !record.container_id.is_empty() {
            record.given = entry.record.given.clone();
        }
    }
    record.phase = Phase::Enrolling;
    let entry = Entry {
        record: record.clone(),
        live: None,
    };
    let abandoned = agent.table.claim(entry);
    for uid in abandoned.map_err(|holder| foreign(&pod, &holder))? {
        if let Err(error) = agent.state.remove(&uid) {
            tracing::error!(uid, %error, "the record of a pod that was named by command stays");
        }
    }
    let described = match call.within(describe(agent, &pod, call.deadline)).await {
        Ok(Ok(described)) => described,
        failed => {
            agent.table.take(&pod.uid);
            known.into_iter().for_each(|entry| agent.table.put(entry));
            return Err(match failed {
                Ok(Err(failure)) => failure,
                _ => StepError::from(Ended::Deleted).failure(&pod),
            });
        }
    };
    record.service_account = described.service_account;
    record.reason = described.reason;
    if wanted.by_command {
        record.reason = "enrolled by command".into();
    } else if !described.enrol {
        return pass(agent, record);
    }
    record.passed = known.and_then(|entry| match entry.record.phase {
        Phase::NotEnrolled => Some(entry.record.reason),
        _ => entry.record.passed,
    });
    enrol(agent, record, wanted.netns, wanted.close_existing, call).await
}

/// A repeated ADD, or one by another sandbox name, for a pod that is captured: that it is so is
/// verified, and repaired where it is not.
async fn already(
    agent: &Arc<Agent>,
    mut entry: Entry,
    wanted: &Record,
    call: &Call,
) -> Result<Outcome, Failure> {
    let pod = entry.record.pod.clone();
    if !wanted.container_id.is_empty() {
        entry.record.container_id = wanted.container_id.clone();
    }
    if !wanted.given.is_empty() {
        entry.record.given = wanted.given.clone();
    }
    if let Err(error) = agent.state.save(&entry.record) {
        tracing::warn!(uid = pod.uid, %error, "the record could not be renewed");
    }
    agent.table.put(entry);
    let repaired = verify::assure(agent, &pod.uid, call.deadline).await;
    let repaired = repaired.map_err(|faults| StepError::Unproven(faults).failure(&pod))?;
    let reason = match repaired.is_empty() {
        true => "it was enrolled already".to_owned(),
        false => format!(
            "it was enrolled already; repaired: {}",
            Fault::join(&repaired)
        ),
    };
    Ok(Outcome {
        enrolled: true,
        reason,
    })
}

/// A pod that the mesh leaves alone: remembered, reported, passed.
///
/// # Errors
/// [`Failure`] when its record cannot be written.
pub(super) fn pass(agent: &Agent, mut record: Record) -> Result<Outcome, Failure> {
    record.phase = Phase::NotEnrolled;
    record.passed = None;
    let pod = record.pod.clone();
    let reason = record.reason.clone();
    agent
        .state
        .save(&record)
        .map_err(|error| StepError::from(error).failure(&pod))?;
    agent.table.put(Entry { record, live: None });
    agent.reporter.changed();
    tracing::info!(
        uid = pod.uid,
        namespace = pod.namespace,
        pod = pod.name,
        reason,
        "pod left alone"
    );
    Ok(Outcome {
        enrolled: false,
        reason,
    })
}

/// Steers a pod that is not steered. The caller holds its turn.
async fn enrol(
    agent: &Arc<Agent>,
    mut record: Record,
    netns: Netns,
    close: bool,
    call: &Call,
) -> Result<Outcome, Failure> {
    let pod = record.pod.clone();
    let started = Instant::now();
    let before = match steps(agent, &mut record, &netns, call).await {
        Ok(before) => before,
        Err(error) => {
            tracing::error!(
                uid = pod.uid, namespace = pod.namespace, pod = pod.name, %error,
                "enrolment failed, undoing it"
            );
            back(agent, record, &netns).await;
            return Err(error.failure(&pod));
        }
    };
    tracing::info!(
        uid = pod.uid, namespace = pod.namespace, pod = pod.name, ips = ?record.ips,
        took = ?started.elapsed(), reason = record.reason, "pod enrolled"
    );
    let report = tokio::time::timeout(REPORT_WAIT, agent.reporter.now(false));
    if call.within(report).await != Ok(Ok(true)) {
        tracing::warn!(
            uid = pod.uid,
            "the control plane was not told yet that it is enrolled"
        );
    }
    let existing = existing::settle(agent, &pod, &netns, &before, close)?;
    Ok(Outcome {
        enrolled: true,
        reason: format!("{}{existing}", record.reason),
    })
}

/// All steps; gives the connections that were there before.
async fn steps(
    agent: &Arc<Agent>,
    record: &mut Record,
    netns: &Netns,
    call: &Call,
) -> Result<Vec<Connection>, StepError> {
    call.check()?;
    record.phase = Phase::Enrolling;
    agent.state.save(record)?;
    let uid = record.pod.uid.clone();
    done(&uid, "recorded");
    let dir = agent.pod_dir(&record.pod.uid);
    let (steering, listeners) = load(&dir, netns, true)
        .await
        .map_err(StepError::at("listeners and program"))?;
    done(&uid, "listeners and program");
    let watch = AddressWatch::new(netns);
    call.within(steering.settle())
        .await?
        .map_err(StepError::at("addresses"))?;
    record.ips = steering
        .fill_addresses(&record.ips)
        .await
        .map_err(StepError::at("addresses"))?;
    if record.given.is_empty() {
        record.given = record.ips.clone();
    }
    done(&uid, "addresses");
    hand(agent, handed(record, netns, &listeners), call).await?;
    done(&uid, "ztunnel's acknowledgement");
    let before = existing::find(netns, &record.ips);
    capture(agent, record, &steering, &listeners, call).await?;
    keep(agent, record.clone(), steering, listeners, watch);
    Ok(before)
}

/// Hands a pod to ztunnel. A caller whose time is over learns that it was ztunnel it waited for.
async fn hand(agent: &Agent, pod: Arc<HandedPod>, call: &Call) -> Result<(), StepError> {
    match call.within(agent.zds.ready(ZTUNNEL_WAIT)).await {
        Ok(true) => {}
        Ok(false) | Err(Ended::Late) => return Err(HandError::NotConnected.into()),
        Err(ended) => return Err(ended.into()),
    }
    match call.within(agent.zds.add(pod)).await {
        Ok(handed) => Ok(handed?),
        Err(Ended::Late) => Err(HandError::Unanswered.into()),
        Err(ended) => Err(ended.into()),
    }
}

/// Tells how far an enrolment is. Whatever ends the process here, the next agent finds the record
/// and undoes or renews all of it; tests/cut.rs cuts at each of these.
fn done(uid: &str, step: &'static str) {
    tracing::debug!(uid, step, "enrolment step done");
}

/// The steps after ztunnel's acknowledgement.
async fn capture(
    agent: &Agent,
    record: &mut Record,
    steering: &PodSteering,
    listeners: &Listeners,
    call: &Call,
) -> Result<(), StepError> {
    call.check()?;
    let uid = record.pod.uid.clone();
    if record.sysctls_before.is_empty() {
        record.sysctls_before = steering.read_sysctls().map_err(StepError::at("sysctls"))?;
        // Before they are set: whoever undoes this after a crash restores them.
        agent.state.save(record)?;
    }
    done(&uid, "sysctls recorded");
    steering.set_sysctls().map_err(StepError::at("sysctls"))?;
    done(&uid, "sysctls");
    record.ips = steering
        .route(&record.ips)
        .await
        .and_then(|ips| {
            if ips.is_empty() {
                Err(SteerError::NoAddress)
            } else {
                Ok(ips)
            }
        })
        .map_err(StepError::at("rules and routes"))?;
    done(&uid, "rules and routes");
    steering.attach().map_err(StepError::at("attaching"))?;
    done(&uid, "link");
    agent.hook().enrol(steering.cookie())?;
    done(&uid, "cookie");
    verify::confirm(agent, record, steering, listeners, call.deadline)
        .await
        .map_err(StepError::Unproven)?;
    done(&uid, "verification");
    call.check()?;
    record.phase = Phase::Enrolled;
    record.passed = None;
    agent.state.save(record)?;
    done(&uid, "recorded as enrolled");
    Ok(())
}

/// Makes listeners and loads the program; `fresh` throws away what an earlier namespace left.
pub(super) async fn load(
    dir: &Path,
    netns: &Netns,
    fresh: bool,
) -> Result<(PodSteering, Arc<Listeners>), SteerError> {
    let (dir, netns) = (dir.to_owned(), netns.clone());
    let work = move || {
        if fresh {
            program::unpin(&dir)?;
        }
        let listeners = Listeners::make(&netns)?;
        let steering = PodSteering::load(&dir, &netns, &listeners)?;
        Ok((steering, Arc::new(listeners)))
    };
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(SteerError::CutOff))
}

pub(super) fn handed(record: &Record, netns: &Netns, listeners: &Arc<Listeners>) -> Arc<HandedPod> {
    Arc::new(HandedPod {
        uid: record.pod.uid.clone(),
        info: PodInfo {
            name: record.pod.name.clone(),
            namespace: record.pod.namespace.clone(),
            service_account: record.service_account.clone(),
        },
        netns: netns.clone(),
        listeners: listeners.clone(),
    })
}

/// Puts a captured pod into the table and follows its addresses: what `watch` tells of came after
/// the steering was made for those it had.
pub(super) fn keep(
    agent: &Arc<Agent>,
    record: Record,
    steering: PodSteering,
    listeners: Arc<Listeners>,
    watch: io::Result<AddressWatch>,
) {
    let stop = CancellationToken::new();
    let uid = record.pod.uid.clone();
    let live = Arc::new(Live {
        steering,
        listeners,
        _follower: stop.clone().drop_guard(),
    });
    agent.table.put(Entry {
        record,
        live: Some(live),
    });
    let follower = follow::run(agent.clone(), uid, watch, stop);
    agent.tasks.spawn("address follower", follower);
}

/// Captures a pod again whose un-enrolment has not ended: its proxy and program are still there.
async fn again(agent: &Arc<Agent>, mut entry: Entry, call: &Call) -> Result<Outcome, Failure> {
    let pod = entry.record.pod.clone();
    let Some(live) = entry.live.clone() else {
        let details = "the agent was restarted while the pod was leaving; try again when its \
                       captured connections have ended"
            .to_owned();
        let msg = format!("pod {}/{} is leaving", pod.namespace, pod.name);
        return Err(Failure {
            code: code::TRY_LATER,
            msg,
            details,
        });
    };
    entry.record.passed = Some(entry.record.reason.clone());
    let parts = (&live.steering, &live.listeners);
    let captured = capture(agent, &mut entry.record, parts.0, parts.1, call).await;
    if let Err(error) = captured {
        back(agent, entry.record, live.steering.netns()).await;
        return Err(error.failure(&pod));
    }
    let reason = entry.record.reason.clone();
    agent.table.put(entry);
    agent.reporter.changed();
    tracing::info!(uid = pod.uid, "pod enrolled again");
    Ok(Outcome {
        enrolled: true,
        reason,
    })
}

/// Takes back every step. Whoever was known before stays known.
pub(super) async fn back(agent: &Agent, mut record: Record, netns: &Netns) {
    undo(agent, &record, netns).await;
    let Some(reason) = record.passed.take() else {
        return;
    };
    record.reason = reason;
    record.sysctls_before.clear();
    if let Err(failure) = pass(agent, record) {
        tracing::error!(details = failure.details, "a pod is known no more");
    }
}

/// Takes back every step, in reverse, whichever were made. Goes on where one fails.
async fn undo(agent: &Agent, record: &Record, netns: &Netns) {
    let uid = record.pod.uid.as_str();
    agent.table.take(uid);
    agent.withdraw(record.cookie);
    if let Err(error) = program::unpin(&agent.pod_dir(uid)) {
        tracing::error!(uid, %error, "undoing: the program stays pinned");
    }
    if let Err(error) = unroute(netns, &record.sysctls_before).await {
        tracing::error!(uid, %error, "undoing: rules or sysctls stay in the pod");
    }
    agent.zds.delete(uid).await;
    if let Err(error) = agent.state.remove(uid) {
        tracing::error!(uid, %error, "undoing: the record stays");
    }
    agent.reporter.changed();
}
