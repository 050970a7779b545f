//! Policies that are for services and gateways (`targetRefs`): a waypoint asks them once for each
//! connection. Cloning all of them is cheap.

use std::sync::Arc;

use super::{Action, Connection, Policy, PolicyKey};
use crate::route::book::Addressed;
use crate::route::parent::GatewayKey;
use crate::service::ServiceKey;

/// What a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum PolicyTarget {
    Service(ServiceKey),
    Gateway(GatewayKey),
}

/// One policy and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetedPolicy {
    /// What it says; its scope says nothing here. Its destination port is the service port.
    pub policy: Policy,
    /// What it is for; empty: nothing.
    pub targets: Vec<PolicyTarget>,
    /// Why it cannot be enforced: then all traffic to its targets is refused, unless it is a dry
    /// run.
    pub unenforceable: Option<Arc<str>>,
    /// Whether it only notes what it matches (the action AUDIT): it refuses nothing and allows
    /// nothing.
    pub audit: bool,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Targeted {
    policies: imbl::OrdMap<PolicyKey, Arc<TargetedPolicy>>,
    by_target: imbl::HashMap<PolicyTarget, Vec<Arc<TargetedPolicy>>>,
    /// Names of those that cannot be read, and so might be for anything.
    unreadable: imbl::OrdSet<Arc<str>>,
}

/// Why a connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A DENY policy matches.
    #[error("policy {0} denies it")]
    Denied(PolicyKey),
    /// There are ALLOW policies, and none matches.
    #[error("none of {0} ALLOW policies matches")]
    NotAllowed(usize),
    /// A policy for the target has conditions that are not known here.
    #[error("policy {0} cannot be enforced: {1}")]
    Unenforceable(PolicyKey, Arc<str>),
    /// A policy of unknown targets.
    #[error("policy {0} cannot be read")]
    Unreadable(Arc<str>),
}

impl Refusal {
    /// A short name for metrics and logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Denied(_) => "policy_denied",
            Self::NotAllowed(_) => "policy_not_allowed",
            Self::Unenforceable(..) => "policy_unenforceable",
            Self::Unreadable(_) => "policy_unreadable",
        }
    }
}

impl Targeted {
    /// Adds one, in place of the one of that name.
    pub fn insert(&mut self, policy: TargetedPolicy) {
        let key = policy.policy.key.clone();
        self.remove(&key);
        let policy = Arc::new(policy);
        for target in &policy.targets {
            let list = self.by_target.entry(target.clone()).or_default();
            // A target may be written twice.
            if !list.iter().any(|known| known.policy.key == key) {
                list.push(policy.clone());
            }
        }
        self.policies.insert(key, policy);
    }

    /// Takes one out.
    pub fn remove(&mut self, key: &PolicyKey) {
        self.unreadable.remove(&*key.to_string());
        let Some(policy) = self.policies.remove(key) else {
            return;
        };
        for target in &policy.targets {
            let Some(list) = self.by_target.get_mut(target) else {
                continue;
            };
            list.retain(|known| known.policy.key != *key);
            if list.is_empty() {
                self.by_target.remove(target);
            }
        }
    }

    /// One is there that cannot be read: until it is replaced or gone, everything is refused.
    pub fn set_unreadable(&mut self, name: &str) {
        self.unreadable.insert(name.into());
    }

    /// One of that name, readable or not, is gone.
    pub fn forget(&mut self, name: &str) {
        self.unreadable.remove(name);
        if let Some((namespace, name)) = name.split_once('/') {
            self.remove(&PolicyKey {
                namespace: namespace.into(),
                name: name.into(),
            });
        }
    }

    /// All, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<TargetedPolicy>> {
        self.policies.values()
    }

    /// Whether a connection may go on to what it addressed: no DENY policy matches, and one of the
    /// ALLOW policies does if there are any, those of the service and of the gateway together.
    ///
    /// # Errors
    /// It may not.
    pub fn authorize(
        &self,
        addressed: &Addressed<'_>,
        connection: &Connection<'_>,
    ) -> Result<(), Refusal> {
        if let Some(name) = self.unreadable.get_min() {
            return Err(Refusal::Unreadable(name.clone()));
        }
        if self.policies.is_empty() {
            return Ok(());
        }
        let targets = targets(addressed);
        let policies = self.of(&targets);
        let mut allowing = 0;
        let mut allowed = false;
        for one in policies.filter(|one| !one.policy.dry_run && !one.audit) {
            let key = &one.policy.key;
            if let Some(why) = &one.unenforceable {
                return Err(Refusal::Unenforceable(key.clone(), why.clone()));
            }
            let matches = one.policy.matches(connection);
            match one.policy.action {
                Action::Deny if matches => return Err(Refusal::Denied(key.clone())),
                Action::Deny => {}
                Action::Allow => {
                    allowing += 1;
                    allowed |= matches;
                }
            }
        }
        match allowing == 0 || allowed {
            true => Ok(()),
            false => Err(Refusal::NotAllowed(allowing)),
        }
    }

    /// Names of the AUDIT policies that match a connection, whatever becomes of it; None: there is
    /// none.
    #[must_use]
    pub fn audited(
        &self,
        addressed: &Addressed<'_>,
        connection: &Connection<'_>,
    ) -> Option<Arc<str>> {
        if self.policies.is_empty() {
            return None;
        }
        let targets = targets(addressed);
        let all = self.of(&targets).filter(|one| one.audit);
        let matching = all.filter(|one| one.policy.matches(connection));
        let mut names: Vec<_> = matching.map(|one| one.policy.key.to_string()).collect();
        // One may be for the service and for the gateway.
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then(|| names.join(",").into())
    }

    fn of(
        &self,
        targets: &[Option<PolicyTarget>; 2],
    ) -> impl Iterator<Item = &Arc<TargetedPolicy>> {
        let of_target = |target| self.by_target.get(target);
        targets.iter().flatten().filter_map(of_target).flatten()
    }
}

/// What policies may be for, of what a connection addressed.
fn targets(addressed: &Addressed<'_>) -> [Option<PolicyTarget>; 2] {
    let service = addressed.service.map(|to| to.service.clone());
    let service = service.map(PolicyTarget::Service);
    let gateway = addressed.gateway.cloned().map(PolicyTarget::Gateway);
    [service, gateway]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::policy::{Clause, Match, Rule, Scope, StringMatch};
    use crate::route::parent::ServicePort;

    fn web() -> ServicePort {
        ServicePort {
            service: ServiceKey {
                namespace: "shop".into(),
                hostname: "web".into(),
            },
            port: 80,
        }
    }

    fn gateway() -> GatewayKey {
        GatewayKey {
            namespace: "shop".into(),
            name: "wp".into(),
        }
    }

    fn policy(name: &str, action: Action, from: &str, target: PolicyTarget) -> TargetedPolicy {
        let one = Match {
            namespaces: vec![StringMatch::Exact(from.into())],
            ..Match::default()
        };
        let clauses = vec![Clause { matches: vec![one] }];
        TargetedPolicy {
            policy: Policy {
                key: PolicyKey {
                    namespace: "shop".into(),
                    name: name.into(),
                },
                scope: Scope::WorkloadSelector,
                action,
                rules: vec![Rule { clauses }],
                dry_run: false,
            },
            targets: vec![target],
            unenforceable: None,
            audit: false,
        }
    }

    fn asked<T>(from: &str, ask: impl Fn(&Addressed<'_>, &Connection<'_>) -> T) -> T {
        let peer = Identity::new("cluster.local", from, "client").unwrap();
        let source = "10.0.0.1".parse().unwrap();
        let to = "10.96.0.1:80".parse().unwrap();
        let connection = Connection::new(Some(&peer), source, to);
        let (web, gateway) = (web(), gateway());
        let addressed = Addressed {
            service: Some(&web),
            client_namespace: Some(from),
            gateway: Some(&gateway),
        };
        ask(&addressed, &connection)
    }

    fn verdict(all: &Targeted, from: &str) -> Result<(), Refusal> {
        asked(from, |addressed, connection| {
            all.authorize(addressed, connection)
        })
    }

    #[test]
    fn policies_of_service_and_gateway_count_together_and_deny_wins() {
        let service = || PolicyTarget::Service(web().service);
        let mut all = Targeted::default();
        assert_eq!(verdict(&all, "bank"), Ok(()));
        all.insert(policy("allow", Action::Allow, "bank", service()));
        assert_eq!(verdict(&all, "bank"), Ok(()));
        assert_eq!(verdict(&all, "park"), Err(Refusal::NotAllowed(1)));
        let wide = PolicyTarget::Gateway(gateway());
        all.insert(policy("more", Action::Allow, "park", wide.clone()));
        assert_eq!(verdict(&all, "park"), Ok(()));
        let deny = policy("deny", Action::Deny, "park", wide);
        let key = deny.policy.key.clone();
        all.insert(deny);
        assert_eq!(verdict(&all, "park"), Err(Refusal::Denied(key.clone())));
        all.remove(&key);
        assert_eq!(verdict(&all, "park"), Ok(()));
    }

    #[test]
    fn an_audit_policy_notes_what_it_matches_and_decides_nothing() {
        let service = || PolicyTarget::Service(web().service);
        let noted = |all: &Targeted, from: &str| {
            asked(from, |addressed, connection| {
                all.audited(addressed, connection)
            })
        };
        let mut all = Targeted::default();
        for (name, action) in [("b", Action::Allow), ("a", Action::Deny)] {
            let mut audit = policy(name, action, "bank", service());
            audit.audit = true;
            audit.targets.push(PolicyTarget::Gateway(gateway()));
            all.insert(audit);
        }
        assert_eq!(noted(&all, "bank").as_deref(), Some("shop/a,shop/b"));
        assert_eq!(noted(&all, "park"), None);
        for from in ["bank", "park"] {
            assert_eq!(
                verdict(&all, from),
                Ok(()),
                "neither denies nor allows alone"
            );
        }
        all.insert(policy("deny", Action::Deny, "bank", service()));
        assert!(verdict(&all, "bank").is_err());
        assert_eq!(noted(&all, "bank").as_deref(), Some("shop/a,shop/b"));
    }

    #[test]
    fn what_cannot_be_enforced_or_read_refuses_what_it_may_be_for() {
        let other = PolicyTarget::Gateway(GatewayKey {
            namespace: "shop".into(),
            name: "other".into(),
        });
        let mut all = Targeted::default();
        let mut l7 = policy("l7", Action::Allow, "bank", other);
        l7.unenforceable = Some("it looks at paths".into());
        all.insert(l7.clone());
        assert_eq!(verdict(&all, "bank"), Ok(()), "it is for another gateway");
        l7.targets.push(PolicyTarget::Gateway(gateway()));
        all.insert(l7.clone());
        let refusal = verdict(&all, "bank").unwrap_err();
        assert!(matches!(refusal, Refusal::Unenforceable(..)), "{refusal}");
        l7.policy.dry_run = true;
        all.insert(l7);
        assert_eq!(verdict(&all, "bank"), Ok(()), "a dry run refuses nothing");
        all.set_unreadable("shop/x");
        let refusal = verdict(&all, "bank").unwrap_err();
        assert_eq!(refusal, Refusal::Unreadable("shop/x".into()));
        all.forget("shop/x");
        assert_eq!(verdict(&all, "bank"), Ok(()));
    }
}
