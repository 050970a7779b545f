//! `culvert.io/waypoint-only`: a workload that its waypoint's identity alone may connect to, over
//! HBONE alone. Said as a DENY of everybody else, so that every proxy understands it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh::policy::{Action, Clause, Match, Policy, PolicyKey, Rule, Scope, StringMatch};
use mesh::service::{GatewayDestination, ServiceKey};

use crate::object::{Meta, Pod};
use crate::services::Endpoints;
use crate::status::{Condition, SERVED};
use crate::translation::Input;
use crate::waypoints::{GATEWAY_NAME_LABEL, Traffic, Waypoints};

/// Annotation of a pod, or of a namespace for its pods: `true`.
const ANNOTATION: &str = "culvert.io/waypoint-only";

/// What the names of the policies begin with.
const POLICY_PREFIX: &str = "culvert_waypoint_only_";

/// Who speaks for each waypoint.
pub(crate) struct WaypointOnly<'a> {
    input: Input<'a>,
    waypoints: &'a Waypoints<'a>,
    services: &'a BTreeMap<ServiceKey, mesh::Service>,
    endpoints: &'a Endpoints,
    accounts: BTreeMap<ServiceKey, BTreeSet<String>>,
}

impl<'a> WaypointOnly<'a> {
    pub(crate) fn of(
        input: &Input<'a>,
        waypoints: &'a Waypoints<'a>,
        services: &'a BTreeMap<ServiceKey, mesh::Service>,
        endpoints: &'a Endpoints,
    ) -> Self {
        let mut accounts: BTreeMap<ServiceKey, BTreeSet<String>> = BTreeMap::new();
        let pods = input.objects.pods.iter();
        for (name, pod) in pods.filter(|(_, pod)| pod.meta.label(GATEWAY_NAME_LABEL).is_some()) {
            let account = format!("{}/sa/{}", name.namespace, pod.service_account);
            for service in endpoints.pods.get(name).into_iter().flat_map(|s| s.keys()) {
                let known = accounts.entry(service.clone()).or_default();
                known.insert(account.clone());
            }
        }
        Self {
            input: *input,
            waypoints,
            services,
            endpoints,
            accounts,
        }
    }

    /// The policy of a pod that is for its waypoint only, and what to say about it.
    pub(crate) fn policy(&self, pod: &Pod) -> (Option<Policy>, Option<Condition>) {
        if !self.is_asked(&pod.meta) {
            return (None, None);
        }
        let waypoints = self.waypoints_of(pod);
        let condition = waypoints.is_empty().then(|| {
            let message =
                format!("{ANNOTATION} is set and no waypoint is bound: nobody may connect");
            Condition::fails(SERVED, "NoWaypoint", message)
        });
        let accounts = waypoints.iter().filter_map(|key| self.accounts.get(key));
        let accounts: BTreeSet<&String> = accounts.flatten().collect();
        (Some(self.deny_others(&pod.meta, &accounts)), condition)
    }

    /// Anything but a plain no is a yes: who writes it wants less to be open.
    fn is_asked(&self, meta: &Meta) -> bool {
        if meta.label(GATEWAY_NAME_LABEL).is_some() {
            return false;
        }
        let namespace = self.input.objects.namespaces.get(&meta.name.namespace);
        let wide = || namespace.and_then(|n| n.meta.annotation(ANNOTATION));
        let said = meta.annotation(ANNOTATION).or_else(wide);
        said.is_some_and(|value| value != "false")
    }

    /// Waypoints of the pod itself and of the services that it is behind.
    fn waypoints_of(&self, pod: &Pod) -> BTreeSet<ServiceKey> {
        let (own, _) = self.waypoints.bound(&pod.meta, Traffic::Workload);
        let behind = self.endpoints.pods.get(&pod.meta.name);
        let behind = behind.into_iter().flat_map(|services| services.keys());
        let services = behind.filter_map(|key| self.services.get(key)?.waypoint.clone());
        let all = own.into_iter().chain(services);
        let keys = all.filter_map(|waypoint| match waypoint.destination {
            GatewayDestination::Hostname(key) => Some(key),
            GatewayDestination::Address(_) => None,
        });
        keys.collect()
    }

    fn deny_others(&self, meta: &Meta, accounts: &BTreeSet<&String>) -> Policy {
        let domain = &self.input.options.trust_domain;
        let principals = accounts.iter();
        let principals: Vec<_> = principals
            .map(|account| StringMatch::Exact(format!("{domain}/ns/{account}").into()))
            .collect();
        let names: Vec<_> = accounts.iter().map(|a| a.replace("/sa/", ".")).collect();
        let name: Arc<str> = match names.is_empty() {
            true => format!("{POLICY_PREFIX}nobody").into(),
            false => format!("{POLICY_PREFIX}{}", names.join("+")).into(),
        };
        // Plaintext has no identity, so it is among the others. A rule without clauses is for all.
        let clauses = match principals.is_empty() {
            true => Vec::new(),
            false => vec![Clause {
                matches: vec![Match {
                    not_principals: principals,
                    ..Match::default()
                }],
            }],
        };
        Policy {
            key: PolicyKey {
                namespace: meta.name.namespace.clone(),
                name,
            },
            scope: Scope::WorkloadSelector,
            action: Action::Deny,
            rules: vec![Rule { clauses }],
            dry_run: false,
        }
    }
}
