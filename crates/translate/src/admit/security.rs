//! Checks of AuthorizationPolicy and PeerAuthentication. What ztunnel cannot evaluate is not
//! refused here (a waypoint may); what no proxy could is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::{Reason, meta};
use crate::object::{AuthorizationPolicy, Kind, Labels, Object, PeerAuthentication};
use crate::security::{AuthorizationAction, AuthorizationSpec, PeerSpec, RuleSpec, Selector};

/// The whole document of a kind with `spec` as `S`; `status` is what a cluster wrote there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Custom<S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: S,
    #[serde(default, rename = "status")]
    _status: serde::de::IgnoredAny,
}

pub(crate) fn authorization_policy(from: Custom<AuthorizationSpec>) -> Result<Object, Reason> {
    let meta = meta(Kind::AuthorizationPolicy, from.metadata)?;
    let spec = from.spec;
    selector(spec.selector.as_ref())?;
    if spec.selector.is_some() && (spec.target_ref.is_some() || !spec.target_refs.is_empty()) {
        return Err("spec.selector and spec.targetRefs exclude each other".to_owned());
    }
    if spec.action == AuthorizationAction::Deny && spec.rules.is_empty() {
        // Half of a file, most likely: it would let in whom the whole one keeps out.
        return Err(
            "action DENY without rules denies nothing: give it rules, or remove it".to_owned(),
        );
    }
    for (index, given) in spec.rules.iter().enumerate() {
        rule(given).map_err(|reason| format!("spec.rules[{index}]: {reason}"))?;
    }
    Ok(Object::AuthorizationPolicy(
        AuthorizationPolicy { meta, spec }.into(),
    ))
}

pub(crate) fn peer_authentication(from: Custom<PeerSpec>) -> Result<Object, Reason> {
    let meta = meta(Kind::PeerAuthentication, from.metadata)?;
    let spec = from.spec;
    let selector = selector(spec.selector.as_ref())?;
    if selector.is_empty() && !spec.port_level_mtls.is_empty() {
        return Err("spec.portLevelMtls needs a spec.selector".to_owned());
    }
    let port_modes = spec
        .port_level_mtls
        .iter()
        .map(|(port, m)| (port.0, m.mode))
        .collect();
    let mode = spec.mtls.unwrap_or_default().mode;
    Ok(Object::PeerAuthentication(
        PeerAuthentication {
            meta,
            selector,
            mode,
            port_modes,
        }
        .into(),
    ))
}

fn selector(selector: Option<&Selector>) -> Result<Labels, Reason> {
    let labels = selector.map(|s| s.match_labels.clone()).unwrap_or_default();
    match labels
        .iter()
        .find(|(key, value)| key.is_empty() || value.contains('*'))
    {
        None => Ok(labels),
        Some((key, value)) => Err(format!(
            "spec.selector.matchLabels `{key}: {value}` has no key or a wildcard"
        )),
    }
}

/// An empty text would be compared with identities that are not there.
fn no_empty_value(lists: &[&Vec<String>]) -> Result<(), Reason> {
    match lists
        .iter()
        .any(|values| values.iter().any(String::is_empty))
    {
        true => Err("a source has an empty value".to_owned()),
        false => Ok(()),
    }
}

/// An empty source or operation would match anything, which its author can hardly mean.
fn rule(rule: &RuleSpec) -> Result<(), Reason> {
    for from in &rule.from {
        if from.source == crate::security::SourceSpec::default() {
            return Err("a source needs at least one field".to_owned());
        }
    }
    for to in &rule.to {
        if to.operation == crate::security::OperationSpec::default() {
            return Err("an operation needs at least one field".to_owned());
        }
        for port in to.operation.ports.iter().chain(&to.operation.not_ports) {
            super::port("a port", port.parse().unwrap_or(0))
                .map_err(|_| format!("port `{port}` is not from 1 to 65535"))?;
        }
    }
    for from in &rule.from {
        let source = &from.source;
        no_empty_value(&[
            &source.principals,
            &source.not_principals,
            &source.request_principals,
            &source.not_request_principals,
            &source.namespaces,
            &source.not_namespaces,
        ])?;
        let blocks = source.ip_blocks.iter().chain(&source.not_ip_blocks);
        for block in blocks
            .chain(&source.remote_ip_blocks)
            .chain(&source.not_remote_ip_blocks)
        {
            crate::policies::range(block)?;
        }
        for account in source
            .service_accounts
            .iter()
            .chain(&source.not_service_accounts)
        {
            crate::policies::account(account, "default")?;
        }
    }
    for condition in &rule.when {
        if condition.key.is_empty() {
            return Err("a condition needs a key".to_owned());
        }
        if condition.values.is_empty() && condition.not_values.is_empty() {
            return Err(format!(
                "condition `{}` needs values or notValues",
                condition.key
            ));
        }
        crate::policies::check_condition(condition)?;
    }
    Ok(())
}
