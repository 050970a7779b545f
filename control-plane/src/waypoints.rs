//! Which waypoints there shall be, said to the agents that run them: a plan that follows the
//! manifests and the nodes, kept over restarts, and a stream of lists for each agent.
//!
//! Starts nothing itself and knows no namespace or process: that is the agents' part.

pub mod plan;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::Stream;
use process::tasks::Tasks;
use proto::wire::agent::{FollowWaypointsResponse, WaypointReplica};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use translate::PodReport;
use translate::deployment::wanted;

use crate::engine::EngineHandle;
use crate::state::nodes::{Caller, Nodes};
use crate::state::{PRIVATE, StateDir, StateError};
use plan::{Plan, Situation, Standing};

/// File of the state directory.
const FILE: &str = "waypoints.json";

/// An agent reports every 5 s; one that missed two reports gets nothing new.
const QUIET_AFTER: Duration = Duration::from_secs(12);

/// A node that was not heard for so long is gone and its replicas run elsewhere. Longer than the
/// restart of an agent, whose waypoints run on meanwhile.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// How often the nodes are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Lists that wait for an agent: the next one is made when this one is taken.
const LISTS: usize = 1;

/// A stream of lists.
pub type Lists = Pin<Box<dyn Stream<Item = Result<FollowWaypointsResponse, Status>> + Send>>;

/// The plan and who follows it. Cheap to clone.
#[derive(Clone)]
pub struct Waypoints {
    inner: Arc<Inner>,
}

/// What a plan stands on.
pub struct Parts {
    /// Manifests and reports.
    pub engine: EngineHandle,
    /// Tokens: a stream ends with the one it was opened with.
    pub nodes: Nodes,
    /// Where the plan is kept.
    pub state: StateDir,
    /// Of all identities.
    pub trust_domain: Arc<str>,
    /// Own the streams.
    pub tasks: Tasks,
}

struct Inner {
    parts: Parts,
    /// When culvertd began: a node that it remembers counts as heard then.
    started: Instant,
    heard: Mutex<BTreeMap<Arc<str>, Heard>>,
    plan: watch::Sender<Arc<Plan>>,
    /// A node follows from now on.
    followed: Notify,
}

#[derive(Clone, Copy)]
struct Heard {
    last: Instant,
    streams: usize,
}

impl Waypoints {
    /// The plan that was kept, brought up to what is published. A plan that cannot be read is made
    /// anew, with a warning: waypoints may move then.
    pub fn open(parts: Parts) -> Self {
        let kept = parts.state.read(FILE).and_then(|text| {
            let text = text.unwrap_or_else(|| "[]".to_owned());
            serde_json::from_str(&text).map_err(|error| StateError::new(FILE, error))
        });
        let kept = kept.unwrap_or_else(|error| {
            tracing::warn!(%error, "which node runs which waypoint is not remembered");
            plan::Kept::default()
        });
        let (plan, _) = watch::channel(Arc::new(Plan::restore(kept)));
        let inner = Inner {
            parts,
            started: Instant::now(),
            heard: Mutex::default(),
            plan,
            followed: Notify::new(),
        };
        let waypoints = Self {
            inner: Arc::new(inner),
        };
        waypoints.plan();
        waypoints
    }

    /// Follows manifests and nodes until the stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut published = self.inner.parts.engine.published();
        let mut unplaced = BTreeMap::new();
        loop {
            let moved = self.plan();
            if moved {
                self.withdraw().await;
            }
            let missing = self.inner.plan.borrow().unplaced();
            if missing != unplaced {
                for (gateway, replicas) in &missing {
                    let why = "no node's agent is there to run replicas of a waypoint";
                    tracing::warn!(%gateway, replicas, "{why}");
                }
                unplaced = missing;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
                () = self.inner.followed.notified() => {}
                changed = published.changed() => if changed.is_err() { return },
            }
        }
    }

    /// A node was heard.
    pub fn seen(&self, node: &Arc<str>) {
        let now = Instant::now();
        let mut heard = self.heard();
        let entry = heard.entry(node.clone());
        entry.and_modify(|heard| heard.last = now).or_insert(Heard {
            last: now,
            streams: 0,
        });
    }

    /// See [`Plan::check`].
    pub fn check(&self, node: &str, pods: &mut [PodReport]) {
        self.inner.plan.borrow().check(node, pods);
    }

    /// The lists for a node: the first at once, another at each change, until its token is
    /// replaced.
    pub fn follow(&self, caller: Caller) -> Lists {
        let (sender, lists) = mpsc::channel(LISTS);
        let following = Following::new(self.clone(), caller.node.clone());
        let stop = self.inner.parts.tasks.stop();
        self.inner.parts.tasks.spawn("waypoint lists", async move {
            let gone = sender.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = gone.closed() => {}
                () = following.feed(&caller, sender) => {}
            }
        });
        Box::pin(ReceiverStream::new(lists))
    }

    /// Makes the next plan; whether it is another.
    fn plan(&self) -> bool {
        let published = self.inner.parts.engine.now();
        let wanted = wanted(&published.objects);
        let before = self.inner.plan.borrow().clone();
        let nodes = self.standings(&before);
        let next = before.next(&Situation {
            wanted: &wanted,
            nodes: &nodes,
            reports: &published.reports,
        });
        if next == *before {
            return false;
        }
        self.keep(&next);
        self.inner.plan.send_replace(Arc::new(next));
        true
    }

    fn standings(&self, plan: &Plan) -> BTreeMap<Arc<str>, Standing> {
        let now = Instant::now();
        let heard = self.heard();
        let mut nodes = BTreeMap::new();
        for node in plan.nodes().chain(heard.keys()) {
            let known = heard.get(node).copied();
            let silent = now - known.map_or(self.inner.started, |heard| heard.last);
            let follows = known.is_some_and(|heard| heard.streams > 0);
            if follows && silent < QUIET_AFTER {
                nodes.insert(node.clone(), Standing::Here);
            } else if silent < GONE_AFTER {
                nodes.insert(node.clone(), Standing::Quiet);
            }
        }
        nodes
    }

    /// What was taken from a node that does not report any more must not be advertised further.
    async fn withdraw(&self) {
        let engine = &self.inner.parts.engine;
        for (node, pods) in engine.now().reports.iter() {
            let mut checked = pods.clone();
            self.check(node, &mut checked);
            if checked != *pods {
                engine.report(node.clone(), checked).await;
            }
        }
    }

    fn keep(&self, plan: &Plan) {
        let written = serde_json::to_vec(&plan.export())
            .map_err(|error| StateError::new(FILE, error))
            .and_then(|bytes| self.inner.parts.state.write(FILE, &bytes, PRIVATE));
        if let Err(error) = written {
            tracing::warn!(%error, "which node runs which waypoint will not be remembered");
        }
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Heard>> {
        // Nothing that can panic runs under this lock.
        let heard = &self.inner.heard;
        heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream; counts as such until it is dropped.
struct Following {
    waypoints: Waypoints,
    node: Arc<str>,
}

impl Following {
    fn new(waypoints: Waypoints, node: Arc<str>) -> Self {
        waypoints.seen(&node);
        if let Some(heard) = waypoints.heard().get_mut(&node) {
            heard.streams += 1;
        }
        waypoints.inner.followed.notify_one();
        Self { waypoints, node }
    }

    async fn feed(
        self,
        caller: &Caller,
        lists: mpsc::Sender<Result<FollowWaypointsResponse, Status>>,
    ) {
        let parts = &self.waypoints.inner.parts;
        let mut plan = self.waypoints.inner.plan.subscribe();
        let mut tokens = parts.nodes.changes();
        let mut sent = None;
        loop {
            let list = self.list(&plan.borrow_and_update());
            if sent.as_ref() != Some(&list) {
                if lists.send(Ok(list.clone())).await.is_err() {
                    return;
                }
                sent = Some(list);
            }
            let ended = tokio::select! {
                changed = plan.changed() => changed.is_err(),
                changed = tokens.changed() => {
                    changed.is_err() || !parts.nodes.still_valid(caller)
                }
            };
            if ended {
                // The client may have gone already.
                let _ = lists.try_send(Err(Status::unauthenticated("no valid token")));
                return;
            }
        }
    }

    fn list(&self, plan: &Plan) -> FollowWaypointsResponse {
        let trust_domain = &self.waypoints.inner.parts.trust_domain;
        let replicas = plan.of(&self.node).map(|assigned| WaypointReplica {
            namespace: assigned.gateway.namespace.to_string(),
            gateway: assigned.gateway.name.to_string(),
            replica: assigned.replica,
            service_account: assigned.gateway.name.to_string(),
            revision: assigned.revision.to_owned(),
            trust_domain: trust_domain.to_string(),
        });
        FollowWaypointsResponse {
            replicas: replicas.collect(),
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(heard) = self.waypoints.heard().get_mut(&self.node) {
            heard.streams = heard.streams.saturating_sub(1);
        }
    }
}
