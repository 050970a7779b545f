//! Tells the control plane which pods are on this node: all of them, at each change and every five
//! seconds, so that a restarted control plane learns them again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::record::Phase;
use super::{Agent, verify};
use crate::waypoint::Waypoints;

/// Pause between two reports when nothing changes.
const INTERVAL: Duration = Duration::from_secs(5);

/// Callers that may wait for a report: as many as un-enrol at the same moment.
const WAITING: usize = 64;

/// How long [`Reporter::now`] waits: connecting takes up to 5 s, the acknowledgements 5 s.
const NOW_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks for reports. Clones are handles.
#[derive(Clone, Debug)]
pub struct Reporter {
    changed: Arc<Notify>,
    now: mpsc::Sender<Now>,
}

/// A report that somebody waits for.
#[derive(Debug)]
pub struct Now {
    wait_for_acks: bool,
    done: oneshot::Sender<bool>,
}

/// What [`run`] listens to.
#[derive(Debug)]
pub struct Requests {
    changed: Arc<Notify>,
    now: mpsc::Receiver<Now>,
}

impl Reporter {
    /// A reporter and what its task needs.
    pub fn new() -> (Self, Requests) {
        let changed = Arc::new(Notify::new());
        let (now, requests) = mpsc::channel(WAITING);
        (
            Self {
                changed: changed.clone(),
                now,
            },
            Requests {
                changed,
                now: requests,
            },
        )
    }

    /// Something changed: report soon.
    pub fn changed(&self) {
        self.changed.notify_one();
    }

    /// Reports, and waits until the control plane has taken it, with `wait_for_acks` until all
    /// proxies have, 10 s at most. Gives whether they have; the report is repeated if not.
    pub async fn now(&self, wait_for_acks: bool) -> bool {
        let (done, taken) = oneshot::channel();
        let ask = async {
            self.now
                .send(Now {
                    wait_for_acks,
                    done,
                })
                .await
                .ok()?;
            taken.await.ok()
        };
        matches!(tokio::time::timeout(NOW_TIMEOUT, ask).await, Ok(Some(true)))
    }
}

/// Reports until the stop. Only one report is on its way at a time, so that an older state never
/// overtakes a newer one.
pub async fn run(agent: Arc<Agent>, mut requests: Requests, stop: CancellationToken) {
    let mut reached = None;
    loop {
        let now = tokio::select! {
            () = stop.cancelled() => return,
            now = requests.now.recv() => now,
            () = requests.changed.notified() => None,
            () = tokio::time::sleep(INTERVAL) => None,
        };
        let acks = now.as_ref().is_some_and(|now| now.wait_for_acks);
        let mut pods = agent.table.report();
        pods.extend(agent.waypoints.iter().flat_map(Waypoints::report));
        let result = tokio::select! {
            () = stop.cancelled() => return,
            result = agent.control.report(&pods, acks) => result,
        };
        note(&agent, &mut reached, &result);
        if let Some(now) = now {
            // The caller may have given up.
            let _ = now.done.send(matches!(result, Ok(true)));
        }
    }
}

/// Counts every failure, logs only changes: a control plane may be away for hours.
fn note(agent: &Agent, reached: &mut Option<bool>, result: &Result<bool, String>) {
    for phase in Phase::ALL {
        agent.metrics.set_pods(phase, agent.table.count(phase));
    }
    verify::publish(agent);
    agent
        .metrics
        .control_plane_reached
        .set(i64::from(result.is_ok()));
    match result {
        Ok(_) => {
            if *reached != Some(true) {
                tracing::info!("the control plane knows this node's pods");
            }
            *reached = Some(true);
        }
        Err(reason) => {
            agent.metrics.failed_reports.inc();
            if *reached != Some(false) {
                tracing::warn!(reason, "the control plane does not take reports; trying on");
            }
            *reached = Some(false);
        }
    }
}
