//! What a route may be attached to: ports of Services, and waypoints.

use mesh::route::{GatewayKey, HostPattern, ParentKey, ServicePort};

use super::Draft;
use super::reference::{GATEWAY_GROUP, Problem};
use crate::gateway::{Listener, ParentRef};
use crate::object::{Exposure, Name};
use crate::services;
use crate::translation::Input;
use crate::waypoints::{Traffic, Waypoints, is_waypoint_class};

/// Where a route is attached, and the host names that count there.
pub(super) type Found = (Vec<ParentKey>, Vec<HostPattern>);

pub(super) struct Parents<'a> {
    input: Input<'a>,
    waypoints: &'a Waypoints<'a>,
}

/// A parent in words, for the route's conditions.
pub(super) fn describe(route: &Name, reference: &ParentRef) -> String {
    let namespace = reference.namespace.as_deref();
    let name = Name::new(namespace.unwrap_or(&route.namespace), &reference.name);
    let kind = reference.kind.as_deref().unwrap_or("Gateway");
    let mut text = format!("{kind} {name}");
    if let Some(section) = &reference.section_name {
        text.push_str(&format!(" section {section}"));
    }
    if let Some(port) = reference.port {
        text.push_str(&format!(" port {port}"));
    }
    text
}

fn key(gateway: &Name) -> GatewayKey {
    GatewayKey {
        namespace: gateway.namespace.clone(),
        name: gateway.name.clone(),
    }
}

/// Whether some host is of both lists; an empty list is for all.
pub(super) fn meet(a: &[HostPattern], b: &[HostPattern]) -> bool {
    let pair = |a: &HostPattern| b.iter().any(|b| intersection(a, b).is_some());
    a.is_empty() || b.is_empty() || a.iter().any(pair)
}

/// The hosts that both patterns are for.
fn intersection<'a>(a: &'a HostPattern, b: &'a HostPattern) -> Option<&'a HostPattern> {
    match (a, b) {
        (HostPattern::Exact(name), wide) if wide.matches(name) => Some(a),
        (wide, HostPattern::Exact(name)) if wide.matches(name) => Some(b),
        (HostPattern::Below(one), HostPattern::Below(other)) if one.ends_with(&**other) => Some(a),
        (HostPattern::Below(one), HostPattern::Below(other)) if other.ends_with(&**one) => Some(b),
        _ => None,
    }
}

impl<'a> Parents<'a> {
    pub(super) fn new(input: &Input<'a>, waypoints: &'a Waypoints<'a>) -> Self {
        Self {
            input: *input,
            waypoints,
        }
    }

    /// Whether some proxy applies routes at the Service that the reference leads to. Without one
    /// they change nothing, and their author should know.
    pub(super) fn is_served(&self, route: &Name, reference: &ParentRef) -> bool {
        let namespace = reference.namespace.as_deref();
        let name = Name::new(namespace.unwrap_or(&route.namespace), &reference.name);
        let service = self.input.objects.services.get(&name);
        let is_service = reference.kind.as_deref() == Some("Service");
        service.filter(|_| is_service).is_none_or(|service| {
            let (waypoint, _) = self.waypoints.bound(&service.meta, Traffic::Service);
            waypoint.is_some()
        })
    }

    /// What the reference leads to; None when it is not ours to say.
    pub(super) fn find(
        &self,
        draft: &Draft<'_>,
        reference: &ParentRef,
    ) -> Option<Result<Found, Problem>> {
        let namespace = reference.namespace.as_deref();
        let name = Name::new(namespace.unwrap_or(&draft.name.namespace), &reference.name);
        let group = reference.group.as_deref().unwrap_or(GATEWAY_GROUP);
        match (group, reference.kind.as_deref().unwrap_or("Gateway")) {
            ("" | "core", "Service") => Some(self.service(draft, reference, &name)),
            (GATEWAY_GROUP, "Gateway") => self.gateway(draft, reference, &name),
            _ => None,
        }
    }

    fn service(
        &self,
        draft: &Draft<'_>,
        reference: &ParentRef,
        name: &Name,
    ) -> Result<Found, Problem> {
        let no = |message: String| Err(("NoMatchingParent", message));
        let Some(service) = self.input.objects.services.get(name) else {
            return no(format!("there is no Service {name}"));
        };
        if matches!(service.exposure, Exposure::External | Exposure::Headless) {
            return no(format!(
                "Service {name} has no address of its own that clients could mean"
            ));
        }
        let section = reference.section_name.as_deref();
        let ports = service.ports.iter().filter(|port| {
            reference.port.is_none_or(|number| number == port.port)
                && section.is_none_or(|section| section == port.name)
        });
        let own = *name.namespace == *draft.name.namespace;
        let keys: Vec<_> = ports
            .map(|port| {
                let port = ServicePort {
                    service: services::key(name, self.input.options),
                    port: port.port,
                };
                match own {
                    true => ParentKey::Producer(port),
                    false => ParentKey::Consumer(draft.name.namespace.clone(), port),
                }
            })
            .collect();
        match keys.is_empty() {
            true => no(format!("Service {name} has no such TCP port")),
            // Host names mean nothing at a Service (GEP-1426).
            false => Ok((keys, Vec::new())),
        }
    }

    fn gateway(
        &self,
        draft: &Draft<'_>,
        reference: &ParentRef,
        name: &Name,
    ) -> Option<Result<Found, Problem>> {
        let gateway = self.input.objects.gateways.get(name)?;
        if !is_waypoint_class(&gateway.spec.gateway_class_name) {
            return None;
        }
        let listeners = gateway.spec.listeners.iter().filter(|listener| {
            let section = reference.section_name.as_deref();
            section.is_none_or(|section| section == listener.name)
                && reference.port.is_none_or(|port| port == listener.port)
        });
        let mut problem = ("NoMatchingParent", "no such listener".to_owned());
        for listener in listeners {
            if !self.allows(listener, draft, name) {
                let message = format!("listener {} takes no such route", listener.name);
                problem = ("NotAllowedByListeners", message);
                continue;
            }
            match hosts_at(listener, &draft.hostnames) {
                Some(hosts) => return Some(Ok((vec![ParentKey::Gateway(key(name))], hosts))),
                None => {
                    let message = format!("no hostname is one of listener {}", listener.name);
                    problem = ("NoMatchingListenerHostname", message);
                }
            }
        }
        Some(Err(problem))
    }

    fn allows(&self, listener: &Listener, draft: &Draft<'_>, gateway: &Name) -> bool {
        let own = gateway.namespace == draft.name.namespace;
        let Some(allowed) = &listener.allowed_routes else {
            return own;
        };
        let kind = draft.kind.to_string();
        let kinds = &allowed.kinds;
        if !kinds.is_empty() && !kinds.iter().any(|allowed| allowed.kind == kind) {
            return false;
        }
        let namespaces = allowed.namespaces.as_ref();
        match namespaces.and_then(|n| n.from.as_deref()).unwrap_or("Same") {
            "All" => true,
            "Same" => own,
            "Selector" => {
                let labels = namespaces.and_then(|n| n.selector.as_ref());
                let namespace = self.input.objects.namespaces.get(&draft.name.namespace);
                let wanted = labels.map(|selector| &selector.match_labels);
                namespace.zip(wanted).is_some_and(|(namespace, wanted)| {
                    !wanted.is_empty()
                        && wanted
                            .iter()
                            .all(|(key, value)| namespace.meta.label(key) == Some(value.as_str()))
                })
            }
            _ => false,
        }
    }
}

/// The route's host names that are the listener's too; None: there is none.
fn hosts_at(listener: &Listener, hostnames: &[HostPattern]) -> Option<Vec<HostPattern>> {
    let own = listener.hostname.as_deref().filter(|host| !host.is_empty());
    let Some(own) = own.and_then(|host| HostPattern::parse(host).ok()) else {
        return Some(hostnames.to_vec());
    };
    if hostnames.is_empty() {
        return Some(vec![own]);
    }
    let both = hostnames.iter().filter_map(|host| intersection(host, &own));
    let both: Vec<_> = both.cloned().collect();
    (!both.is_empty()).then_some(both)
}
