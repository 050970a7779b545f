//! What is said about an object after translation: the conditions of `protocol.md` 8.
//! Knows no object itself.

use serde::Serialize;

/// Whether an AuthorizationPolicy or PeerAuthentication is in force in ztunnel as written.
pub const ZTUNNEL_ACCEPTED: &str = "ZtunnelAccepted";
/// Whether a policy with targetRefs is in force in a waypoint.
pub const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";
/// Whether the waypoint that `istio.io/use-waypoint` names carries the traffic.
pub const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";
/// Whether a pod or service is served in discovery as written.
pub const SERVED: &str = "culvert.dev/Served";
/// Whether the visibility asked for is one that discovery can express.
pub const VISIBILITY_APPLIED: &str = "VisibilityApplied";

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
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)]
pub enum Status {
    True,
    False,
}

impl Condition {
    /// A condition that holds.
    pub fn holds(kind: &'static str, reason: &'static str) -> Self {
        Self {
            kind,
            status: Status::True,
            reason,
            message: String::new(),
        }
    }

    /// A condition that does not hold, and why.
    pub fn fails(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: Status::False,
            reason,
            message: message.into(),
        }
    }
}
