//! The types of discovery, and what is held of each. Knows no domain value.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::wire::discovery as wire;

use crate::xds::carried::ByName;

/// The types that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Workloads and services.
    Addresses,
    /// L4 authorization policies.
    Policies,
    /// Routes at their parents; for waypoints.
    Routes,
    /// Policies that are for services and gateways; for waypoints.
    TargetPolicies,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [
        Self::Addresses,
        Self::Policies,
        // Before the routes that it may be about.
        Self::TargetPolicies,
        Self::Routes,
    ];

    /// Type URL on the wire.
    pub fn url(self) -> &'static str {
        match self {
            Self::Addresses => proto::ADDRESS_TYPE_URL,
            Self::Policies => proto::AUTHORIZATION_TYPE_URL,
            Self::Routes => proto::ROUTE_TYPE_URL,
            Self::TargetPolicies => proto::TARGET_POLICY_TYPE_URL,
        }
    }

    /// Whether it is in the [`Book`], not in the snapshot.
    pub fn is_of_book(self) -> bool {
        matches!(self, Self::Routes | Self::TargetPolicies)
    }

    pub(super) fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// What is held of one type.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) by_name: ByName,
    /// Whether a response came, on any stream.
    pub(super) answered: bool,
    /// Names held when this stream was opened that it did not confirm yet. None once the server
    /// is known to compare versions, and on the first stream.
    pub(super) unconfirmed: Option<BTreeSet<Arc<str>>>,
    /// Whether the server repeated a resource in the very version that was announced: it does not
    /// compare versions, hence sends all there is, and what it leaves out is gone.
    pub(super) repeats: bool,
}

impl Held {
    /// The server speaks of a name on this stream, be it well or badly.
    pub(super) fn confirm(&mut self, resource: &wire::Resource) {
        let Some(unconfirmed) = &mut self.unconfirmed else {
            return;
        };
        let was_announced = unconfirmed.remove(&*resource.name);
        let held = self.by_name.get(&*resource.name);
        if was_announced && held.is_some_and(|held| held.version() == resource.version) {
            self.repeats = true;
        }
    }
}
