//! Which node runs which replica of which waypoint: pure, from what was planned before, what is
//! wanted now and which nodes are there.
//!
//! What runs stays where it is, for moving it costs its connections; only a node that is gone, or a
//! replica too many, changes a place. Knows no clock and no stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use translate::deployment::{DEFAULT_REPLICAS, Wanted};
use translate::object::Name;
use translate::{PodReport, WaypointReport};

/// How far a node can be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its agent follows and reports.
    Here,
    /// Its agent was heard not long ago: it keeps what it has and gets nothing new.
    Quiet,
}

/// Which node runs what. Nodes that are in it no more are found in [`Waypoint::former`] for as long
/// as they still have a replica that was taken from them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    waypoints: BTreeMap<Name, Waypoint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Waypoint {
    wanted: u32,
    revision: String,
    /// Replica to node; one that no node can run is not in it.
    places: BTreeMap<u32, Arc<str>>,
    former: BTreeSet<(u32, Arc<str>)>,
}

impl Waypoint {
    /// How many there are while nobody can say how many there shall be.
    fn held(&self) -> u32 {
        let last = self.places.keys().next_back();
        last.map_or(DEFAULT_REPLICAS, |last| last + 1)
    }
}

/// A replica that a node shall run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Assigned<'a> {
    pub gateway: &'a Name,
    pub replica: u32,
    pub revision: &'a str,
}

/// A plan as it is kept in a file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kept(Vec<KeptWaypoint>);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptWaypoint {
    namespace: String,
    gateway: String,
    places: BTreeMap<u32, Arc<str>>,
    former: BTreeSet<(u32, Arc<str>)>,
}

/// What is planned for.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Situation<'a> {
    pub wanted: &'a BTreeMap<Name, Wanted>,
    /// Nodes that are not in it are gone.
    pub nodes: &'a BTreeMap<Arc<str>, Standing>,
    /// What each node said last.
    pub reports: &'a BTreeMap<Arc<str>, Vec<PodReport>>,
}

impl Plan {
    /// The plan after this one.
    #[must_use]
    pub fn next(&self, situation: &Situation<'_>) -> Self {
        let mut waypoints = BTreeMap::new();
        let mut load: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for (name, wanted) in situation.wanted {
            let before = self.waypoints.get(name).cloned().unwrap_or_default();
            let replicas = wanted.replicas.unwrap_or_else(|| before.held());
            let kept = kept(&before, replicas, situation);
            for node in kept.values() {
                *load.entry(node.clone()).or_default() += 1;
            }
            let next = Waypoint {
                wanted: replicas,
                revision: wanted.revision.clone(),
                places: kept,
                former: before.former,
            };
            waypoints.insert(name.clone(), next);
        }
        for (name, waypoint) in &mut waypoints {
            place(waypoint, situation.nodes, &mut load);
            let before = self.waypoints.get(name);
            let places = before.into_iter().flat_map(|before| before.places.clone());
            waypoint.former.extend(places);
            waypoint.former.retain(|(replica, node)| {
                waypoint.places.get(replica) != Some(node)
                    && still_there(situation.reports, name, *replica, node)
            });
        }
        Self { waypoints }
    }

    /// What a node shall run, sorted.
    pub fn of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = Assigned<'a>> {
        self.waypoints.iter().flat_map(move |(gateway, waypoint)| {
            let here = waypoint.places.iter().filter(move |(_, at)| ***at == *node);
            here.map(move |(&replica, _)| Assigned {
                gateway,
                replica,
                revision: &waypoint.revision,
            })
        })
    }

    /// Nodes that have a place, some of them repeatedly.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.waypoints
            .values()
            .flat_map(|waypoint| waypoint.places.values())
    }

    /// Waypoints with fewer places than replicas, and how many are missing.
    pub fn unplaced(&self) -> BTreeMap<Name, usize> {
        let missing = self.waypoints.iter().filter_map(|(name, waypoint)| {
            let missing = (waypoint.wanted as usize).saturating_sub(waypoint.places.len());
            (missing > 0).then(|| (name.clone(), missing))
        });
        missing.collect()
    }

    /// Makes a node's word on its waypoints believable: a replica that was taken from it drains,
    /// and one that it was never given is none. Everything behind this may take the word as it is.
    pub fn check(&self, node: &str, pods: &mut [PodReport]) {
        for pod in pods.iter_mut() {
            let Some(report) = pod.waypoint.take() else {
                continue;
            };
            let gateway = Name::new(&pod.name.namespace, &report.gateway);
            let waypoint = self.waypoints.get(&gateway);
            pod.waypoint = waypoint.and_then(|waypoint| waypoint.believed(node, report));
        }
    }

    /// For a file.
    pub fn export(&self) -> Kept {
        let kept = self.waypoints.iter().map(|(name, waypoint)| KeptWaypoint {
            namespace: name.namespace.to_string(),
            gateway: name.name.to_string(),
            places: waypoint.places.clone(),
            former: waypoint.former.clone(),
        });
        Kept(kept.collect())
    }

    /// From a file; what is wanted comes with the next plan.
    pub fn restore(kept: Kept) -> Self {
        let waypoint = |kept: KeptWaypoint| {
            let name = Name::new(&kept.namespace, &kept.gateway);
            let waypoint = Waypoint {
                places: kept.places,
                former: kept.former,
                ..Default::default()
            };
            (name, waypoint)
        };
        Self {
            waypoints: kept.0.into_iter().map(waypoint).collect(),
        }
    }
}

impl Waypoint {
    fn believed(&self, node: &str, report: WaypointReport) -> Option<WaypointReport> {
        if self
            .places
            .get(&report.replica)
            .is_some_and(|at| **at == *node)
        {
            return Some(report);
        }
        let former = self.former.contains(&(report.replica, node.into()));
        former.then_some(WaypointReport {
            draining: true,
            ..report
        })
    }
}

/// The places that stay. A node that is gone keeps its replicas only when there is no other.
fn kept(before: &Waypoint, wanted: u32, situation: &Situation<'_>) -> BTreeMap<u32, Arc<str>> {
    let nodes = situation.nodes;
    let others = nodes.values().any(|standing| *standing == Standing::Here);
    let stays = |(replica, node): &(&u32, &Arc<str>)| {
        **replica < wanted && (nodes.contains_key(*node) || !others)
    };
    let stay = before.places.iter().filter(stays);
    stay.map(|(replica, node)| (*replica, node.clone()))
        .collect()
}

/// Gives each replica without a place the node with the fewest of its kind, then of all, then the
/// first by name.
fn place(
    waypoint: &mut Waypoint,
    nodes: &BTreeMap<Arc<str>, Standing>,
    load: &mut BTreeMap<Arc<str>, usize>,
) {
    for replica in 0..waypoint.wanted {
        if waypoint.places.contains_key(&replica) {
            continue;
        }
        let here = nodes.iter().filter(|(_, at)| **at == Standing::Here);
        let crowd = |node: &Arc<str>| {
            let same = waypoint.places.values().filter(|at| *at == node).count();
            (same, load.get(node).copied().unwrap_or_default())
        };
        let Some((node, _)) = here.min_by_key(|(node, _)| crowd(node)) else {
            return;
        };
        *load.entry(node.clone()).or_default() += 1;
        waypoint.places.insert(replica, node.clone());
    }
}

fn still_there(
    reports: &BTreeMap<Arc<str>, Vec<PodReport>>,
    gateway: &Name,
    replica: u32,
    node: &str,
) -> bool {
    let pods = reports.get(node).into_iter().flatten();
    pods.into_iter().any(|pod| {
        pod.name.namespace == gateway.namespace
            && pod
                .waypoint
                .as_ref()
                .is_some_and(|report| report.gateway == gateway.name && report.replica == replica)
    })
}

#[cfg(test)]
mod tests;
