//! Which waypoint a service or pod is attached to. A waypoint is there when its Service is: one
//! with the label `gateway.networking.k8s.io/gateway-name` and the HBONE port. An attachment to one
//! that is not there binds nothing, and the object's status says so.

use std::collections::BTreeMap;

use mesh::HBONE_PORT;
use mesh::service::{GatewayAddress, GatewayDestination};

use crate::object::{Meta, Name, Objects};
use crate::services;
use crate::status::{Condition, WAYPOINT_BOUND};
use crate::translation::Options;

const USE_WAYPOINT_LABEL: &str = "istio.io/use-waypoint";
const USE_WAYPOINT_NAMESPACE_LABEL: &str = "istio.io/use-waypoint-namespace";
pub(crate) const WAYPOINT_FOR_LABEL: &str = "istio.io/waypoint-for";
pub(crate) const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// Gateway classes whose gateways are waypoints.
pub(crate) fn is_waypoint_class(class: &str) -> bool {
    matches!(class, "istio-waypoint" | "culvert-waypoint")
}

/// What traffic is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    Service,
    Workload,
}

pub(crate) struct Waypoints<'a> {
    objects: &'a Objects,
    known: BTreeMap<Name, Waypoint>,
}

struct Waypoint {
    address: GatewayAddress,
    for_services: bool,
    for_workloads: bool,
}

impl<'a> Waypoints<'a> {
    pub(crate) fn of(objects: &'a Objects, options: &Options) -> Self {
        let mut known = BTreeMap::new();
        for (name, service) in &objects.services {
            let hbone = service.ports.iter().any(|p| p.port == HBONE_PORT);
            let Some(gateway) = service.meta.label(GATEWAY_NAME_LABEL).filter(|_| hbone) else {
                continue;
            };
            let gateway = Name::new(&name.namespace, gateway);
            let of_gateway = objects.gateways.get(&gateway).map(|of| &of.meta);
            let scopes = [Some(&service.meta), of_gateway].into_iter().flatten();
            let scope = scopes.filter_map(|meta| meta.label(WAYPOINT_FOR_LABEL));
            // The ecosystem's default: for services only.
            let scope = scope.into_iter().next().unwrap_or("service");
            let waypoint = Waypoint {
                address: GatewayAddress {
                    destination: GatewayDestination::Hostname(services::key(name, options)),
                    hbone_mtls_port: HBONE_PORT,
                },
                for_services: matches!(scope, "service" | "all"),
                for_workloads: matches!(scope, "workload" | "all"),
            };
            known.insert(gateway, waypoint);
        }
        Self { objects, known }
    }

    /// Whether the Gateway is a waypoint that is there.
    pub(crate) fn is_known(&self, gateway: &Name) -> bool {
        self.known.contains_key(gateway)
    }

    /// The waypoint of an object, by its own label or its namespace's, and what to say about it.
    pub(crate) fn bound(
        &self,
        meta: &Meta,
        traffic: Traffic,
    ) -> (Option<GatewayAddress>, Option<Condition>) {
        // A waypoint's own pods and service have none, else traffic would go round.
        if meta.label(GATEWAY_NAME_LABEL).is_some() {
            return (None, None);
        }
        let namespace = self
            .objects
            .namespaces
            .get(&meta.name.namespace)
            .map(|n| &n.meta);
        let own = meta.label(USE_WAYPOINT_LABEL).map(|name| (meta, name));
        let wide = || namespace.and_then(|n| n.label(USE_WAYPOINT_LABEL).map(|name| (n, name)));
        let Some((by, name)) = own.or_else(wide).filter(|(_, name)| *name != "none") else {
            return (None, None);
        };
        let within = by
            .label(USE_WAYPOINT_NAMESPACE_LABEL)
            .unwrap_or(&meta.name.namespace);
        let name = Name::new(within, name);
        let Some(waypoint) = self.known.get(&name) else {
            let message = format!("there is no waypoint {name}; traffic goes without one");
            let missing = Condition::fails(WAYPOINT_BOUND, "WaypointMissing", message);
            return (None, Some(missing));
        };
        let takes = match traffic {
            Traffic::Service => waypoint.for_services,
            Traffic::Workload => waypoint.for_workloads,
        };
        match takes {
            true => {
                let bound = Condition::holds(WAYPOINT_BOUND, "Bound");
                (Some(waypoint.address.clone()), Some(bound))
            }
            false => (None, None),
        }
    }
}
