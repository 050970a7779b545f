//! What references to backends lead to, and whether they may.

use mesh::route::Target;

use crate::gateway::{BackendRef, ParentRef};
use crate::object::{Exposure, Kind, Name};
use crate::services;
use crate::translation::Input;

/// API group of routes.
pub(super) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

pub(super) struct References<'a> {
    input: Input<'a>,
}

/// Whose references are followed.
#[derive(Clone, Copy)]
pub(super) struct Referrer<'a> {
    pub(super) kind: Kind,
    pub(super) name: &'a Name,
    pub(super) parents: &'a [ParentRef],
}

impl Referrer<'_> {
    /// The Service that a reference names, whatever its kind.
    pub(super) fn service(&self, to: &BackendRef) -> Name {
        let namespace = to.namespace.as_deref().unwrap_or(&self.name.namespace);
        Name::new(namespace, &to.name)
    }

    /// Whether it is the route of a consumer for this Service and for nothing else: its clients
    /// asked for the Service themselves, so leading them there opens nothing.
    fn consumes(&self, service: &Name) -> bool {
        let is_service = |parent: &ParentRef| {
            (parent.group.as_deref(), parent.kind.as_deref()) == (Some(""), Some("Service"))
                && parent.namespace.as_deref() == Some(&*service.namespace)
                && *parent.name == *service.name
        };
        !self.parents.is_empty() && self.parents.iter().all(is_service)
    }
}

/// Reason and message of a condition that does not hold.
pub(super) type Problem = (&'static str, String);

impl<'a> References<'a> {
    pub(super) fn new(input: &Input<'a>) -> Self {
        Self { input: *input }
    }

    /// The target of a route's reference. One that leads nowhere is a target too: its share fails.
    pub(super) fn target(
        &self,
        from: Referrer<'_>,
        reference: &BackendRef,
    ) -> (Target, Option<Problem>) {
        match self.resolve(from, reference) {
            Ok(target) => (target, None),
            Err(problem) => (Target::Invalid(problem.1.as_str().into()), Some(problem)),
        }
    }

    fn resolve(&self, from: Referrer<'_>, to: &BackendRef) -> Result<Target, Problem> {
        let group = to.group.as_deref().unwrap_or_default();
        let to_kind = to.kind.as_deref().unwrap_or("Service");
        if (group, to_kind) != ("", "Service") {
            let message = format!("backend {to_kind} {} is no Service", to.name);
            return Err(("InvalidKind", message));
        }
        let name = from.service(to);
        let namespace = &name.namespace;
        // Before anything is said of the service: whether it exists is not for everybody.
        let is_own = *namespace == from.name.namespace;
        if !is_own && !from.consumes(&name) && !self.is_granted(from, &name) {
            let message = format!("no ReferenceGrant in {namespace} allows Service {name}");
            return Err(("RefNotPermitted", message));
        }
        let found = self.input.objects.services.get(&name);
        let Some(service) = found.filter(|s| s.exposure != Exposure::External) else {
            return Err(("BackendNotFound", format!("there is no Service {name}")));
        };
        let port = to.port.unwrap_or_default();
        if !service.ports.iter().any(|p| p.port == port) {
            let message = format!("Service {name} has no TCP port {port}");
            return Err(("BackendNotFound", message));
        }
        Ok(Target::Service {
            service: services::key(&name, self.input.options),
            port,
        })
    }

    fn is_granted(&self, route: Referrer<'_>, service: &Name) -> bool {
        let kind = route.kind.to_string();
        let grants = self.input.objects.reference_grants.values();
        let mut grants = grants.filter(|grant| grant.meta.name.namespace == service.namespace);
        grants.any(|grant| {
            let from = grant.spec.from.iter().any(|from| {
                from.group == GATEWAY_GROUP
                    && from.kind == kind
                    && *from.namespace == *route.name.namespace
            });
            let to = grant.spec.to.iter().any(|to| {
                to.group.is_empty()
                    && to.kind == "Service"
                    && to.name.as_deref().is_none_or(|name| *name == *service.name)
            });
            from && to
        })
    }
}
