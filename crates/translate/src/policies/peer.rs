//! PeerAuthentication to DENY policies: who may not come in plaintext. A policy for a workload goes
//! before one for its namespace, that before one for the mesh; where nothing is said plaintext is
//! taken (PERMISSIVE), and DISABLE is the same (`protocol.md` 3).

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::policy::{Action, Clause, Match, Policy, PolicyKey, Rule, Scope, StringMatch};

use super::selects;
use crate::object::{Labels, Objects, PeerAuthentication};
use crate::security::PeerMode;

/// Name of the policy that refuses all plaintext (the ecosystem's name).
const STATIC_STRICT: &str = "istio_converted_static_strict";

/// What the name of a policy with port-level modes starts with (the ecosystem's name).
const CONVERTED_PREFIX: &str = "converted_peer_authentication_";

pub(super) struct Peers {
    root_namespace: Arc<str>,
    mesh: bool,
    /// Namespaces with a policy of their own: whether strict.
    namespaces: BTreeMap<Arc<str>, bool>,
    /// Policies with a selector, by namespace, in the order of their names.
    selecting: BTreeMap<Arc<str>, Vec<Selecting>>,
}

struct Selecting {
    labels: Labels,
    effect: Effect,
}

/// What a policy with a selector comes to.
enum Effect {
    Permissive,
    Strict,
    /// Ports differ: a policy of its own.
    Ports(Policy),
}

impl Peers {
    pub(super) fn of(objects: &Objects, root_namespace: &str) -> Self {
        let mut peers = Self {
            root_namespace: root_namespace.into(),
            mesh: false,
            namespaces: BTreeMap::new(),
            selecting: BTreeMap::new(),
        };
        // Of several policies of one width the first by name counts: manifests have no age.
        let all = || objects.peer_authentications.values();
        let wide = || all().filter(|p| p.selector.is_empty());
        let of_mesh = wide().find(|p| *p.meta.name.namespace == *root_namespace);
        peers.mesh = of_mesh.is_some_and(|p| p.mode == PeerMode::Strict);
        for policy in wide() {
            let strict = resolve(policy.mode, peers.mesh);
            peers
                .namespaces
                .entry(policy.meta.name.namespace.clone())
                .or_insert(strict);
        }
        for policy in all().filter(|p| !p.selector.is_empty()) {
            let namespace = &policy.meta.name.namespace;
            let effect = effect(policy, peers.default_of(namespace));
            let selecting = Selecting {
                labels: policy.selector.clone(),
                effect,
            };
            peers
                .selecting
                .entry(namespace.clone())
                .or_default()
                .push(selecting);
        }
        peers
    }

    /// Whether a namespace refuses plaintext where no policy with a selector says otherwise.
    fn default_of(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).copied().unwrap_or(self.mesh)
    }

    /// The policies that stand for all this.
    pub(super) fn policies(&self) -> Vec<Policy> {
        let own = self
            .selecting
            .values()
            .flatten()
            .filter_map(|s| match &s.effect {
                Effect::Ports(policy) => Some(policy.clone()),
                _ => None,
            });
        let plaintext = Match {
            not_principals: vec![StringMatch::Presence],
            ..Match::default()
        };
        own.chain([deny(self.static_strict(), plaintext)]).collect()
    }

    /// The policy that a workload lists, if any.
    pub(super) fn listed(&self, namespace: &str, labels: &Labels) -> Option<PolicyKey> {
        let of_namespace = self.selecting.get(namespace).into_iter().flatten();
        let mut matching = of_namespace.filter(|s| selects(&s.labels, labels));
        match matching.next().map(|s| &s.effect) {
            Some(Effect::Ports(policy)) => Some(policy.key.clone()),
            Some(Effect::Strict) => Some(self.static_strict()),
            Some(Effect::Permissive) => None,
            None => self.default_of(namespace).then(|| self.static_strict()),
        }
    }

    fn static_strict(&self) -> PolicyKey {
        PolicyKey {
            namespace: self.root_namespace.clone(),
            name: STATIC_STRICT.into(),
        }
    }
}

fn resolve(mode: PeerMode, wider: bool) -> bool {
    match mode {
        PeerMode::Unset => wider,
        PeerMode::Strict => true,
        PeerMode::Permissive | PeerMode::Disable => false,
    }
}

fn effect(policy: &PeerAuthentication, wider: bool) -> Effect {
    let strict = resolve(policy.mode, wider);
    let others = policy
        .port_modes
        .iter()
        .filter(|(_, mode)| resolve(**mode, strict) != strict);
    let others: Vec<u16> = others.map(|(port, _)| *port).collect();
    if others.is_empty() {
        return if strict {
            Effect::Strict
        } else {
            Effect::Permissive
        };
    }
    let mut refused = Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    };
    match strict {
        true => refused.not_destination_ports = others,
        false => refused.destination_ports = others,
    }
    let name = &policy.meta.name;
    let key = PolicyKey {
        namespace: name.namespace.clone(),
        name: format!("{CONVERTED_PREFIX}{}", name.name).into(),
    };
    Effect::Ports(deny(key, refused))
}

fn deny(key: PolicyKey, refused: Match) -> Policy {
    Policy {
        key,
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule {
            clauses: vec![Clause {
                matches: vec![refused],
            }],
        }],
        dry_run: false,
    }
}
