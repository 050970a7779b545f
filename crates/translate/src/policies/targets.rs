//! Policies with targetRefs: for waypoints alone. What of them L4 attributes decide is enforced for
//! every connection; one that needs more refuses all traffic of its targets, and says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh::policy::targeted::{PolicyTarget, TargetedPolicy};
use mesh::policy::{Action, Policy, Scope};
use mesh::route::GatewayKey;

use super::{DRY_RUN_ANNOTATION, key, rules};
use crate::object::{AuthorizationPolicy, Name};
use crate::security::{AuthorizationAction, TargetRef};
use crate::services;
use crate::status::{Condition, WAYPOINT_ACCEPTED};
use crate::translation::Input;
use crate::waypoints::{Traffic, Waypoints, is_waypoint_class};

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// The references of a policy; none: it has a selector, or is for its namespace.
pub(super) fn references(policy: &AuthorizationPolicy) -> Vec<&TargetRef> {
    let spec = &policy.spec;
    spec.target_ref.iter().chain(&spec.target_refs).collect()
}

pub(super) fn targeted(
    policy: &AuthorizationPolicy,
    input: &Input<'_>,
    waypoints: &Waypoints<'_>,
) -> (Option<TargetedPolicy>, Condition) {
    let fails = |reason, message: String| Condition::fails(WAYPOINT_ACCEPTED, reason, message);
    let mut targets = Vec::new();
    let mut problem = None;
    for reference in references(policy) {
        match resolve(policy, reference, input, waypoints) {
            Ok(mut found) => targets.append(&mut found),
            Err(why) => problem = problem.or(Some(why)),
        }
    }
    if targets.is_empty() {
        let (reason, message) =
            problem.unwrap_or(("TargetNotFound", "there is no target".to_owned()));
        return (None, fails(reason, message));
    }
    if policy.spec.action == AuthorizationAction::Audit {
        let (made, lost) = audit(policy, targets);
        let condition = match (lost, problem) {
            (Some(why), _) => {
                let message = format!("{why}: rules with them note nothing");
                fails("UnsupportedValue", message)
            }
            (None, Some((reason, message))) => fails(reason, message),
            (None, None) => Condition::holds(WAYPOINT_ACCEPTED, "Accepted"),
        };
        return (Some(made), condition);
    }
    let made = made(policy, targets);
    let condition = match (&made.unenforceable, problem) {
        (Some(why), _) if made.policy.dry_run => {
            let message = format!("{why}; as a dry run it has no effect");
            fails("UnsupportedValue", message)
        }
        (Some(why), _) => {
            let message = format!("{why}: all traffic to its targets is refused");
            fails("UnsupportedValue", message)
        }
        (None, Some((reason, message))) => fails(reason, message),
        (None, None) => Condition::holds(WAYPOINT_ACCEPTED, "Accepted"),
    };
    (Some(made), condition)
}

fn made(policy: &AuthorizationPolicy, targets: Vec<PolicyTarget>) -> TargetedPolicy {
    let action = match policy.spec.action {
        AuthorizationAction::Deny => Action::Deny,
        _ => Action::Allow,
    };
    let mut unsupported = BTreeSet::new();
    let namespace = &policy.meta.name.namespace;
    let rules = policy.spec.rules.iter();
    let rules = rules.filter_map(|rule| rules::rule(rule, action, namespace, &mut unsupported));
    let rules = rules.collect();
    if policy.spec.action == AuthorizationAction::Custom {
        unsupported.insert("the action CUSTOM".to_owned());
    }
    let unenforceable = cannot(&unsupported).map(Arc::from);
    TargetedPolicy {
        policy: Policy {
            key: key(&policy.meta.name),
            scope: Scope::WorkloadSelector,
            action,
            rules,
            dry_run: policy.meta.annotation(DRY_RUN_ANNOTATION) == Some("true"),
        },
        targets,
        unenforceable,
        audit: false,
    }
}

/// A policy of the action AUDIT, and what of it a waypoint cannot look at. A rule with such a
/// condition notes nothing: what is left of it would note more than was meant.
fn audit(
    policy: &AuthorizationPolicy,
    targets: Vec<PolicyTarget>,
) -> (TargetedPolicy, Option<String>) {
    let mut unsupported = BTreeSet::new();
    let namespace = &policy.meta.name.namespace;
    let of = |rule| rules::rule(rule, Action::Allow, namespace, &mut unsupported);
    let rules = policy.spec.rules.iter().filter_map(of).collect();
    let made = TargetedPolicy {
        policy: Policy {
            key: key(&policy.meta.name),
            scope: Scope::WorkloadSelector,
            action: Action::Allow,
            rules,
            // For waypoints that know no AUDIT.
            dry_run: true,
        },
        targets,
        unenforceable: None,
        audit: true,
    };
    (made, cannot(&unsupported))
}

/// What a waypoint cannot evaluate, in a sentence.
fn cannot(unsupported: &BTreeSet<String>) -> Option<String> {
    let names: Vec<_> = unsupported.iter().map(String::as_str).collect();
    let names = names.join(", ");
    (!names.is_empty()).then(|| format!("a waypoint cannot evaluate {names} yet"))
}

/// What a reference leads to, or reason and sentence why to nothing.
fn resolve(
    policy: &AuthorizationPolicy,
    to: &TargetRef,
    input: &Input<'_>,
    waypoints: &Waypoints<'_>,
) -> Result<Vec<PolicyTarget>, (&'static str, String)> {
    let own = &policy.meta.name.namespace;
    let name = Name::new(own, &to.name);
    let not_found = |message: String| Err(("TargetNotFound", message));
    if !to.namespace.is_empty() && to.namespace != **own {
        return not_found(format!(
            "a target is in the policy's own namespace, not in {}",
            to.namespace
        ));
    }
    let objects = input.objects;
    match (to.group.as_str(), to.kind.as_str()) {
        ("" | "core", "Service") => {
            let Some(service) = objects.services.get(&name) else {
                return not_found(format!("there is no Service {name}"));
            };
            let (bound, _) = waypoints.bound(&service.meta, Traffic::Service);
            if bound.is_none() {
                let message = format!("no waypoint carries the traffic of Service {name}");
                return Err(("AncestorNotBound", message));
            }
            let key = services::key(&name, input.options);
            Ok(vec![PolicyTarget::Service(key)])
        }
        (GATEWAY_GROUP, "Gateway") => match objects.gateways.get(&name) {
            Some(gateway) if is_waypoint_class(&gateway.spec.gateway_class_name) => {
                Ok(vec![gateway_target(&name)])
            }
            Some(_) => not_found(format!("Gateway {name} is no waypoint")),
            None => not_found(format!("there is no Gateway {name}")),
        },
        (GATEWAY_GROUP, "GatewayClass") => {
            if **own != *input.options.root_namespace {
                let root = &input.options.root_namespace;
                return not_found(format!("a policy for a GatewayClass belongs into {root}"));
            }
            let all = objects.gateways.iter();
            let of_class = all.filter(|(_, gateway)| {
                let class = &gateway.spec.gateway_class_name;
                *class == to.name && is_waypoint_class(class)
            });
            let targets: Vec<_> = of_class.map(|(name, _)| gateway_target(name)).collect();
            match targets.is_empty() {
                true => not_found(format!("no waypoint is of GatewayClass {}", to.name)),
                false => Ok(targets),
            }
        }
        (_, kind) => not_found(format!("a waypoint has no targets of kind {kind}")),
    }
}

fn gateway_target(name: &Name) -> PolicyTarget {
    PolicyTarget::Gateway(GatewayKey {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    })
}
