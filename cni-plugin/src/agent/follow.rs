//! Keeps a captured pod's addresses right: what the kernel says of them changes the program's map
//! and the routes at once, and the control plane's picture soon after.
//!
//! The kernel is listened to from before an enrolment (or a takeover) looks at the addresses, so
//! that no change falls between, and no look is made without one.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Agent;
use super::record::Phase;
use crate::steering::watch::AddressWatch;

/// Changes come in bursts (address, then its routes); one look per burst.
const SETTLE: Duration = Duration::from_millis(50);

/// Pauses before the kernel is asked again, when it stopped to tell (its buffer ran over) or cannot
/// be asked: doubled at each attempt, and short again after a time that is longer than the longest.
#[derive(Clone, Copy, Debug)]
struct Pauses {
    first: Duration,
    longest: Duration,
}

const PAUSES: Pauses = Pauses {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(30),
};

/// Follows until the stop. A loss of the kernel's messages is logged and ends in a new look.
/// `watch` was made before the pod's addresses were looked at.
pub async fn run(
    agent: Arc<Agent>,
    uid: String,
    watch: io::Result<AddressWatch>,
    stop: CancellationToken,
) {
    let process_stop = agent.tasks.stop();
    let mut first = Some(watch);
    let once = || {
        let (agent, uid, watch) = (agent.clone(), uid.clone(), first.take());
        async move { follow(&agent, &uid, watch).await }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = process_stop.cancelled() => {}
        _ = restarted(&uid, PAUSES, once) => {}
    }
}

/// Runs `once` again whenever it ends, with the reason that it gives.
async fn restarted<F, W>(uid: &str, pauses: Pauses, mut once: F) -> Infallible
where
    F: FnMut() -> W,
    W: Future<Output = String>,
{
    let mut pause = pauses.first;
    loop {
        let started = Instant::now();
        let reason = once().await;
        if started.elapsed() > pauses.longest {
            pause = pauses.first;
        }
        tracing::warn!(
            uid,
            reason,
            ?pause,
            "address changes of the pod are not followed; beginning again after the pause"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(pauses.longest);
    }
}

/// Follows until the namespace's socket is lost; tells why.
async fn follow(agent: &Agent, uid: &str, first: Option<io::Result<AddressWatch>>) -> String {
    let (watch, is_new) = match first {
        Some(watch) => (watch, false),
        None => {
            let Some(live) = agent.table.get(uid).and_then(|entry| entry.live) else {
                return "the pod is not captured any more".into();
            };
            (AddressWatch::new(live.steering.netns()), true)
        }
    };
    let watch = match watch {
        Ok(watch) => watch,
        Err(error) => return format!("no netlink socket in the pod's namespace: {error}"),
    };
    if is_new {
        // What changed while nobody listened.
        look(agent, uid).await;
    }
    loop {
        if let Err(error) = watch.changed().await {
            return format!("the kernel's socket was lost: {error}");
        }
        tokio::time::sleep(SETTLE).await;
        look(agent, uid).await;
    }
}

/// Looks at the addresses. Its state is kept while it runs only: a follower waits nearly always.
async fn look(agent: &Agent, uid: &str) {
    Box::pin(refresh(agent, uid)).await;
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
        // As it is between a runtime's DEL that met no agent and the end of the namespace.
        Ok(ips) if ips.is_empty() => tracing::warn!(uid, "the pod has no address"),
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    type Run<F> = fn(Arc<Agent>, String, io::Result<AddressWatch>, CancellationToken) -> F;

    /// Of the future that [`run`] makes, which has no name.
    fn size<F>(_: Run<F>) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_follower_that_waits_is_small() {
        let size = size(run);
        assert!(size <= 1024, "{size} bytes for each captured pod");
    }

    #[tokio::test]
    async fn a_watch_that_ends_begins_again_with_pauses_that_grow_to_their_bound() {
        let pauses = Pauses {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(4),
        };
        let (attempts, fourth) = (AtomicUsize::new(0), tokio::sync::Notify::new());
        let once = || async {
            if attempts.fetch_add(1, Ordering::Relaxed) == 3 {
                fourth.notify_one();
            }
            "the test ends it".to_owned()
        };
        let started = Instant::now();
        tokio::select! {
            _ = restarted("u", pauses, once) => {}
            () = fourth.notified() => {}
        }
        assert!(attempts.load(Ordering::Relaxed) >= 4);
        let least = pauses.first * 3;
        assert!(started.elapsed() >= least, "without pauses");
    }
}
