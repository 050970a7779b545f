//! What a Gateway or a GatewayClass asks for and a waypoint does not do, in the conditions that the
//! Gateway API has for it. The waypoint runs all the same: a field that changes nothing must not
//! end connections, nor let through what the waypoint's policies refuse. Knows no replica.

use std::net::IpAddr;

use super::listener;
use crate::gateway::{GatewayClassSpec, GatewaySpec, Listener, ParametersRef};
use crate::object::{Kind, Objects};
use crate::status::{ACCEPTED, Condition, PROGRAMMED, RESOLVED_REFS};
use crate::translation::Statuses;
use crate::waypoints::is_waypoint_class;

/// Protocols of listeners whose routes a waypoint serves: its own, and what it carries.
const PROTOCOLS: [&str; 4] = ["HBONE", "HTTP", "TCP", "TLS"];
/// Types of addresses that a waypoint has.
const ADDRESS_TYPES: [&str; 2] = ["IPAddress", "Hostname"];

/// Of the classes of waypoints; others belong to their controllers.
pub(super) fn describe_classes(objects: &Objects, statuses: &mut Statuses) {
    let classes = objects.gateway_classes.values();
    for class in classes.filter(|class| is_waypoint_class(&class.meta.name.name)) {
        let condition = of_class(&class.spec);
        statuses.add(Kind::GatewayClass, &class.meta.name, condition);
    }
}

fn of_class(spec: &GatewayClassSpec) -> Condition {
    match &spec.parameters_ref {
        Some(of) => parameters("spec.parametersRef", of),
        None => Condition::holds(ACCEPTED, "Accepted"),
    }
}

fn parameters(field: &str, of: &ParametersRef) -> Condition {
    let message = format!(
        "{field}: a waypoint has no parameters, so {} {} is not read; it runs without them",
        of.kind, of.name
    );
    Condition::fails(ACCEPTED, "InvalidParameters", message)
}

/// Whether the Gateway is taken as it is written.
pub(super) fn accepted(spec: &GatewaySpec) -> Condition {
    let infrastructure = spec.infrastructure.as_ref();
    if let Some(of) = infrastructure.and_then(|own| own.parameters_ref.as_ref()) {
        return parameters("spec.infrastructure.parametersRef", of);
    }
    let mut types = spec.addresses.iter().map(|address| kind_of(&address.kind));
    if let Some(kind) = types.find(|kind| !ADDRESS_TYPES.contains(kind)) {
        let message = format!("spec.addresses: a waypoint has no address of type {kind}");
        return Condition::fails(ACCEPTED, "UnsupportedAddress", message);
    }
    let mut notes = ignored(spec);
    let (mut bad, mut good) = (Vec::new(), Vec::new());
    for one in &spec.listeners {
        match (listener::conflict(one, spec), unaccepted(one)) {
            (Some(_), _) => bad.push(format!("{} (conflicted)", one.name)),
            (None, Some(_)) => bad.push(one.name.clone()),
            (None, None) => good.push(&*one.name),
        }
    }
    if bad.is_empty() {
        return Condition::holds(ACCEPTED, "Accepted").because(notes.join("; "));
    }
    let bad = bad.join(", ");
    let reason = "ListenersNotValid";
    if good.is_empty() {
        notes.insert(0, format!("no listener is served: {bad}"));
        return Condition::fails(ACCEPTED, reason, notes.join("; "));
    }
    let good = good.join(", ");
    notes.insert(
        0,
        format!("not all listeners are served: {bad}; served: {good}"),
    );
    Condition::holds(ACCEPTED, reason).because(notes.join("; "))
}

/// Fields for which the Gateway API has no condition.
fn ignored(spec: &GatewaySpec) -> Vec<String> {
    let mut notes = Vec::new();
    let wants = |from: &Option<String>| from.as_deref().is_some_and(|from| from != "None");
    let sets = spec.allowed_listeners.as_ref();
    let sets = sets.and_then(|sets| sets.namespaces.as_ref());
    if sets.is_some_and(|namespaces| wants(&namespaces.from)) {
        notes.push("spec.allowedListeners is ignored: there are no ListenerSets".to_owned());
    }
    if wants(&spec.default_scope) {
        notes.push("spec.defaultScope is ignored: a waypoint is no default Gateway".to_owned());
    }
    if spec.tls.as_ref().is_some_and(|tls| tls.frontend.is_some()) {
        notes.push("spec.tls.frontend is ignored: a waypoint has no HTTPS listeners".to_owned());
    }
    notes
}

/// That there is a certificate to show to endpoints, which get the waypoint's own.
pub(super) fn client_certificate(spec: &GatewaySpec) -> Option<Condition> {
    let newer = spec.tls.as_ref().is_some_and(|tls| tls.backend.is_some());
    (newer || spec.backend_tls.is_some()).then(|| {
        let field = if newer {
            "spec.tls.backend"
        } else {
            "spec.backendTLS"
        };
        let message = format!("{field}: a waypoint shows endpoints its identity of the mesh alone");
        Condition::fails(RESOLVED_REFS, "InvalidClientCertificateRef", message)
    })
}

/// That an address is asked for which is not one that the waypoint has.
pub(super) fn unusable_address(
    spec: &GatewaySpec,
    has: &[IpAddr],
    hostname: &str,
) -> Option<Condition> {
    let given = |value: &&str| !value.is_empty();
    let mut asked = spec.addresses.iter().filter_map(|address| {
        let value = address.value.as_deref().filter(given)?;
        Some((kind_of(&address.kind), value))
    });
    let (_, value) = asked.find(|(kind, value)| match *kind {
        "IPAddress" => !value.parse().is_ok_and(|ip: IpAddr| has.contains(&ip)),
        _ => *value != hostname,
    })?;
    let has: Vec<_> = has.iter().map(IpAddr::to_string).collect();
    let message = format!(
        "spec.addresses: {value} cannot be given, a waypoint has those of its Service: {}, \
         {hostname}",
        has.join(", ")
    );
    Some(Condition::fails(PROGRAMMED, "AddressNotUsable", message))
}

fn kind_of(kind: &Option<String>) -> &str {
    kind.as_deref().unwrap_or("IPAddress")
}

/// Whether a listener is of a protocol that a waypoint knows.
pub(super) fn is_known_protocol(listener: &Listener) -> bool {
    PROTOCOLS.contains(&&*listener.protocol)
}

/// Why a listener is not what it asks to be, whatever the others are: reason and sentence.
pub(super) fn unaccepted(listener: &Listener) -> Option<(&'static str, String)> {
    let protocol = &*listener.protocol;
    if !is_known_protocol(listener) {
        let message = format!("a waypoint serves no listener of protocol {protocol}");
        return Some(("UnsupportedProtocol", message));
    }
    let tls = listener.tls.as_ref()?;
    match (protocol, tls.passes_through()) {
        ("HBONE", true) => {
            let message = "tls.mode: a waypoint ends the TLS of HBONE itself, with its identity";
            Some(("UnsupportedValue", message.to_owned()))
        }
        ("TLS", false) => {
            let message = "tls.mode: a waypoint passes TLS through (Passthrough), it ends none";
            Some(("UnsupportedValue", message.to_owned()))
        }
        _ => None,
    }
}

/// Why certificates of a listener are not used: reason and sentence.
pub(super) fn unused_certificate(listener: &Listener) -> Option<(&'static str, String)> {
    let tls = listener.tls.as_ref()?;
    // With Passthrough the Gateway API itself has them ignored.
    if !tls.certificate_refs.is_empty() && !tls.passes_through() {
        let message = "tls.certificateRefs: a waypoint has its identity of the mesh alone";
        return Some(("InvalidCertificateRef", message.to_owned()));
    }
    tls.frontend_validation.as_ref().map(|_| {
        let message = "tls.frontendValidation: clients prove an identity of the mesh";
        ("InvalidCACertificateRef", message.to_owned())
    })
}
