//! What is said about an object after translation: the conditions of `protocol.md` 8.
//! Knows no object itself.

use serde::{Deserialize, Serialize};

/// Whether an AuthorizationPolicy or PeerAuthentication is in force in ztunnel as written.
pub const ZTUNNEL_ACCEPTED: &str = "ZtunnelAccepted";
/// Whether a policy with targetRefs is in force in a waypoint.
pub const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";
/// Whether the waypoint that `istio.io/use-waypoint` names carries the traffic.
pub const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";
/// Whether a pod or service is served in discovery as written, and whether a route has a proxy that
/// applies it.
pub const SERVED: &str = "culvert.dev/Served";
/// Whether the visibility asked for is one that discovery can express.
pub const VISIBILITY_APPLIED: &str = "VisibilityApplied";

/// Whether a route is served at a parent (Gateway API).
pub const ACCEPTED: &str = "Accepted";
/// Whether all that a route refers to is there and may be referred to (Gateway API).
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Whether a Gateway carries traffic (Gateway API).
pub const PROGRAMMED: &str = "Programmed";
/// There when a listener of a Gateway stands in the way of another (Gateway API).
pub const CONFLICTED: &str = "Conflicted";
/// There when a part of a route is not served (Gateway API).
pub const PARTIALLY_INVALID: &str = "PartiallyInvalid";

/// Conditions that are bad when they are there; all others are when they do not hold.
pub const BAD_WHEN_TRUE: [&str; 2] = [PARTIALLY_INVALID, CONFLICTED];

/// One condition of an object, in the shape of Kubernetes conditions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Condition {
    /// One of the constants of this module.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// True, False.
    pub status: Status,
    /// CamelCase word for programs.
    pub reason: &'static str,
    /// Sentence for people; empty when the reason says all.
    pub message: String,
    /// Of a route: the parent that it is said of; of a Gateway: the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Status {
    True,
    False,
    /// Who looks cannot know it; a translation always can.
    Unknown,
}

/// What the Gateway API says of a listener beside its conditions (`status.listeners[]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Name of the listener.
    pub name: String,
    /// Kinds of routes that it takes: those of its protocol, or of these the ones it asks for.
    pub supported_kinds: Vec<KindOfRoute>,
    /// Number of routes that are attached to it and accepted.
    pub attached_routes: usize,
}

/// A kind of route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct KindOfRoute {
    pub group: String,
    pub kind: String,
}

impl Condition {
    /// A condition that holds.
    pub fn holds(kind: &'static str, reason: &'static str) -> Self {
        Self {
            kind,
            status: Status::True,
            reason,
            message: String::new(),
            parent: None,
        }
    }

    /// A condition that does not hold, and why.
    pub fn fails(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: Status::False,
            reason,
            message: message.into(),
            parent: None,
        }
    }

    /// With a sentence for people.
    #[must_use]
    pub fn because(self, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..self
        }
    }

    /// Said of one parent of a route.
    #[must_use]
    pub fn of_parent(self, parent: &str) -> Self {
        Self {
            parent: Some(parent.to_owned()),
            ..self
        }
    }
}
