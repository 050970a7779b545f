//! What a started agent does with what it finds: the records, the pins and the hook's maps of the
//! agent before it.
//!
//! Pinned programs went on steering meanwhile. Captured pods get new listeners, which ztunnel gets
//! at its next snapshot, and which take the place of the old ones then ([`super::slots`]); what
//! was cut off in the middle of an enrolment is undone; what belongs to no living pod is removed.
//! A pod whose record cannot be read stays captured as it is: it fails closed until an ADD or enrol
//! makes it whole.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use netio::netns::Netns;

use super::record::{Phase, Record};
use super::release::{Gone, drop_steering, leave, open_same};
use super::table::Entry;
use super::{Agent, enrol};
use crate::message::is_id;
use crate::steering::pod::SteerError;
use crate::steering::program;
use crate::steering::watch::AddressWatch;
use crate::zds::{HandedPod, Known};

/// Name of the hook's directory beside those of the pods.
pub const NODE_DIR: &str = "node";

/// Takes over everything. Nothing is served and nothing reported before it ends.
///
/// # Errors
/// When the state directory or bpffs cannot be read: an agent that does not know its pods must not
/// say that there are none.
pub async fn all(agent: &Arc<Agent>) -> io::Result<()> {
    let loaded = agent.state.load()?;
    let found = loaded.records.len();
    let unreadable = loaded.unreadable;
    let count = i64::try_from(unreadable.len()).unwrap_or(i64::MAX);
    agent.metrics.unreadable_records.set(count);
    let pinned = |uid: &&String| is_id(uid) && agent.pod_dir(uid).is_dir();
    for uid in unreadable.iter().filter(pinned) {
        tracing::error!(
            uid,
            "the pod's record is unreadable: its capture stays as it is, and may have no listener"
        );
        agent.zds.remember(uid, Known::Kept);
    }
    for record in loaded.records {
        one(agent, record).await;
    }
    sweep_pins(agent, &unreadable)?;
    match unreadable.is_empty() {
        true => sweep_hook(agent),
        false => tracing::error!(
            count,
            "records are unreadable: no namespace is withdrawn from the hook, some are theirs"
        ),
    }
    let enrolled = agent.table.count(Phase::Enrolled);
    tracing::info!(
        found,
        enrolled,
        known = agent.table.all().len(),
        "took over what was pinned"
    );
    Ok(())
}

async fn one(agent: &Arc<Agent>, record: Record) {
    let uid = record.pod.uid.clone();
    let netns = match open_same(&record) {
        Ok(netns) => netns,
        Err(Gone::Vanished) => {
            tracing::info!(uid, "the pod went while no agent ran");
            drop_steering(agent, &record);
            return;
        }
        Err(Gone::Unreachable) => {
            tracing::warn!(
                uid, path = ?record.netns,
                "the pod's namespace cannot be opened from here; it stays as it is until its DEL"
            );
            if matches!(record.phase, Phase::Enrolled | Phase::Leaving) {
                agent.zds.remember(&uid, Known::Kept);
            }
            agent.table.put(Entry { record, live: None });
            return;
        }
    };
    match record.phase {
        Phase::NotEnrolled => agent.table.put(Entry { record, live: None }),
        Phase::Enrolling => {
            tracing::warn!(uid, "an enrolment was cut off, undoing it");
            enrol::back(agent, record, &netns).await;
        }
        Phase::Leaving => {
            agent.zds.remember(&uid, Known::Kept);
            agent.table.put(Entry { record, live: None });
            agent.tasks.spawn("leaving pod", leave(agent.clone(), uid));
        }
        Phase::Enrolled => {
            if let Err(error) = captured(agent, record.clone(), netns).await {
                tracing::error!(
                    uid, %error, "the pod's capture could not be renewed; it fails closed"
                );
                agent.zds.remember(&uid, Known::Kept);
                agent.table.put(Entry { record, live: None });
            }
        }
    }
}

/// Renews a pod's capture while ztunnels are connected: they get the new listeners.
pub(super) async fn rebuild(
    agent: &Arc<Agent>,
    record: Record,
    netns: Netns,
) -> Result<(), SteerError> {
    let uid = record.pod.uid.clone();
    let before = agent.table.get(&uid).and_then(|entry| entry.live);
    // What took the pod's pins, such as an unmounted bpffs, may have taken the hook's too.
    agent.hook().restore()?;
    let handed = captured(agent, record, netns).await?;
    if let Err(error) = agent.zds.add(handed.clone()).await {
        tracing::warn!(uid, %error, "no ztunnel took the pod's new listeners");
        // One that connects later gets them in its snapshot.
        agent.zds.remember(&uid, Known::Handed(handed));
    }
    if let Some(live) = agent.table.get(&uid).and_then(|entry| entry.live) {
        live.steering.take_slots(&live.listeners)?;
    }
    // Until here both steered: the older one, unless its pin was all that was wrong, by maps that
    // nobody can reach any more.
    before.map_or(Ok(()), |before| before.steering.give_way())
}

/// Renews every part of a pod's capture over what is pinned.
async fn captured(
    agent: &Arc<Agent>,
    mut record: Record,
    netns: Netns,
) -> Result<Arc<HandedPod>, SteerError> {
    let dir = agent.pod_dir(&record.pod.uid);
    let (steering, listeners) = enrol::load(&dir, &netns, false).await?;
    let watch = AddressWatch::new(&netns);
    steering.set_sysctls()?;
    if record.given.is_empty() {
        // Of an agent that did not know the difference.
        record.given = record.ips.clone();
    }
    let ips = steering.route(&record.ips).await?;
    if !ips.is_empty() {
        record.ips = ips;
    }
    steering.attach()?;
    agent.hook().enrol(steering.cookie())?;
    let handed = enrol::handed(&record, &netns, &listeners);
    let known = Known::Handed(handed.clone());
    agent.zds.remember(&record.pod.uid, known);
    enrol::keep(agent, record, steering, listeners, watch);
    Ok(handed)
}

/// Removes the pins of pods that nobody knows.
fn sweep_pins(agent: &Agent, unreadable: &BTreeSet<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(&agent.settings.bpffs)? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        let is_pod = entry.file_type()?.is_dir() && name != NODE_DIR;
        if is_pod && !unreadable.contains(&name) && agent.table.get(&name).is_none() {
            tracing::info!(uid = name, "removing the pins of an unknown pod");
            if let Err(error) = program::unpin(&entry.path()) {
                tracing::error!(uid = name, %error, "they stay");
            }
        }
    }
    Ok(())
}

/// Removes namespaces from the hook that no captured pod has.
fn sweep_hook(agent: &Agent) {
    let entries = agent.table.all();
    let captured = entries
        .iter()
        .filter(|entry| entry.record.phase == Phase::Enrolled);
    let wanted: BTreeSet<u64> = captured.map(|entry| entry.record.cookie).collect();
    match agent.hook().enrolled() {
        Ok(found) => {
            for cookie in found.difference(&wanted) {
                agent.withdraw(*cookie);
            }
        }
        Err(error) => tracing::error!(%error, "the hook's namespaces cannot be read"),
    }
}
