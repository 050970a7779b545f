//! What a route may be attached to: ports of Services, and waypoints.

use mesh::route::{GatewayKey, HostPattern, ParentKey, ServicePort};

use super::Draft;
use super::reference::{GATEWAY_GROUP, Problem};
use crate::gateway::{GatewaySpec, Listener, ParentRef};
use crate::gateways;
use crate::object::{Exposure, Kind, Name, Service};
use crate::services;
use crate::translation::Input;
use crate::waypoints::{Traffic, Waypoints, is_waypoint_class};

/// Where a route is attached, and the host names that count there.
pub(super) struct Found {
    pub(super) keys: Vec<ParentKey>,
    pub(super) hostnames: Vec<HostPattern>,
}

pub(super) struct Parents<'a> {
    input: Input<'a>,
    waypoints: &'a Waypoints<'a>,
}

/// What a parentRef of ours leads to.
pub(super) struct Parent<'a> {
    reference: &'a ParentRef,
    pub(super) name: Name,
    of: Of<'a>,
    /// In words, for the route's conditions.
    pub(super) text: String,
}

enum Of<'a> {
    Service(&'a Service),
    NoService,
    Gateway(&'a GatewaySpec),
}

impl Parent<'_> {
    /// Whether it is for this listener.
    fn names(&self, listener: &Listener) -> bool {
        let section = self.reference.section_name.as_deref();
        section.is_none_or(|section| section == listener.name)
            && self.reference.port.is_none_or(|port| port == listener.port)
    }
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

    /// Whether a Gateway of another controller takes routes that name no parent: then it is that
    /// controller's to say what becomes of them.
    pub(super) fn has_default(&self) -> bool {
        let mut others = self.input.objects.gateways.values();
        others.any(|gateway| {
            let scope = gateway.spec.default_scope.as_deref();
            scope.is_some_and(|scope| scope != "None")
                && !is_waypoint_class(&gateway.spec.gateway_class_name)
        })
    }

    /// What the reference leads to; None when it is not ours to say.
    pub(super) fn find(&self, route: &Name, reference: &'a ParentRef) -> Option<Parent<'a>> {
        let namespace = reference.namespace.as_deref();
        let name = Name::new(namespace.unwrap_or(&route.namespace), &reference.name);
        let group = reference.group.as_deref().unwrap_or(GATEWAY_GROUP);
        let kind = reference.kind.as_deref().unwrap_or("Gateway");
        let objects = self.input.objects;
        let of = match (group, kind) {
            ("" | "core", "Service") => match objects.services.get(&name) {
                Some(service) => Of::Service(service),
                None => Of::NoService,
            },
            (GATEWAY_GROUP, "Gateway") => {
                let spec = &objects.gateways.get(&name)?.spec;
                Of::Gateway(Some(spec).filter(|s| is_waypoint_class(&s.gateway_class_name))?)
            }
            _ => return None,
        };
        let mut text = format!("{kind} {name}");
        if let Some(section) = &reference.section_name {
            text.push_str(&format!(" section {section}"));
        }
        if let Some(port) = reference.port {
            text.push_str(&format!(" port {port}"));
        }
        Some(Parent {
            reference,
            name,
            of,
            text,
        })
    }

    /// Why no proxy applies routes at the parent, if none does: then they change nothing, and their
    /// author should know.
    pub(super) fn unserved(&self, parent: &Parent<'_>) -> Option<&'static str> {
        match parent.of {
            Of::Service(service) => {
                let (waypoint, _) = self.waypoints.bound(&service.meta, Traffic::Service);
                let why = "no waypoint carries the traffic of the Service, so the route changes \
                           nothing: label it istio.io/use-waypoint";
                waypoint.is_none().then_some(why)
            }
            Of::Gateway(_) => {
                let why = "the Gateway has no Service with the HBONE port, so the route changes \
                           nothing; its own conditions say why";
                (!self.waypoints.is_known(&parent.name)).then_some(why)
            }
            Of::NoService => None,
        }
    }

    /// Where a draft is attached.
    pub(super) fn attach(&self, draft: &Draft<'_>, parent: &Parent<'_>) -> Result<Found, Problem> {
        let found = match parent.of {
            Of::Service(service) => self.at_service(draft, parent, service),
            Of::Gateway(spec) => self.at_gateway(draft, parent, spec),
            Of::NoService => {
                let message = format!("there is no Service {}", parent.name);
                Err(("NoMatchingParent", message))
            }
        }?;
        match draft.unusable() {
            Some(problem) => Err(problem),
            None => Ok(found),
        }
    }

    fn at_service(
        &self,
        draft: &Draft<'_>,
        parent: &Parent<'_>,
        service: &Service,
    ) -> Result<Found, Problem> {
        let Parent {
            reference, name, ..
        } = parent;
        let no = |message: String| Err(("NoMatchingParent", message));
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
        // Host names mean nothing at a Service (GEP-1426), but for the server name of TLS.
        let hostnames = match draft.kind {
            Kind::TLSRoute => draft.hostnames.clone(),
            _ => Vec::new(),
        };
        match keys.is_empty() {
            true => no(format!("Service {name} has no such TCP port")),
            false => Ok(Found { keys, hostnames }),
        }
    }

    fn at_gateway(
        &self,
        draft: &Draft<'_>,
        parent: &Parent<'_>,
        spec: &GatewaySpec,
    ) -> Result<Found, Problem> {
        let mut problem = ("NoMatchingParent", "no such listener".to_owned());
        let mut hostnames: Option<Vec<HostPattern>> = None;
        for listener in spec.listeners.iter().filter(|l| parent.names(l)) {
            match self.at_listener(draft, (&parent.name, spec), listener) {
                Ok(hosts) => hostnames = Some(union(hostnames, hosts)),
                Err(why) => problem = why,
            }
        }
        let hostnames = hostnames.ok_or(problem)?;
        let keys = vec![ParentKey::Gateway(key(&parent.name))];
        Ok(Found { keys, hostnames })
    }

    /// The host names for which a draft is attached to a listener.
    fn at_listener(
        &self,
        draft: &Draft<'_>,
        (gateway, spec): (&Name, &GatewaySpec),
        listener: &Listener,
    ) -> Result<Vec<HostPattern>, Problem> {
        if let Some(why) = gateways::unserved(listener, spec) {
            let message = format!("listener {} is not served: {why}", listener.name);
            return Err(("NotAllowedByListeners", message));
        }
        if !self.allows(listener, draft, gateway) {
            let message = format!("listener {} takes no such route", listener.name);
            return Err(("NotAllowedByListeners", message));
        }
        if draft.kind == Kind::TCPRoute {
            return Ok(Vec::new());
        }
        hosts_at(listener, &draft.hostnames).ok_or_else(|| {
            let message = format!("no hostname is one of listener {}", listener.name);
            ("NoMatchingListenerHostname", message)
        })
    }

    /// The listeners that take a draft which is attached.
    pub(super) fn listeners(&self, draft: &Draft<'_>, parent: &Parent<'a>) -> Vec<&'a str> {
        let Of::Gateway(spec) = parent.of else {
            return Vec::new();
        };
        let at = (&parent.name, spec);
        let named = spec.listeners.iter().filter(|one| parent.names(one));
        let taking = named.filter(|one| self.at_listener(draft, at, one).is_ok());
        taking.map(|one| &*one.name).collect()
    }

    fn allows(&self, listener: &Listener, draft: &Draft<'_>, gateway: &Name) -> bool {
        let own = gateway.namespace == draft.name.namespace;
        if !gateways::takes(listener, &draft.kind.to_string()) {
            return false;
        }
        let Some(allowed) = &listener.allowed_routes else {
            return own;
        };
        let namespaces = allowed.namespaces.as_ref();
        match namespaces.and_then(|n| n.from.as_deref()).unwrap_or("Same") {
            "All" => true,
            "Same" => own,
            "Selector" => {
                let labels = namespaces.and_then(|n| n.selector.as_ref());
                let namespace = self.input.objects.namespaces.get(&draft.name.namespace);
                let both = namespace.zip(labels);
                both.is_some_and(|(namespace, selector)| selector.takes(&namespace.meta))
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

/// Of two lists of host names, where an empty one is for all.
fn union(one: Option<Vec<HostPattern>>, other: Vec<HostPattern>) -> Vec<HostPattern> {
    let Some(mut one) = one else {
        return other;
    };
    if one.is_empty() || other.is_empty() {
        return Vec::new();
    }
    for host in other {
        if !one.contains(&host) {
            one.push(host);
        }
    }
    one
}
