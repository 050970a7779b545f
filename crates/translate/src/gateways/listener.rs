//! What is said of each listener of a Gateway: whether it stands in the way of another, which kinds
//! of routes it takes, and whether it carries traffic (Gateway API 1.4, `ListenerStatus`). Knows no
//! route and no replica.

use super::asked;
use crate::gateway::{GatewaySpec, Listener, RouteGroupKind};
use crate::status::{
    ACCEPTED, CONFLICTED, Condition, KindOfRoute, ListenerStatus, PROGRAMMED, RESOLVED_REFS,
};

/// Group of the routes that a waypoint serves.
const GROUP: &str = "gateway.networking.k8s.io";

/// Reason and sentence of a condition.
type Said = (&'static str, String);

/// What is known of a listener from elsewhere.
#[derive(Clone, Copy)]
pub(super) struct Known {
    /// Routes attached to it.
    pub(super) attached: usize,
    /// Whether the Gateway carries traffic.
    pub(super) is_programmed: bool,
}

/// The conditions of a listener.
pub(super) fn conditions(listener: &Listener, of: &GatewaySpec, known: Known) -> Vec<Condition> {
    let conflict = conflict(listener, of);
    let unserved = conflict.clone().or_else(|| asked::unaccepted(listener));
    let accepted = match &unserved {
        None => {
            let message = format!("attached routes: {}", known.attached);
            Condition::holds(ACCEPTED, "Accepted").because(message)
        }
        Some((reason, message)) => Condition::fails(ACCEPTED, reason, message),
    };
    let programmed = match (&conflict, &unserved, known.is_programmed) {
        (Some((reason, message)), ..) => Condition::fails(PROGRAMMED, reason, message),
        (_, Some((_, message)), _) => Condition::fails(PROGRAMMED, "Invalid", message),
        (_, _, true) => Condition::holds(PROGRAMMED, "Programmed"),
        (_, _, false) => {
            let message = "the Gateway's own condition Programmed says why";
            Condition::fails(PROGRAMMED, "Pending", message)
        }
    };
    let conflicted =
        conflict.map(|(reason, why)| Condition::holds(CONFLICTED, reason).because(why));
    let all = [Some(accepted), Some(programmed), Some(references(listener))];
    all.into_iter().chain([conflicted]).flatten().collect()
}

fn references(listener: &Listener) -> Condition {
    if let Some(kind) = asked_kinds(listener).find(|kind| !is_of(listener, kind)) {
        let RouteGroupKind { group, kind } = kind;
        let group = group.as_deref().filter(|group| *group != GROUP);
        let group = group.map(|group| format!("{group} ")).unwrap_or_default();
        let message = format!(
            "a listener of protocol {} takes no {group}{kind}",
            listener.protocol
        );
        return Condition::fails(RESOLVED_REFS, "InvalidRouteKinds", message);
    }
    match asked::unused_certificate(listener) {
        Some((reason, message)) => Condition::fails(RESOLVED_REFS, reason, message),
        None => Condition::holds(RESOLVED_REFS, "ResolvedRefs"),
    }
}

/// What is said of a listener beside its conditions.
pub(super) fn status(listener: &Listener, known: Known) -> ListenerStatus {
    let kinds = kinds(listener).iter().filter(|kind| takes(listener, kind));
    let kinds = kinds.map(|kind| KindOfRoute {
        group: GROUP.to_owned(),
        kind: (*kind).to_owned(),
    });
    ListenerStatus {
        name: listener.name.clone(),
        supported_kinds: kinds.collect(),
        attached_routes: known.attached,
    }
}

/// Why a listener cannot be told from another, if so: none of the two is served, since the Gateway
/// API lets nobody choose one. Listeners of protocols that are not served are in nobody's way.
pub(super) fn conflict(listener: &Listener, of: &GatewaySpec) -> Option<Said> {
    if !asked::is_known_protocol(listener) {
        return None;
    }
    let rivals = of.listeners.iter().filter(|other| {
        other.port == listener.port
            && other.name != listener.name
            && asked::is_known_protocol(other)
    });
    let named = |of: Vec<&Listener>| {
        let names: Vec<_> = of.iter().map(|other| &*other.name).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let (same, others): (Vec<_>, Vec<_>) =
        rivals.partition(|other| other.protocol == listener.protocol);
    let port = listener.port;
    if let Some(names) = named(others) {
        let message = format!("port {port} has another protocol too, by listener {names}");
        return Some(("ProtocolConflict", message));
    }
    let same = same
        .into_iter()
        .filter(|other| host(other) == host(listener));
    let names = named(same.collect())?;
    let message = format!("port {port} has the same protocol and host name, by listener {names}");
    Some(("HostnameConflict", message))
}

/// As host names are compared; None is every host.
fn host(listener: &Listener) -> Option<String> {
    let host = listener.hostname.as_deref().filter(|host| !host.is_empty());
    host.map(str::to_ascii_lowercase)
}

/// Why routes at a listener are not served, if so. At one of HBONE they are, whatever its `tls`
/// says.
pub(crate) fn unserved(listener: &Listener, of: &GatewaySpec) -> Option<String> {
    let asked = match &*listener.protocol {
        "HBONE" => None,
        _ => asked::unaccepted(listener),
    };
    let (_, why) = conflict(listener, of).or(asked)?;
    Some(why)
}

/// Whether routes of a kind may be at a listener, by its protocol and its own list.
pub(crate) fn takes(listener: &Listener, kind: &str) -> bool {
    let mut asked = asked_kinds(listener).peekable();
    let is_asked =
        asked.peek().is_none() || asked.any(|asked| asked.kind == kind && is_of(listener, asked));
    is_asked && kinds(listener).contains(&kind)
}

/// The kinds that its author lets in; none are all.
fn asked_kinds(listener: &Listener) -> impl Iterator<Item = &RouteGroupKind> {
    let allowed = listener.allowed_routes.iter();
    allowed.flat_map(|routes| &routes.kinds)
}

/// Whether a kind is one for the protocol.
fn is_of(listener: &Listener, kind: &RouteGroupKind) -> bool {
    kind.group.as_deref().unwrap_or(GROUP) == GROUP && kinds(listener).contains(&&*kind.kind)
}

/// The kinds of routes for the protocol. What comes by HBONE may be anything.
fn kinds(listener: &Listener) -> &'static [&'static str] {
    let passes = || listener.tls.as_ref().is_none_or(|tls| tls.passes_through());
    match &*listener.protocol {
        "HBONE" => &["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"],
        "HTTP" => &["HTTPRoute", "GRPCRoute"],
        "TCP" => &["TCPRoute"],
        "TLS" if passes() => &["TLSRoute"],
        _ => &[],
    }
}
