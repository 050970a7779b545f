//! When the slots of a pod that was taken over get its new listeners.
//!
//! ztunnel accepts from those of the agent before until it has connected to this one, up to 2 s
//! after its start. A slot that got its new listener earlier would lead connections to a socket
//! that only this agent holds: if the agent dies, they are lost, and later ones refused. So a slot
//! whose listener lives keeps it until a ztunnel has acknowledged the new one; a slot whose
//! listener is gone, with the ztunnel that held it, gets the new one at once, and connections wait
//! in that.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Agent;

/// How long slots wait for an acknowledgement. A ztunnel that lost its agent is there again within
/// 2 s, and gives each answer within 5; one that hangs does not keep connections for ever.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// Pause between two looks for listeners that ended with their ztunnel.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Ends when all slots hold the listeners of this agent.
pub async fn run(agent: Arc<Agent>, stop: CancellationToken) {
    let mut acks = agent.zds.watch_acks();
    let deadline = Instant::now() + ACK_WAIT;
    let mut next_look = Instant::now();
    loop {
        acks.mark_unchanged();
        let now = Instant::now();
        let ended = now >= next_look;
        if ended {
            next_look = now + LOOK_PAUSE;
        }
        if !renew(&agent, now >= deadline, ended) {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            // The sender is the agent's own.
            _ = acks.changed() => {}
            () = tokio::time::sleep_until(next_look) => {}
        }
    }
}

/// Fills the slots of pods that a ztunnel has acknowledged, or of all when it is `late`; with
/// `ended` also those whose listener is no more. Whether there are others.
fn renew(agent: &Agent, late: bool, ended: bool) -> bool {
    let mut others = false;
    for entry in agent.table.all() {
        let Some(live) = entry.live.filter(|live| live.steering.has_left_slots()) else {
            continue;
        };
        let uid = entry.record.pod.uid.as_str();
        let acked = agent.zds.has_acked(uid);
        let result = match (acked || late, ended) {
            (true, _) => live.steering.take_slots(&live.listeners),
            (false, true) => live.steering.restore_listeners(&live.listeners),
            (false, false) => Ok(()),
        };
        if late && !acked {
            tracing::warn!(
                uid,
                "no ztunnel took the pod's new listeners; they are in use now"
            );
        }
        if let Err(error) = result {
            // The next verification tries again.
            tracing::error!(uid, %error, "the pod's new listeners are not in their slots");
        }
        others |= live.steering.has_left_slots();
    }
    others
}
