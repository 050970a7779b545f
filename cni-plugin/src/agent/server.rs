//! The agent's own socket: calls of the plugin and of commands, one a connection.
//!
//! Checks who calls and what it hands over; what the calls do is elsewhere.

use std::sync::Arc;
use std::time::Duration;

use netio::netns::Netns;
use netio::seqpacket::{Conn, Listener};
use tokio::sync::Semaphore;

use super::enrol::{Outcome, Wanted};
use super::record::{Phase, Record};
use super::table::Entry;
use super::{Agent, enrol, release, verify};
use crate::message::{Answer, Failure, MAX_MESSAGE_BYTES, PodStatus, Request};
use crate::plugin::code;
use crate::steering::fault::Fault;

/// Calls at the same time. A node starts at most about a hundred pods at once; the rest waits in
/// the socket's backlog.
const CALLS: usize = 64;
/// Time for a caller to say what it wants, and to take the answer.
const TALK_TIMEOUT: Duration = Duration::from_secs(5);
/// Most descriptors in one call.
const FDS: usize = 1;
/// Longest wait that a caller may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Serves calls until the stop.
pub async fn run(agent: Arc<Agent>, listener: Listener) {
    let calls = Arc::new(Semaphore::new(CALLS));
    let stop = agent.tasks.stop();
    loop {
        let Ok(permit) = calls.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(conn) => {
                let agent_of_call = agent.clone();
                agent.tasks.spawn("call", async move {
                    serve(&agent_of_call, conn).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a call could not be accepted");
                tokio::time::sleep(TALK_TIMEOUT / 50).await;
            }
        }
    }
}

async fn serve(agent: &Arc<Agent>, conn: Conn) {
    match conn.peer_cred() {
        Ok(peer) if peer.uid == 0 => {}
        Ok(peer) => {
            tracing::warn!(
                uid = peer.uid,
                pid = peer.pid,
                "refused a caller that is not root"
            );
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "refused a caller that cannot be known");
            return;
        }
    }
    let received = tokio::time::timeout(TALK_TIMEOUT, conn.recv(MAX_MESSAGE_BYTES, FDS)).await;
    let message = match received {
        Ok(Ok(Some(message))) => message,
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => {
            tracing::warn!(%error, "refused a call");
            return;
        }
    };
    let answers = match serde_json::from_slice::<Request>(&message.bytes) {
        Ok(request) if is_abandoned(&conn, &request).await => {
            tracing::warn!("a call to capture a pod was not begun: its caller is gone");
            return;
        }
        Ok(request) => answer(agent, request, message.fds).await,
        Err(error) => vec![Answer::Failed(Failure {
            code: code::DECODE,
            msg: "the call cannot be read".into(),
            details: error.to_string(),
        })],
    };
    for answer in answers {
        let Ok(bytes) = serde_json::to_vec(&answer) else {
            return;
        };
        let sent = tokio::time::timeout(TALK_TIMEOUT, conn.send(&bytes, &[])).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!("a caller went before its answer");
            return;
        }
    }
}

/// Whether the caller of an ADD or enrol went while its call waited to be accepted, as it does when
/// the agent has no descriptor left. It was told that the call failed: nobody would use the pod,
/// and the runtime's DEL may have come and gone.
async fn is_abandoned(conn: &Conn, request: &Request) -> bool {
    let captures = matches!(request, Request::Add { .. } | Request::Enrol { .. });
    // A caller that waits says nothing more.
    let next = conn.recv(MAX_MESSAGE_BYTES, 0);
    captures
        && matches!(
            tokio::time::timeout(Duration::ZERO, next).await,
            Ok(Ok(None))
        )
}

async fn answer(
    agent: &Arc<Agent>,
    request: Request,
    fds: Vec<std::os::fd::OwnedFd>,
) -> Vec<Answer> {
    let (op, result) = match request {
        Request::Status => return status(agent),
        Request::Verify { uid, repair } => return verify::answer(agent, uid, repair).await,
        Request::Ready => ("status", ready(agent).await),
        Request::Del { container_id } => ("del", Ok(release::delete(agent, &container_id).await)),
        Request::Gc { keep } => ("gc", Ok(release::collect(agent, keep).await)),
        Request::Check { container_id } => ("check", check(agent, &container_id).await),
        Request::Unenrol { pod } => ("unenrol", release::unenrol(agent, &pod).await),
        Request::Add {
            pod,
            container_id,
            netns,
            ips,
            timeout_ms: _,
        } if agent.waypoints.iter().any(|all| all.owns(&container_id)) => {
            tracing::debug!(name = pod.name, %netns, ?ips, "a waypoint's own sandbox");
            let reason = "a waypoint that the agent runs".to_owned();
            (
                "add",
                Ok(Outcome {
                    enrolled: false,
                    reason,
                }),
            )
        }
        Request::Add {
            pod,
            container_id,
            netns,
            ips,
            timeout_ms,
        } => {
            let record = new_record(pod, container_id, netns, ips);
            (
                "add",
                capture(agent, record, timeout_ms, fds, Caller::Runtime).await,
            )
        }
        Request::Enrol {
            pod,
            netns,
            timeout_ms,
            close_existing,
        } => {
            let record = new_record(pod, String::new(), netns, Vec::new());
            let by = Caller::Command { close_existing };
            ("enrol", capture(agent, record, timeout_ms, fds, by).await)
        }
    };
    agent.metrics.call(op, result.is_ok());
    vec![match result {
        Ok(Outcome { enrolled, reason }) => Answer::Done { enrolled, reason },
        Err(failure) => {
            tracing::warn!(
                op,
                code = failure.code,
                msg = failure.msg,
                details = failure.details,
                "call failed"
            );
            Answer::Failed(failure)
        }
    }]
}

fn new_record(
    pod: crate::message::PodName,
    container_id: String,
    netns: String,
    ips: Vec<std::net::IpAddr>,
) -> Record {
    Record {
        pod,
        container_id,
        netns: Some(netns.into()),
        cookie: 0,
        given: ips.clone(),
        ips,
        phase: Phase::NotEnrolled,
        reason: String::new(),
        service_account: String::new(),
        sysctls_before: Default::default(),
        passed: None,
    }
}

/// Who wants a pod captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Runtime,
    Command { close_existing: bool },
}

async fn capture(
    agent: &Arc<Agent>,
    mut record: Record,
    timeout_ms: u64,
    mut fds: Vec<std::os::fd::OwnedFd>,
    by: Caller,
) -> Result<Outcome, Failure> {
    let wrong = |msg: &str, details: String| Failure {
        code: code::INVALID_ENV,
        msg: msg.to_owned(),
        details,
    };
    if let Some(mistake) = record.pod.mistake() {
        return Err(wrong("the pod's name is not one", mistake));
    }
    let Some(fd) = fds.pop() else {
        return Err(wrong("the call brings no network namespace", String::new()));
    };
    let netns = Netns::from_fd(fd)
        .map_err(|error| wrong("CNI_NETNS is no network namespace", error.to_string()))?;
    if netns == agent.home || agent.init.as_ref() == Some(&netns) {
        let details = "the agent's own, or that of process 1".to_owned();
        return Err(wrong(
            "CNI_NETNS is the node's own network namespace",
            details,
        ));
    }
    // A path of another mount namespace says nothing here: better none than a wrong one.
    let same = |path: &std::path::PathBuf| Netns::open(path).is_ok_and(|found| found == netns);
    record.netns = record.netns.take().filter(same);
    let timeout = Duration::from_millis(timeout_ms).min(LONGEST_WAIT);
    enrol::add(
        agent,
        Wanted {
            record,
            netns,
            timeout,
            by_command: by != Caller::Runtime,
            close_existing: by
                == Caller::Command {
                    close_existing: true,
                },
        },
    )
    .await
}

async fn ready(agent: &Agent) -> Result<Outcome, Failure> {
    let fail = |msg: &str| Failure {
        code: code::NOT_AVAILABLE,
        msg: msg.to_owned(),
        details: String::new(),
    };
    if !agent.hook().is_attached() {
        return Err(fail("the connect hook is not attached"));
    }
    if !agent.zds.ready(Duration::ZERO).await {
        return Err(fail("ztunnel is not connected"));
    }
    Ok(Outcome {
        enrolled: false,
        reason: "ready".into(),
    })
}

async fn check(agent: &Arc<Agent>, container_id: &str) -> Result<Outcome, Failure> {
    let fail = |code, msg: &str, details: String| Failure {
        code,
        msg: msg.to_owned(),
        details,
    };
    let found = agent
        .table
        .by_container(container_id)
        .and_then(|uid| agent.table.get(&uid));
    let Some(entry) = found else {
        let msg = "the node agent does not know this sandbox";
        return Err(fail(code::UNKNOWN_CONTAINER, msg, container_id.to_owned()));
    };
    let outcome = |enrolled| Outcome {
        enrolled,
        reason: entry.record.reason.clone(),
    };
    let Some(verdict) = verify::one(agent, &entry.record.pod.uid, false).await else {
        return Ok(outcome(false));
    };
    let faults = verdict.faults;
    if faults.is_empty() {
        return Ok(outcome(true));
    }
    Err(fail(
        code::BROKEN,
        "the pod's capture is broken",
        Fault::join(&faults),
    ))
}

fn status(agent: &Agent) -> Vec<Answer> {
    let entries = agent.table.all();
    let mut answers = vec![Answer::Status {
        node: agent.settings.node_name.clone(),
        ztunnels: agent.zds.status(),
        pods: entries.len(),
    }];
    answers.extend(entries.iter().map(pod_status).map(Answer::Pod));
    answers
}

fn pod_status(entry: &Entry) -> PodStatus {
    let record = &entry.record;
    let counters = entry
        .live
        .as_ref()
        .and_then(|live| live.steering.counters().ok());
    PodStatus {
        pod: record.pod.clone(),
        ips: record.ips.clone(),
        phase: record.phase.name().to_owned(),
        reason: record.reason.clone(),
        container_id: record.container_id.clone(),
        netns: record
            .netns
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        cookie: record.cookie,
        counters: counters.unwrap_or_default(),
    }
}
