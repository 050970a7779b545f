//! Gateways of a waypoint class: the Service and pods of those that nobody made by hand, and what
//! is said of each. From here on a waypoint is a Service and pods, whoever made them.

mod asked;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::HBONE_PORT;
use mesh::service::{AppProtocol, IpFamilies};

use crate::deployment::replicas;
use crate::gateway::{GatewaySpec, Listener, RouteGroupKind};
use crate::object::{
    Custom, Exposure, Kind, Labels, Meta, Name, Objects, Pod, Service, ServicePort, TargetPort,
};
use crate::status::{ACCEPTED, CONFLICTED, Condition, PROGRAMMED, RESOLVED_REFS};
use crate::translation::{Input, Output, PodReport, Statuses};
use crate::waypoints::{GATEWAY_NAME_LABEL, WAYPOINT_FOR_LABEL, is_waypoint_class};
use crate::workloads::TUNNEL_LABEL;

pub(crate) use asked::serves;

/// Group of the routes that a waypoint serves, and their kinds.
const GROUP: &str = "gateway.networking.k8s.io";
const KINDS: [&str; 4] = ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"];

/// The objects with those that waypoints without a Service of their own have.
pub(crate) fn completed<'a>(input: &Input<'a>) -> Cow<'a, Objects> {
    let mut objects = Cow::Borrowed(input.objects);
    let named = |meta: &Meta, gateway: &Name| {
        meta.label(GATEWAY_NAME_LABEL) == Some(&*gateway.name)
            && meta.name.namespace == gateway.namespace
    };
    for (name, gateway) in waypoints(input.objects) {
        let all = &input.objects.services;
        let by_hand = all.values().any(|service| named(&service.meta, name));
        let taken = all.contains_key(name);
        if by_hand || taken || refusal(gateway).is_some() || gateway.meta.deleting {
            continue;
        }
        let made = objects.to_mut();
        made.services
            .insert(name.clone(), Arc::new(service(gateway)));
        for report in input.reports {
            let of_it = report.name.namespace == name.namespace
                && report
                    .waypoint
                    .as_ref()
                    .is_some_and(|w| w.gateway == name.name);
            if of_it && !made.pods.contains_key(&report.name) {
                made.pods
                    .insert(report.name.clone(), Arc::new(pod(gateway, report)));
            }
        }
    }
    objects
}

fn waypoints(objects: &Objects) -> impl Iterator<Item = (&Name, &Custom<GatewaySpec>)> {
    let all = objects.gateways.iter();
    let all = all.map(|(name, gateway)| (name, &**gateway));
    all.filter(|(_, gateway)| is_waypoint_class(&gateway.spec.gateway_class_name))
}

/// Why nothing of it is served.
pub(crate) fn refusal(gateway: &Custom<GatewaySpec>) -> Option<String> {
    let hbone = gateway
        .spec
        .listeners
        .iter()
        .any(|listener| listener.protocol == "HBONE" && listener.port == HBONE_PORT);
    (!hbone).then(|| format!("a waypoint needs a listener of protocol HBONE at port {HBONE_PORT}"))
}

fn meta(name: Name, gateway: &Custom<GatewaySpec>) -> Meta {
    // The Gateway's author says what they are like; what makes them a waypoint's is ours.
    let infrastructure = gateway.spec.infrastructure.clone().unwrap_or_default();
    let mut labels = infrastructure.labels;
    labels.insert(
        GATEWAY_NAME_LABEL.to_owned(),
        gateway.meta.name.name.to_string(),
    );
    if let Some(scope) = gateway.meta.label(WAYPOINT_FOR_LABEL) {
        labels.insert(WAYPOINT_FOR_LABEL.to_owned(), scope.to_owned());
    }
    Meta {
        name,
        uid: None,
        labels,
        annotations: infrastructure.annotations,
        owner: None,
        deleting: false,
    }
}

fn service(gateway: &Custom<GatewaySpec>) -> Service {
    let meta = meta(gateway.meta.name.clone(), gateway);
    let selector = [(
        GATEWAY_NAME_LABEL.to_owned(),
        gateway.meta.name.name.to_string(),
    )];
    Service {
        meta,
        exposure: Exposure::Allocate,
        balancer_ips: Vec::new(),
        ports: vec![ServicePort {
            name: "mesh".to_owned(),
            port: HBONE_PORT,
            target: TargetPort::Number(HBONE_PORT),
            protocol: AppProtocol::Unknown,
        }],
        selector: Labels::from(selector),
        families: IpFamilies::Automatic,
        node_local: false,
        distribution: None,
        publish_not_ready: false,
    }
}

fn pod(gateway: &Custom<GatewaySpec>, report: &PodReport) -> Pod {
    let mut meta = meta(report.name.clone(), gateway);
    meta.uid = Some(report.uid.clone());
    meta.labels
        .insert(TUNNEL_LABEL.to_owned(), "http".to_owned());
    let takes = report
        .waypoint
        .as_ref()
        .is_some_and(|w| w.ready && !w.draining);
    Pod {
        meta,
        node: Some(report.node.clone()),
        service_account: gateway.meta.name.name.clone(),
        host_network: false,
        ips: report.ips.clone(),
        // One that is not ready, or only ends what it has, stays an endpoint of its Service: it has
        // to find itself bound for what it still serves.
        ready: Some(takes),
        finished: false,
        ports: BTreeMap::new(),
    }
}

/// What is said of every waypoint, once all else is made.
pub(crate) fn describe(
    input: &Input<'_>,
    attached: &BTreeMap<(Name, String), usize>,
    output: &Output,
    statuses: &mut Statuses,
) {
    asked::describe_classes(input.objects, statuses);
    for (name, gateway) in waypoints(input.objects) {
        let mut add = |condition| statuses.add(Kind::Gateway, name, condition);
        if let Some(why) = refusal(gateway) {
            add(Condition::fails(ACCEPTED, "Invalid", &why));
            add(Condition::fails(PROGRAMMED, "Invalid", why));
            continue;
        }
        add(asked::accepted(&gateway.spec));
        if let Some(condition) = asked::client_certificate(&gateway.spec) {
            add(condition);
        }
        add(match replicas(&gateway.meta) {
            Ok(_) => programmed(input, (name, &gateway.spec), output),
            Err(why) => {
                let message = format!("{why}; as many as run go on, or 1");
                Condition::fails(PROGRAMMED, "Invalid", message)
            }
        });
        for listener in &gateway.spec.listeners {
            let place = (name.clone(), listener.name.clone());
            let count = attached.get(&place).copied().unwrap_or_default();
            let parent = format!("listener {}", listener.name);
            for condition in of_listener(listener, &gateway.spec, count) {
                add(condition.of_parent(&parent));
            }
        }
    }
}

/// Whether there is a replica that takes connections, and at which addresses.
fn programmed(
    input: &Input<'_>,
    (name, spec): (&Name, &GatewaySpec),
    output: &Output,
) -> Condition {
    let not = |reason, message: String| Condition::fails(PROGRAMMED, reason, message);
    let services = input.objects.services.values();
    let of_it = |meta: &Meta| {
        meta.label(GATEWAY_NAME_LABEL) == Some(&*name.name) && meta.name.namespace == name.namespace
    };
    let mut services = services.filter(|service| of_it(&service.meta));
    let Some(service) = services.next() else {
        let message = format!("there is another Service {name}, and the waypoint needs the name");
        return not("AddressNotUsable", message);
    };
    let key = crate::services::key(&service.meta.name, input.options);
    let made = output.services.get(&key);
    let addresses: Vec<_> = made
        .into_iter()
        .flat_map(|service| &service.addresses)
        .map(|address| address.cidr.addr())
        .collect();
    if addresses.is_empty() {
        return not(
            "AddressNotAssigned",
            "its Service has no address".to_owned(),
        );
    }
    if let Some(condition) = asked::unusable_address(spec, &addresses, &key.hostname) {
        return condition;
    }
    let workloads = output.workloads.values();
    let endpoints = workloads.filter(|workload| workload.services.contains_key(&key));
    let (mut all, mut ready) = (0, 0);
    for workload in endpoints {
        all += 1;
        ready += usize::from(workload.health == mesh::workload::Health::Healthy);
    }
    if ready == 0 {
        let reports = input
            .reports
            .iter()
            .filter(|r| r.name.namespace == name.namespace);
        let reports = reports.filter_map(|report| report.waypoint.as_ref());
        let mut problems = reports.filter(|w| w.gateway == name.name && !w.problem.is_empty());
        let problem = problems.next().map(|w| format!(": {}", w.problem));
        let message = format!(
            "none of {all} replicas is ready{}",
            problem.unwrap_or_default()
        );
        return not("Pending", message);
    }
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    Condition::holds(PROGRAMMED, "Programmed").because(format!(
        "addresses {}; {ready} of {all} replicas ready",
        addresses.join(", ")
    ))
}

fn of_listener(listener: &Listener, spec: &GatewaySpec, attached: usize) -> Vec<Condition> {
    let allowed = listener
        .allowed_routes
        .iter()
        .flat_map(|routes| &routes.kinds);
    let mut allowed = allowed;
    let refs = match (
        allowed.find(|kind| !is_served(kind)),
        asked::unused_certificate(listener),
    ) {
        (Some(kind), _) => {
            let message = format!("a waypoint serves no {}", kind.kind);
            Condition::fails(RESOLVED_REFS, "InvalidRouteKinds", message)
        }
        (None, Some((reason, message))) => Condition::fails(RESOLVED_REFS, reason, message),
        (None, None) => Condition::holds(RESOLVED_REFS, "ResolvedRefs"),
    };
    let port = listener.port;
    let rival = spec.listeners.iter().find(|other| {
        other.name != listener.name
            && (other.port, &other.hostname) == (port, &listener.hostname)
            && other.protocol == listener.protocol
    });
    let accepted = match asked::unaccepted(listener) {
        None => {
            Condition::holds(ACCEPTED, "Accepted").because(format!("attached routes: {attached}"))
        }
        Some((reason, message)) => Condition::fails(ACCEPTED, reason, message),
    };
    let conflicted = rival.map(|rival| {
        let message = format!("listener {} has the same port and host name", rival.name);
        Condition::holds(CONFLICTED, "HostnameConflict").because(message)
    });
    [Some(accepted), Some(refs), conflicted]
        .into_iter()
        .flatten()
        .collect()
}

/// Whether a waypoint serves routes of a kind.
pub(crate) fn is_served(kind: &RouteGroupKind) -> bool {
    kind.group.as_deref().unwrap_or(GROUP) == GROUP && KINDS.contains(&&*kind.kind)
}
