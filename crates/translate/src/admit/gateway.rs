//! Checks of the Gateway API's kinds: what the API server would refuse is refused. What it takes
//! and we do not serve is told in the route's status (see [`crate::routes`]).

use mesh::route::{MATCHES_MAX, RULES_MAX, Target};

use super::security::Custom as Document;
use super::{Reason, meta};
use crate::gateway::{
    GatewayClassSpec, GatewaySpec, GrpcRouteSpec, HttpRouteSpec, Listener, ParentRef,
    ReferenceGrantSpec, StreamRouteSpec,
};
use crate::identifier::{is_label, is_name};
use crate::object::{Custom, Kind, Object};
use crate::routes::{Mistake, grpc_rule, http_rule, stream_rule};

/// Most parents of a route, host names of a route (Gateway API).
const PARENTS_MAX: usize = 32;
const HOSTNAMES_MAX: usize = 16;
/// Most listeners of a Gateway, and addresses that it asks for (Gateway API).
const LISTENERS_MAX: usize = 64;
const ADDRESSES_MAX: usize = 16;

pub(crate) fn gateway_class(from: Document<GatewayClassSpec>) -> Result<Object, Reason> {
    let custom = custom(Kind::GatewayClass, from)?;
    if custom.spec.controller_name.is_empty() {
        return Err("spec.controllerName is missing".to_owned());
    }
    Ok(Object::GatewayClass(custom.into()))
}

pub(crate) fn gateway(from: Document<GatewaySpec>) -> Result<Object, Reason> {
    let custom = custom(Kind::Gateway, from)?;
    if custom.spec.gateway_class_name.is_empty() {
        return Err("spec.gatewayClassName is missing".to_owned());
    }
    if custom.spec.listeners.is_empty() {
        return Err("spec.listeners is empty".to_owned());
    }
    check_counts(&[
        ("listeners", custom.spec.listeners.len(), LISTENERS_MAX),
        ("addresses", custom.spec.addresses.len(), ADDRESSES_MAX),
    ])?;
    let listeners = &custom.spec.listeners;
    for (at, one) in listeners.iter().enumerate() {
        let known = listeners[..at].iter().any(|other| other.name == one.name);
        let why = match known {
            true => Some(format!("the name `{}` is another listener's", one.name)),
            false => contradiction(one),
        };
        if let Some(why) = why {
            return Err(format!("spec.listeners[{at}]: {why}"));
        }
    }
    Ok(Object::Gateway(custom.into()))
}

/// Why a listener cannot be meant as it is written (the Gateway API's own rules).
fn contradiction(listener: &Listener) -> Option<String> {
    let protocol = &*listener.protocol;
    let has_host = listener
        .hostname
        .as_ref()
        .is_some_and(|host| !host.is_empty());
    let mode = listener.tls.as_ref().and_then(|tls| tls.mode.as_deref());
    if matches!(protocol, "HTTP" | "TCP" | "UDP") && listener.tls.is_some() {
        return Some(format!("protocol {protocol} has no tls"));
    }
    if matches!(protocol, "TCP" | "UDP") && has_host {
        return Some(format!("protocol {protocol} has no hostname"));
    }
    if protocol == "HTTPS" && mode.is_some_and(|mode| mode != "Terminate") {
        return Some("tls.mode of protocol HTTPS is Terminate".to_owned());
    }
    let known = matches!(mode, None | Some("Terminate" | "Passthrough"));
    (!known).then(|| "tls.mode is neither Terminate nor Passthrough".to_owned())
}

pub(crate) fn reference_grant(from: Document<ReferenceGrantSpec>) -> Result<Object, Reason> {
    let custom = custom(Kind::ReferenceGrant, from)?;
    if custom.spec.from.is_empty() || custom.spec.to.is_empty() {
        return Err("spec.from and spec.to need at least one entry each".to_owned());
    }
    Ok(Object::ReferenceGrant(custom.into()))
}

pub(crate) fn http_route(from: Document<HttpRouteSpec>) -> Result<Object, Reason> {
    let custom = custom(Kind::HTTPRoute, from)?;
    let spec = &custom.spec;
    let rules = spec.rules.iter().flatten();
    let shape = rules.clone().map(|r| (r.name.as_deref(), r.matches.len()));
    route(&spec.parent_refs, &spec.hostnames, shape.collect())?;
    let checked = rules.map(|rule| http_rule(rule, &mut unresolved));
    refuse_invalid(checked.map(|checked| checked.map(|_| ())))?;
    Ok(Object::HttpRoute(custom.into()))
}

pub(crate) fn grpc_route(from: Document<GrpcRouteSpec>) -> Result<Object, Reason> {
    let custom = custom(Kind::GRPCRoute, from)?;
    let spec = &custom.spec;
    let rules = spec.rules.iter().flatten();
    let shape = rules.clone().map(|r| (r.name.as_deref(), r.matches.len()));
    route(&spec.parent_refs, &spec.hostnames, shape.collect())?;
    let checked = rules.map(|rule| grpc_rule(rule, &mut unresolved));
    refuse_invalid(checked.map(|checked| checked.map(|_| ())))?;
    Ok(Object::GrpcRoute(custom.into()))
}

pub(crate) fn tls_route(from: Document<StreamRouteSpec>) -> Result<Object, Reason> {
    let custom = custom(Kind::TLSRoute, from)?;
    stream_route(&custom.spec)?;
    Ok(Object::TlsRoute(custom.into()))
}

pub(crate) fn tcp_route(from: Document<StreamRouteSpec>) -> Result<Object, Reason> {
    let custom = custom(Kind::TCPRoute, from)?;
    if !custom.spec.hostnames.is_empty() {
        return Err("a TCPRoute has no spec.hostnames".to_owned());
    }
    stream_route(&custom.spec)?;
    Ok(Object::TcpRoute(custom.into()))
}

fn stream_route(spec: &StreamRouteSpec) -> Result<(), Reason> {
    if spec.rules.is_empty() {
        return Err("spec.rules needs at least one rule".to_owned());
    }
    let shape = spec.rules.iter().map(|r| (r.name.as_deref(), 0));
    route(&spec.parent_refs, &spec.hostnames, shape.collect())?;
    let rules = spec.rules.iter();
    refuse_invalid(rules.map(|rule| stream_rule(rule, &mut unresolved).map(|_| ())))
}

fn custom<S>(kind: Kind, from: Document<S>) -> Result<Custom<S>, Reason> {
    let created = from.metadata.creation_timestamp.as_ref();
    let created = created.and_then(|time| u64::try_from(time.0.as_second()).ok());
    Ok(Custom {
        meta: meta(kind, from.metadata)?,
        created,
        spec: from.spec,
    })
}

/// What backends lead to is not looked at yet.
fn unresolved(_: &crate::gateway::BackendRef) -> Target {
    Target::Invalid("".into())
}

fn refuse_invalid(rules: impl Iterator<Item = Result<(), Mistake>>) -> Result<(), Reason> {
    for (at, rule) in rules.enumerate() {
        if let Err(Mistake::Invalid(why)) = rule {
            return Err(format!("spec.rules[{at}]: {why}"));
        }
    }
    Ok(())
}

/// Refuses lists of the spec that are too long: name, length and bound of each.
fn check_counts(lists: &[(&str, usize, usize)]) -> Result<(), Reason> {
    match lists.iter().find(|(_, length, most)| length > most) {
        Some((name, length, most)) => Err(format!(
            "spec.{name} has {length} entries, {} more than the {most} that there may be",
            length - most
        )),
        None => Ok(()),
    }
}

/// What all kinds of routes have; `rules` are names and numbers of matches.
fn route(
    parents: &[ParentRef],
    hostnames: &[String],
    rules: Vec<(Option<&str>, usize)>,
) -> Result<(), Reason> {
    check_counts(&[
        ("parentRefs", parents.len(), PARENTS_MAX),
        ("hostnames", hostnames.len(), HOSTNAMES_MAX),
        ("rules", rules.len(), RULES_MAX),
    ])?;
    let matches: usize = rules.iter().map(|(_, matches)| matches).sum();
    if matches > MATCHES_MAX {
        return Err(format!(
            "the route has {matches} matches, more than {MATCHES_MAX}"
        ));
    }
    for (at, parent) in parents.iter().enumerate() {
        let namespace = parent.namespace.as_deref().unwrap_or("default");
        if !is_name(&parent.name) || !is_label(namespace) || parent.port == Some(0) {
            return Err(format!(
                "spec.parentRefs[{at}] has no valid name, namespace or port"
            ));
        }
    }
    for hostname in hostnames {
        mesh::route::HostPattern::parse(hostname).map_err(|e| format!("spec.hostnames: {e}"))?;
    }
    let names: Vec<_> = rules.iter().filter_map(|(name, _)| *name).collect();
    match names
        .iter()
        .enumerate()
        .find(|(at, name)| names[..*at].contains(name))
    {
        Some((_, name)) => Err(format!("two rules have the name `{name}`")),
        None => Ok(()),
    }
}
