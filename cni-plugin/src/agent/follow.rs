//! Keeps a captured pod's addresses right: what the kernel says of them changes the program's map
//! and the routes at once, and the control plane's picture soon after.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use netio::netns::Netns;
use tokio_util::sync::CancellationToken;

use super::Agent;
use super::record::Phase;
use crate::steering::routes::AddressWatch;

/// Changes come in bursts (address, then its routes); one look per burst.
const SETTLE: Duration = Duration::from_millis(50);

/// Follows until the stop, or until the namespace's socket is lost.
pub async fn run(agent: Arc<Agent>, uid: String, netns: Netns, stop: CancellationToken) {
    let (mut watch, driver) = match AddressWatch::new(&netns) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(uid, %error, "address changes of the pod will not be followed");
            return;
        }
    };
    // Its socket would keep the namespace alive as long as this task.
    drop(netns);
    let process_stop = agent.tasks.stop();
    let work = async {
        // What changed between the enrolment's look and the subscription.
        refresh(&agent, &uid).await;
        while watch.changed().await {
            tokio::time::sleep(SETTLE).await;
            refresh(&agent, &uid).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = process_stop.cancelled() => {}
        () = pin!(driver) => {}
        () = work => {}
    }
}

async fn refresh(agent: &Agent, uid: &str) {
    let _turn = agent.table.lock(uid).await;
    let Some(mut entry) = agent.table.get(uid) else {
        return;
    };
    let Some(live) = &entry.live else { return };
    let routed = matches!(entry.record.phase, Phase::Enrolled | Phase::Leaving);
    let result = match routed {
        true => live.steering.route(&entry.record.ips).await,
        false => live.steering.fill_addresses(&entry.record.ips).await,
    };
    match result {
        Ok(ips) if ips == entry.record.ips => {}
        Ok(ips) => {
            let before = &entry.record.ips;
            tracing::info!(uid, ?before, now = ?ips, "the pod's addresses changed");
            entry.record.ips = ips;
            if let Err(error) = agent.state.save(&entry.record) {
                tracing::warn!(uid, %error, "the record could not be renewed");
            }
            agent.table.put(entry);
            agent.reporter.changed();
        }
        Err(error) => tracing::error!(uid, %error, "the pod's addresses could not be followed"),
    }
}
