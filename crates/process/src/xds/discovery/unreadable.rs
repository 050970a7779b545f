//! Policies that cannot be read: what stands in for them, so that they do not open what they were
//! meant to close. Knows no stream.

use mesh::policy::{Action, Policy, PolicyKey, Rule, Scope};
use prost::Message;
use proto::wire::discovery as wire;
use proto::wire::security;

use super::Kind;

/// A resource of the type that the response is of. The inner type counts, so it must be the same:
/// else a policy could come, and go, under the name of an address.
pub(super) fn decode(kind: Kind, resource: &wire::Resource) -> Result<proto::Resource, String> {
    match &resource.resource {
        Some(any) if any.type_url != kind.url() => {
            let found: String = any.type_url.chars().take(200).collect();
            Err(format!(
                "is of type `{found}` in a response of `{}`",
                kind.url()
            ))
        }
        _ => proto::decode::discovered(resource).map_err(|error| error.to_string()),
    }
}

/// What stands in for a policy that cannot be read, as far as it says what it applies to: a DENY of
/// everything, or an ALLOW of nothing. None for a dry run, and where name, namespace or scope are
/// unreadable too.
pub(super) fn stand_in(resource: &wire::Resource) -> Option<Policy> {
    let any = resource.resource.as_ref()?;
    if any.type_url != Kind::Policies.url() {
        return None;
    }
    let message = security::Authorization::decode(any.value.as_slice()).ok()?;
    let scope = match security::Scope::try_from(message.scope).ok()? {
        security::Scope::Global => Scope::Global,
        security::Scope::Namespace => Scope::Namespace,
        security::Scope::WorkloadSelector => Scope::WorkloadSelector,
    };
    let placed = scope == Scope::Global || !message.namespace.is_empty();
    if message.name.is_empty() || !placed || message.dry_run {
        return None;
    }
    let (action, rules) = match security::Action::try_from(message.action) {
        Ok(security::Action::Allow) => (Action::Allow, Vec::new()),
        // A rule without clauses matches everything.
        Ok(security::Action::Deny) | Err(_) => (Action::Deny, vec![Rule::default()]),
    };
    Some(Policy {
        key: PolicyKey {
            namespace: message.namespace.into(),
            name: message.name.into(),
        },
        scope,
        action,
        rules,
        dry_run: false,
    })
}
