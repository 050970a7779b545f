//! AuthorizationPolicy and PeerAuthentication to the L4 policies that ztunnel evaluates, and which
//! workloads list which of them; those with targets to the policies of waypoints. Knows no
//! connection.

mod peer;
mod rules;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh::policy::targeted::TargetedPolicy;
use mesh::policy::{Action, Policy, PolicyKey, Rule, Scope};

use crate::object::{AuthorizationPolicy, Kind, Labels, Name, ObjectKey};
use crate::security::AuthorizationAction;
use crate::status::{Condition, ZTUNNEL_ACCEPTED};
use crate::translation::{Input, Statuses};
use crate::waypoints::Waypoints;

use peer::Peers;
pub(crate) use rules::{account, check_condition, range};

/// Annotation that has a policy only logged.
const DRY_RUN_ANNOTATION: &str = "istio.io/dry-run";

/// All policies, and who selects whom.
pub(crate) struct Policies {
    pub(crate) policies: BTreeMap<PolicyKey, Policy>,
    /// For waypoints.
    pub(crate) targeted: BTreeMap<PolicyKey, TargetedPolicy>,
    selecting: Vec<Selecting>,
    peers: Peers,
}

/// A policy for the workloads with `labels` of a namespace, or of all when that is None.
struct Selecting {
    key: PolicyKey,
    namespace: Option<Arc<str>>,
    labels: Labels,
}

impl Policies {
    pub(crate) fn of(
        input: &Input<'_>,
        waypoints: &Waypoints<'_>,
        statuses: &mut Statuses,
    ) -> Self {
        let objects = input.objects;
        let root_namespace = &*input.options.root_namespace;
        let mut policies = BTreeMap::new();
        let mut all_targeted = BTreeMap::new();
        let mut selecting = Vec::new();
        for policy in objects.authorization_policies.values() {
            let name = &policy.meta.name;
            if !targets::references(policy).is_empty() {
                let (made, condition) = targets::targeted(policy, input, waypoints);
                statuses.add(Kind::AuthorizationPolicy, name, condition);
                all_targeted.extend(made.map(|made| (made.policy.key.clone(), made)));
                continue;
            }
            let (made, condition) = authorization(policy, root_namespace);
            statuses.add(Kind::AuthorizationPolicy, name, condition);
            let Some(made) = made else { continue };
            if made.scope == Scope::WorkloadSelector {
                let global = *name.namespace == *root_namespace;
                selecting.push(Selecting {
                    key: made.key.clone(),
                    namespace: (!global).then(|| name.namespace.clone()),
                    labels: labels(policy),
                });
            }
            policies.insert(made.key.clone(), made);
        }
        let peers = Peers::of(objects, root_namespace);
        for policy in peers.policies() {
            policies.insert(policy.key.clone(), policy);
        }
        for name in objects.peer_authentications.keys() {
            let condition = Condition::holds(ZTUNNEL_ACCEPTED, "Accepted");
            statuses.add(Kind::PeerAuthentication, name, condition);
        }
        Self {
            policies,
            targeted: all_targeted,
            selecting,
            peers,
        }
    }

    /// The policies that a workload lists, in the order of their names.
    pub(crate) fn listed(&self, namespace: &str, labels: &Labels) -> Vec<PolicyKey> {
        let mut keys = BTreeSet::new();
        for policy in &self.selecting {
            let here = policy.namespace.as_deref().is_none_or(|n| n == namespace);
            if here && selects(&policy.labels, labels) {
                keys.insert(policy.key.clone());
            }
        }
        keys.extend(self.peers.listed(namespace, labels));
        keys.into_iter().collect()
    }
}

/// Whether all labels of a selector are among those of a workload.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn labels(policy: &AuthorizationPolicy) -> Labels {
    policy
        .spec
        .selector
        .as_ref()
        .map(|s| s.match_labels.clone())
        .unwrap_or_default()
}

fn key(name: &Name) -> PolicyKey {
    PolicyKey {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    }
}

fn authorization(policy: &AuthorizationPolicy, root: &str) -> (Option<Policy>, Condition) {
    let spec = &policy.spec;
    let name = &policy.meta.name;
    let action = match spec.action {
        AuthorizationAction::Allow => Action::Allow,
        AuthorizationAction::Deny => Action::Deny,
        AuthorizationAction::Audit | AuthorizationAction::Custom => {
            let message = "ztunnel has the actions ALLOW and DENY; this policy has no effect";
            return (
                None,
                Condition::fails(ZTUNNEL_ACCEPTED, "UnsupportedValue", message),
            );
        }
    };
    let scope = if !labels(policy).is_empty() {
        Scope::WorkloadSelector
    } else if *name.namespace == *root {
        Scope::Global
    } else {
        Scope::Namespace
    };
    let mut unsupported = BTreeSet::new();
    let rules: Vec<Rule> = spec
        .rules
        .iter()
        .filter_map(|rule| rules::rule(rule, action, &name.namespace, &mut unsupported))
        .collect();
    let condition = accepted(action, &unsupported, rules.len(), spec.rules.len());
    // Only the word itself lifts a policy: any other value leaves it in force.
    let dry_run = policy.meta.annotation(DRY_RUN_ANNOTATION) == Some("true");
    (
        Some(Policy {
            key: key(name),
            scope,
            action,
            rules,
            dry_run,
        }),
        condition,
    )
}

fn accepted(
    action: Action,
    unsupported: &BTreeSet<String>,
    kept: usize,
    given: usize,
) -> Condition {
    if unsupported.is_empty() {
        return Condition::holds(ZTUNNEL_ACCEPTED, "Accepted");
    }
    let names = unsupported
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let effect = match action {
        Action::Allow => "rules with them are left out of this ALLOW policy, so it allows less",
        Action::Deny => {
            "they are left out of this DENY policy: a rule with other conditions denies more, \
             a rule with nothing else has no effect"
        }
    };
    let message = format!(
        "ztunnel cannot evaluate {names}; {effect} ({kept} of {given} rules are in force). \
         A waypoint can"
    );
    Condition::fails(ZTUNNEL_ACCEPTED, "UnsupportedValue", message)
}

impl Statuses {
    pub(crate) fn add(&mut self, kind: Kind, name: &Name, condition: Condition) {
        let key = ObjectKey {
            kind,
            name: name.clone(),
        };
        self.0.entry(key).or_default().push(condition);
    }
}
