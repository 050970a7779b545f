//! Gateways of a waypoint class: the Service and pods of those that nobody made by hand, and what
//! is said of each. From here on a waypoint is a Service and pods, whoever made them.

mod asked;
mod listener;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::HBONE_PORT;
use mesh::service::{AppProtocol, IpFamilies};

use crate::deployment::replicas;
use crate::gateway::GatewaySpec;
use crate::object::{
    Custom, Exposure, Kind, Labels, Meta, Name, ObjectKey, Objects, Pod, Service, ServicePort,
    TargetPort,
};
use crate::routes::AttachedRoutes;
use crate::status::{ACCEPTED, Condition, ListenerStatus, PROGRAMMED, Status};
use crate::translation::{Input, Output, PodReport, Statuses};
use crate::waypoints::{GATEWAY_NAME_LABEL, WAYPOINT_FOR_LABEL, is_waypoint_class};
use crate::workloads::TUNNEL_LABEL;

pub(crate) use listener::{takes, unserved};

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

/// What descriptions of Gateways are made of.
pub(crate) struct Found<'a> {
    /// With the objects of [`completed`].
    pub(crate) input: &'a Input<'a>,
    /// The objects without those.
    pub(crate) written: &'a Objects,
    /// How many routes are attached to each listener.
    pub(crate) attached: &'a AttachedRoutes,
    /// All else that is made.
    pub(crate) output: &'a Output,
}

/// What is said of every waypoint, once all else is made; what it returns is of their listeners.
pub(crate) fn describe(
    found: &Found<'_>,
    statuses: &mut Statuses,
) -> BTreeMap<ObjectKey, Vec<ListenerStatus>> {
    let mut of_listeners = BTreeMap::new();
    asked::describe_classes(found.input.objects, statuses);
    for (name, gateway) in waypoints(found.input.objects) {
        let mut add = |condition| statuses.add(Kind::Gateway, name, condition);
        if let Some(why) = refusal(gateway) {
            add(Condition::fails(ACCEPTED, "Invalid", &why));
            add(Condition::fails(PROGRAMMED, "Invalid", why));
            continue;
        }
        let spec = &gateway.spec;
        add(asked::accepted(spec));
        if let Some(condition) = asked::client_certificate(spec) {
            add(condition);
        }
        let programmed = match replicas(&gateway.meta) {
            Ok(wanted) => programmed(found, gateway, wanted),
            Err(why) => {
                let message = format!("{why}; as many as run go on, or 1");
                Condition::fails(PROGRAMMED, "Invalid", message)
            }
        };
        let is_programmed = programmed.status == Status::True;
        add(programmed);
        let mut listeners = Vec::new();
        for listener in &spec.listeners {
            let place = (name.clone(), listener.name.clone());
            let known = listener::Known {
                attached: found.attached.get(&place).copied().unwrap_or_default(),
                is_programmed,
            };
            let parent = format!("listener {}", listener.name);
            for condition in listener::conditions(listener, spec, known) {
                add(condition.of_parent(&parent));
            }
            listeners.push(listener::status(listener, known));
        }
        let (kind, name) = (Kind::Gateway, name.clone());
        of_listeners.insert(ObjectKey { kind, name }, listeners);
    }
    of_listeners
}

/// Whether there is a replica that takes connections, and at which addresses.
fn programmed(found: &Found<'_>, gateway: &Custom<GatewaySpec>, wanted: u32) -> Condition {
    let Found { input, output, .. } = found;
    let name = &gateway.meta.name;
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
    if let Some(condition) = asked::unusable_address(&gateway.spec, &addresses, &key.hostname) {
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
        let by_hand = found.written.services.contains_key(&service.meta.name);
        let none = match (all, by_hand) {
            (0, true) => "its Service has no endpoint".to_owned(),
            (0, false) => format!("no replica runs yet, {wanted} wanted"),
            _ => format!("none of {all} replicas is ready"),
        };
        let message = format!("{none}{}", problem.unwrap_or_default());
        return not("Pending", message);
    }
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    Condition::holds(PROGRAMMED, "Programmed").because(format!(
        "addresses {}; {ready} of {all} replicas ready",
        addresses.join(", ")
    ))
}
