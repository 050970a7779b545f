//! What there shall be, against what there is: follows the control plane's lists and tells
//! instances to begin and to end. Until the first list has come, nothing begins or ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use process::grpc::agent::WaypointReplica;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Surroundings;
use super::decide::{Action, View, decide, number};
use super::instance::Instance;
use super::made::Binary;
use super::record::{REPLICAS, Record};
use crate::agent::control::Control;

/// How often instances and the program are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Pause before the control plane is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What the control plane said last; None before its first word.
type Wanted = Option<Vec<WaypointReplica>>;

/// Namespace, gateway, number of the replica.
type Key = (String, String, u32);

/// Keeps `wanted` at the control plane's last list until the stop. What a control plane that went
/// away said last, counts on.
pub async fn follow(
    control: Arc<dyn Control>,
    wanted: watch::Sender<Wanted>,
    stop: CancellationToken,
) {
    let lists = async {
        let mut told = None;
        loop {
            let why = match control.waypoints().await {
                Err(why) => why,
                Ok(mut lists) => loop {
                    match lists.next().await {
                        Some(Ok(list)) => {
                            told = None;
                            wanted.send_if_modified(|last| {
                                let changed = last.as_ref() != Some(&list);
                                *last = Some(list);
                                changed
                            });
                        }
                        Some(Err(why)) => break why,
                        None => break "the stream ended".to_owned(),
                    }
                },
            };
            // A control plane may be away for hours.
            if told.as_ref() != Some(&why) {
                tracing::warn!(why, "the list of waypoints is not followed; trying on");
            }
            told = Some(why);
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = lists => {}
    }
}

/// Takes over what was left, then follows `wanted`.
pub async fn run(surroundings: Surroundings, mut wanted: watch::Receiver<Wanted>) {
    let stop = surroundings.tasks.stop();
    let mut manager = Manager {
        surroundings,
        binary: None,
        seen: None,
    };
    manager.take_over();
    loop {
        manager.look_at_binary();
        let list = wanted.borrow_and_update().clone();
        if let Some(list) = list {
            manager.approach(list);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

struct Manager {
    surroundings: Surroundings,
    /// The program as it was in two looks.
    binary: Option<Binary>,
    /// The program as it was in the last look.
    seen: Option<Binary>,
}

impl Manager {
    fn take_over(&self) {
        let shown = self.surroundings.waypoints.shown();
        let left = shown
            .values()
            .map(|shown| (shown.record.clone(), shown.drain.subscribe()));
        let left: Vec<_> = left.collect();
        drop(shown);
        for (record, told) in left {
            self.begin(record, told);
        }
        for orphan in self.surroundings.waypoints.inner.orphans.clone() {
            tracing::error!(
                sandbox = orphan.sandbox,
                "a waypoint without a record that can be read is taken away"
            );
            // Nobody else is told of it.
            let (_, told) = watch::channel(true);
            self.begin(orphan, told);
        }
    }

    fn look_at_binary(&mut self) {
        let now = Binary::look(&self.surroundings.waypoints.inner.settings);
        if now.is_some() && now == self.seen {
            self.binary.clone_from(&now);
        }
        self.seen = now;
    }

    fn approach(&self, list: Vec<WaypointReplica>) {
        let key = |replica: &WaypointReplica| -> Key {
            let WaypointReplica {
                namespace, gateway, ..
            } = replica;
            (namespace.clone(), gateway.clone(), replica.replica)
        };
        let wanted: BTreeMap<Key, WaypointReplica> = list
            .into_iter()
            .filter(|replica| replica.replica < REPLICAS)
            .map(|replica| (key(&replica), replica))
            .collect();
        let mut there: BTreeMap<Key, Vec<Seen>> = BTreeMap::new();
        for shown in self.surroundings.waypoints.shown().values() {
            let key = key(&shown.record.replica);
            let current = wanted
                .get(&key)
                .is_some_and(|replica| self.is_current(replica, shown));
            there.entry(key).or_default().push(Seen {
                uid: shown.record.uid.clone(),
                number: shown.record.number,
                current,
                advertised: shown.advertised,
                draining: *shown.drain.borrow(),
            });
        }
        for key in wanted.keys() {
            there.entry(key.clone()).or_default();
        }
        for (key, instances) in there {
            let views: Vec<View<'_>> = instances.iter().map(Seen::view).collect();
            for action in decide(wanted.contains_key(&key), &views) {
                match action {
                    Action::Drain(uid) => self.drain(&uid),
                    Action::Start => {
                        let taken: Vec<u32> = instances.iter().map(|seen| seen.number).collect();
                        self.start(&wanted[&key], number(key.2, REPLICAS, &taken));
                    }
                }
            }
        }
    }

    /// Without a program, nothing that runs is outdated by it.
    fn is_current(&self, replica: &WaypointReplica, shown: &super::Shown) -> bool {
        let settings = &self.surroundings.waypoints.inner.settings;
        let made_of = self
            .binary
            .as_ref()
            .map(|binary| binary.made_of(replica, settings));
        made_of.is_none_or(|made_of| made_of == shown.record.made_of)
    }

    fn start(&self, replica: &WaypointReplica, number: u32) {
        let inner = &self.surroundings.waypoints.inner;
        // One look is enough to begin with; what changes under it is replaced.
        let binary = self.binary.as_ref().or(self.seen.as_ref());
        let made_of = binary.map(|binary| binary.made_of(replica, &inner.settings));
        let prefix = &inner.settings.netns_prefix;
        let record = Record::new(replica.clone(), number, prefix, made_of.unwrap_or_default());
        let pod = record.name();
        if let Some(mistake) = record.mistake() {
            tracing::error!(
                pod,
                mistake,
                "the control plane asks for a waypoint that cannot be"
            );
            return;
        }
        if let Err(error) = inner.store.save(&record) {
            tracing::error!(pod, %error, "no waypoint is started without a record of it");
            return;
        }
        tracing::info!(
            pod,
            namespace = replica.namespace,
            "a waypoint shall run here"
        );
        let told = self.surroundings.waypoints.show(record.clone());
        self.begin(record, told);
    }

    fn begin(&self, record: Record, told: watch::Receiver<bool>) {
        let name = format!("waypoint {}", record.name());
        let instance = Instance::new(self.surroundings.clone(), record, told);
        self.surroundings.tasks.spawn(name, instance.run());
    }

    fn drain(&self, uid: &str) {
        if let Some(shown) = self.surroundings.waypoints.shown().get(uid) {
            tracing::info!(pod = shown.record.name(), "the waypoint shall end");
            shown.drain.send_replace(true);
        }
    }
}

/// An instance as [`View`] needs it, without the lock.
struct Seen {
    uid: String,
    number: u32,
    current: bool,
    advertised: bool,
    draining: bool,
}

impl Seen {
    fn view(&self) -> View<'_> {
        View {
            uid: &self.uid,
            current: self.current,
            advertised: self.advertised,
            draining: self.draining,
        }
    }
}
