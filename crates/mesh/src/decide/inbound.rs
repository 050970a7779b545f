//! Policies of the destination workload against one connection.

use std::sync::Arc;

use super::{InboundQuery, InboundReason, Verdict};
use crate::address::OWN_PORTS;
use crate::policy::{Action, Connection, Policy, PolicyKey};
use crate::snapshot::Snapshot;

pub(super) fn decide(snapshot: &Snapshot, query: &InboundQuery<'_>) -> Verdict {
    let port = query.destination.port();
    if OWN_PORTS.contains(&port) {
        return refuse(InboundReason::OwnPort(port), None);
    }
    if !snapshot.policies_synced() {
        return refuse(InboundReason::NotSynced, None);
    }
    let policies = Sorted::of(snapshot, query);
    let connection = Connection::new(query.peer, query.source_ip, query.destination);
    let mut verdict = policies.verdict(&connection);
    verdict.dry_run = policies.would_turn(&verdict, &connection);
    verdict
}

fn refuse(reason: InboundReason, policy: Option<&PolicyKey>) -> Verdict {
    Verdict {
        allowed: false,
        policy: policy.cloned(),
        reason,
        dry_run: Vec::new(),
    }
}

fn allow(reason: InboundReason, policy: Option<&PolicyKey>) -> Verdict {
    Verdict {
        allowed: true,
        policy: policy.cloned(),
        reason,
        dry_run: Vec::new(),
    }
}

/// The policies that apply to a workload, by what they do.
#[derive(Default)]
struct Sorted<'a> {
    deny: Vec<&'a Arc<Policy>>,
    allow: Vec<&'a Arc<Policy>>,
    dry_run: Vec<&'a Arc<Policy>>,
    unknown: Option<&'a PolicyKey>,
}

impl<'a> Sorted<'a> {
    fn of(snapshot: &'a Snapshot, query: &InboundQuery<'a>) -> Self {
        let mut sorted = Self::default();
        for policy in snapshot.policies_of(query.workload) {
            match policy {
                Ok(policy) if policy.dry_run => sorted.dry_run.push(policy),
                Ok(policy) if policy.action == Action::Deny => sorted.deny.push(policy),
                Ok(policy) => sorted.allow.push(policy),
                Err(key) => sorted.unknown = sorted.unknown.or(Some(key)),
            }
        }
        // A workload may name a policy that applies to it anyway.
        for list in [&mut sorted.deny, &mut sorted.allow, &mut sorted.dry_run] {
            list.sort_by(|a, b| a.key.cmp(&b.key));
            list.dedup_by(|a, b| a.key == b.key);
        }
        sorted
    }

    fn verdict(&self, connection: &Connection<'_>) -> Verdict {
        if let Some(policy) = self.deny.iter().find(|p| p.matches(connection)) {
            return refuse(InboundReason::Denied(policy.key.clone()), Some(&policy.key));
        }
        if let Some(key) = self.unknown {
            return refuse(InboundReason::UnknownPolicy(key.clone()), Some(key));
        }
        if self.allow.is_empty() {
            return allow(InboundReason::NoAllowPolicy, None);
        }
        match self.allow.iter().find(|p| p.matches(connection)) {
            Some(policy) => allow(
                InboundReason::Allowed(policy.key.clone()),
                Some(&policy.key),
            ),
            None => refuse(InboundReason::NotAllowed(self.allow.len()), None),
        }
    }

    /// Dry-run policies of which each alone, in force, would have turned the verdict.
    fn would_turn(&self, verdict: &Verdict, connection: &Connection<'_>) -> Vec<PolicyKey> {
        let turns = |policy: &Policy| match (&verdict.reason, policy.action) {
            (InboundReason::Allowed(_) | InboundReason::NoAllowPolicy, Action::Deny) => {
                policy.matches(connection)
            }
            (InboundReason::NoAllowPolicy, Action::Allow) => !policy.matches(connection),
            (InboundReason::NotAllowed(_), Action::Allow) => policy.matches(connection),
            _ => false,
        };
        self.dry_run
            .iter()
            .filter(|p| turns(p))
            .map(|p| p.key.clone())
            .collect()
    }
}
