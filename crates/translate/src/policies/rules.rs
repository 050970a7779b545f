//! One rule of an AuthorizationPolicy to clauses of L4 matches. Knows what L4 can see: identities,
//! addresses and ports.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mesh::policy::{Action, Clause, Match, Rule, ServiceAccountMatch, StringMatch};

use crate::admit::Reason;
use crate::identifier::{is_label, is_name};
use crate::security::{ConditionSpec, FromSpec, RuleSpec, ToSpec};

/// The L4 form of a rule; names that L4 cannot see go to `unsupported`.
///
/// An ALLOW rule with such a name is None, since what is left would allow more than was written. A
/// DENY rule loses the names and denies by the rest; with nothing left it is None
/// (`protocol.md` 3). So no empty match and no rule that lost all its conditions ever goes out.
pub(super) fn rule(
    spec: &RuleSpec,
    action: Action,
    namespace: &str,
    unsupported: &mut BTreeSet<String>,
) -> Option<Rule> {
    let mut lost = BTreeSet::new();
    let mut clauses = Vec::new();
    clauses.push(
        spec.from
            .iter()
            .map(|from| source(from, namespace, &mut lost))
            .collect(),
    );
    clauses.push(spec.to.iter().map(|to| operation(to, &mut lost)).collect());
    for condition in &spec.when {
        clauses.push(vec![when(condition, &mut lost)]);
    }
    let clauses: Vec<Clause> = clauses
        .into_iter()
        .map(|matches: Vec<Match>| matches.into_iter().filter(|m| *m != Match::default()))
        .map(|matches| Clause {
            matches: matches.collect(),
        })
        .filter(|clause: &Clause| !clause.matches.is_empty())
        .collect();
    let partial = !lost.is_empty();
    unsupported.append(&mut lost);
    if partial && (action == Action::Allow || clauses.is_empty()) {
        return None;
    }
    Some(Rule { clauses })
}

fn source(from: &FromSpec, namespace: &str, lost: &mut BTreeSet<String>) -> Match {
    let s = &from.source;
    for (name, values) in [
        ("requestPrincipals", &s.request_principals),
        ("notRequestPrincipals", &s.not_request_principals),
        ("remoteIpBlocks", &s.remote_ip_blocks),
        ("notRemoteIpBlocks", &s.not_remote_ip_blocks),
    ] {
        if !values.is_empty() {
            lost.insert(name.to_owned());
        }
    }
    Match {
        namespaces: texts(&s.namespaces),
        not_namespaces: texts(&s.not_namespaces),
        principals: principals(&s.principals),
        not_principals: principals(&s.not_principals),
        source_ips: ranges(&s.ip_blocks),
        not_source_ips: ranges(&s.not_ip_blocks),
        service_accounts: accounts(&s.service_accounts, namespace),
        not_service_accounts: accounts(&s.not_service_accounts, namespace),
        ..Match::default()
    }
}

fn operation(to: &ToSpec, lost: &mut BTreeSet<String>) -> Match {
    let o = &to.operation;
    for (name, values) in [
        ("hosts", &o.hosts),
        ("notHosts", &o.not_hosts),
        ("methods", &o.methods),
        ("notMethods", &o.not_methods),
        ("paths", &o.paths),
        ("notPaths", &o.not_paths),
    ] {
        if !values.is_empty() {
            lost.insert(name.to_owned());
        }
    }
    Match {
        destination_ports: ports(&o.ports),
        not_destination_ports: ports(&o.not_ports),
        ..Match::default()
    }
}

fn when(condition: &ConditionSpec, lost: &mut BTreeSet<String>) -> Match {
    let (values, not_values) = (&condition.values, &condition.not_values);
    let mut made = Match::default();
    match condition.key.as_str() {
        "source.ip" => {
            made.source_ips = ranges(values);
            made.not_source_ips = ranges(not_values);
        }
        "source.principal" => {
            made.principals = principals(values);
            made.not_principals = principals(not_values);
        }
        "source.namespace" => {
            made.namespaces = texts(values);
            made.not_namespaces = texts(not_values);
        }
        "destination.ip" => {
            made.destination_ips = ranges(values);
            made.not_destination_ips = ranges(not_values);
        }
        "destination.port" => {
            made.destination_ports = ports(values);
            made.not_destination_ports = ports(not_values);
        }
        other => {
            lost.insert(other.to_owned());
        }
    }
    made
}

/// Refuses values that a condition of L4 could never compare.
pub(crate) fn check_condition(condition: &ConditionSpec) -> Result<(), Reason> {
    for value in condition.values.iter().chain(&condition.not_values) {
        match condition.key.as_str() {
            "source.ip" | "destination.ip" => drop(range(value)?),
            "destination.port" => match value.parse::<u16>() {
                Ok(port) if port > 0 => {}
                _ => return Err(format!("port `{value}` is not from 1 to 65535")),
            },
            _ if value.is_empty() => return Err(format!("`{}` has an empty value", condition.key)),
            _ => {}
        }
    }
    Ok(())
}

/// An address or a range of them, host bits cleared.
pub(crate) fn range(text: &str) -> Result<IpNet, Reason> {
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    net.map(|net| net.trunc())
        .map_err(|_| format!("`{text}` is neither an address nor a range"))
}

/// `account` of the policy's own namespace, or `namespace/account`.
pub(crate) fn account(text: &str, namespace: &str) -> Result<ServiceAccountMatch, Reason> {
    let (namespace, account) = text.split_once('/').unwrap_or((namespace, text));
    if !is_label(namespace) || !is_name(account) {
        return Err(format!(
            "`{text}` is neither a service account nor namespace/account"
        ));
    }
    Ok(ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: account.into(),
    })
}

// Values were checked when the policy was admitted: nothing is lost in these four.

fn ranges(texts: &[String]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| range(text).ok()).collect()
}

fn accounts(texts: &[String], namespace: &str) -> Vec<ServiceAccountMatch> {
    texts
        .iter()
        .filter_map(|text| account(text, namespace).ok())
        .collect()
}

fn ports(texts: &[String]) -> Vec<u16> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn principals(values: &[String]) -> Vec<StringMatch> {
    // Compared without their scheme (`protocol.md` 3).
    values
        .iter()
        .map(|v| text(v.strip_prefix("spiffe://").unwrap_or(v)))
        .collect()
}

fn texts(values: &[String]) -> Vec<StringMatch> {
    values.iter().map(|value| text(value)).collect()
}

/// `*` any, `*end`, `start*`, else the very text.
fn text(value: &str) -> StringMatch {
    if value == "*" {
        StringMatch::Presence
    } else if let Some(end) = value.strip_prefix('*') {
        StringMatch::Suffix(end.into())
    } else if let Some(start) = value.strip_suffix('*') {
        StringMatch::Prefix(start.into())
    } else {
        StringMatch::Exact(value.into())
    }
}
