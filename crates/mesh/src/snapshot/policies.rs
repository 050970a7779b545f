//! Policies by name, by namespace and global, and which of them workloads name. Knows nothing of
//! what a policy says.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::policy::{Policy, PolicyKey, Scope};
use crate::workload::Workload;

type ByKey = OrdMap<PolicyKey, Arc<Policy>>;

/// Policies and their indexes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Policies {
    by_key: ByKey,
    global: ByKey,
    by_namespace: OrdMap<Arc<str>, ByKey>,
    /// How often workloads name a policy, known or not.
    references: OrdMap<PolicyKey, u32>,
    /// Removed, but named by a workload: in `by_key` only.
    kept: OrdSet<PolicyKey>,
}

impl Policies {
    pub(super) fn insert(&mut self, policy: Policy) {
        self.forget(&policy.key);
        let policy = Arc::new(policy);
        let key = policy.key.clone();
        match policy.scope {
            Scope::Global => {
                self.global.insert(key.clone(), policy.clone());
            }
            Scope::Namespace => {
                let of_namespace = self.by_namespace.entry(key.namespace.clone()).or_default();
                of_namespace.insert(key.clone(), policy.clone());
            }
            Scope::WorkloadSelector => {}
        }
        self.by_key.insert(key, policy);
    }

    pub(super) fn remove(&mut self, key: &PolicyKey) -> bool {
        if self.kept.contains(key) {
            return false;
        }
        let Some(old) = self.forget(key) else {
            return false;
        };
        if self.references.contains_key(key) {
            self.by_key.insert(key.clone(), old);
            self.kept.insert(key.clone());
        }
        true
    }

    /// Takes a policy out of every index.
    fn forget(&mut self, key: &PolicyKey) -> Option<Arc<Policy>> {
        self.kept.remove(key);
        self.global.remove(key);
        if let Some(of_namespace) = self.by_namespace.get_mut(&key.namespace) {
            of_namespace.remove(key);
            if of_namespace.is_empty() {
                self.by_namespace.remove(&key.namespace);
            }
        }
        self.by_key.remove(key)
    }

    /// A workload names these.
    pub(super) fn reference(&mut self, keys: &[PolicyKey]) {
        for key in keys {
            *self.references.entry(key.clone()).or_insert(0) += 1;
        }
    }

    /// A workload names these no longer.
    pub(super) fn dereference(&mut self, keys: &[PolicyKey]) {
        for key in keys {
            match self.references.get(key) {
                Some(users) if *users > 1 => {
                    let rest = users - 1;
                    self.references.insert(key.clone(), rest);
                }
                _ => {
                    self.references.remove(key);
                    if self.kept.contains(key) {
                        self.forget(key);
                    }
                }
            }
        }
    }

    pub(super) fn get(&self, key: &PolicyKey) -> Option<&Arc<Policy>> {
        self.by_key.get(key)
    }

    pub(super) fn is_kept(&self, key: &PolicyKey) -> bool {
        self.kept.contains(key)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.by_key.values()
    }

    pub(super) fn of<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = Result<&'a Arc<Policy>, &'a PolicyKey>> + 'a {
        let of_namespace = self.by_namespace.get(&workload.namespace);
        let unnamed = self
            .global
            .values()
            .chain(of_namespace.into_iter().flat_map(ByKey::values));
        let named = workload
            .policies
            .iter()
            .map(|key| self.by_key.get(key).ok_or(key));
        unnamed.map(Ok).chain(named)
    }
}
