//! What to do with a connection, and why. Pure: the same snapshot, question and numbers give the
//! same answer, so that a proxy and `culvert why` never disagree.

mod inbound;
mod outbound;
mod reason;
pub mod waypoint;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::identity::Identity;
use crate::policy::PolicyKey;
use crate::service::ServiceKey;
use crate::snapshot::Snapshot;
use crate::workload::{Workload, WorkloadUid};

pub use reason::{InboundReason, Missing, Reason, Refusal};

/// A connection that a pod opens.
#[derive(Clone, Copy, Debug)]
pub struct OutboundQuery<'a> {
    /// The pod. Its own `waypoint` has no say in what it sends.
    pub source: &'a Workload,
    /// The address the application connected to.
    pub destination: SocketAddr,
    /// Endpoints and waypoints that refused this connection already; empty at first.
    pub tried: &'a [WorkloadUid],
}

/// What to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Where it goes.
    pub route: Route,
    /// The service that was addressed.
    pub service: Option<ServiceKey>,
    /// The workload that the route leads to: the endpoint, or the waypoint's instance.
    pub workload: Option<Arc<Workload>>,
    /// The steps that led there, as sentences; what ended it stands in `route`.
    pub reasons: Vec<Reason>,
}

/// Where an outbound connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Plain TCP to the original address: it is outside of the mesh, or kept by its service.
    Passthrough(SocketAddr),
    /// Plain TCP to a workload that speaks no HBONE.
    Plain(SocketAddr),
    /// Through a tunnel.
    Hbone(HboneRoute),
    /// Discovery is not complete: wait for a newer snapshot (5 s at most), then refuse.
    NotYet(Missing),
    /// Nowhere.
    Refuse(Refusal),
}

/// A tunnel and what to ask in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HboneRoute {
    /// Where to make the tunnel to: the endpoint's or the waypoint's address and HBONE port.
    pub peer: SocketAddr,
    /// `:authority` of the CONNECT: `ip:port`, IPv6 in brackets. To an endpoint its address and
    /// target port, to a waypoint what the application addressed.
    pub authority: String,
    /// The peer must show one of these; never empty.
    pub identities: BTreeSet<Identity>,
    /// Whether the peer is a waypoint.
    pub to_waypoint: bool,
}

/// Decides on a connection that a pod opens. `entropy` gives random numbers of 64 bits and is
/// asked only where weights are drawn.
///
/// In this order: addresses that no proxy connects to; the pod itself; a service with a waypoint
/// (one drawn if there are several); an endpoint of the service. Without a service, or with one
/// that keeps the original address: a workload with a waypoint; a workload, by its tunnel
/// protocol; the unknown, passed through only when it is certain that the mesh has nothing there.
/// A waypoint that cannot be found or used refuses: going round it would go round its policies.
pub fn outbound(
    snapshot: &Snapshot,
    query: &OutboundQuery<'_>,
    entropy: &mut dyn FnMut() -> u64,
) -> Outbound {
    outbound::decide(snapshot, query, entropy)
}

/// A connection that a pod takes.
#[derive(Clone, Copy, Debug)]
pub struct InboundQuery<'a> {
    /// The pod.
    pub workload: &'a Workload,
    /// The address that the application would be connected to.
    pub destination: SocketAddr,
    /// The client's address.
    pub source_ip: IpAddr,
    /// Who the peer proved to be in its handshake; None for plaintext.
    pub peer: Option<&'a Identity>,
}

/// Whether it may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may pass.
    pub allowed: bool,
    /// The policy that decided, if one did.
    pub policy: Option<PolicyKey>,
    /// Why, as a sentence.
    pub reason: InboundReason,
    /// Dry-run policies that would have turned the verdict, had they been in force.
    pub dry_run: Vec<PolicyKey>,
}

impl Verdict {
    /// Whether a connection that is live already must be closed. Not so when only knowledge is
    /// missing: that refuses new connections, but ends none that was allowed.
    pub fn closes_live(&self) -> bool {
        let ignorance = matches!(
            self.reason,
            InboundReason::NotSynced | InboundReason::UnknownPolicy(_)
        );
        !self.allowed && !ignorance
    }
}

/// Decides on a connection that a pod takes; asked again for live ones at each change of policy.
///
/// In this order: the proxy's own ports; policies not synced; a DENY that matches; a policy that
/// the workload names and nobody knows; no ALLOW; an ALLOW that matches; else refused.
pub fn inbound(snapshot: &Snapshot, query: &InboundQuery<'_>) -> Verdict {
    inbound::decide(snapshot, query)
}
