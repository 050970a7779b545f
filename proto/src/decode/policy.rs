//! L4 authorization policies. Why nothing here makes an ALLOW wider: see [`super::policy`].

use ipnet::IpNet;
use mesh::address::NetworkCidr;
use mesh::policy::{
    Action, Clause, Match, Policy, PolicyKey, Rule, Scope, ServiceAccountMatch, StringMatch,
};

use super::fault::{At, Fault, Problem, each, port, raw_ip, required, value, whole};
use crate::wire::security as wire;

/// `unknown[i]`: rule `i` has fields that the generated code does not know.
pub(super) fn policy(message: wire::Authorization, unknown: &[bool]) -> Result<Policy, Fault> {
    let scope = match value(message.scope).at("scope")? {
        wire::Scope::Global => Scope::Global,
        wire::Scope::Namespace => Scope::Namespace,
        wire::Scope::WorkloadSelector => Scope::WorkloadSelector,
    };
    let action = match value(message.action).at("action")? {
        wire::Action::Allow => Action::Allow,
        wire::Action::Deny => Action::Deny,
    };
    let namespace = match scope {
        Scope::Global => message.namespace.into(),
        Scope::Namespace | Scope::WorkloadSelector => {
            required(message.namespace).at("namespace")?
        }
    };
    let rules = each("rules", message.rules, |message| rule(message, action))?;
    let understood = |i: usize| action == Action::Deny || unknown.get(i) == Some(&false);
    let rules = rules
        .into_iter()
        .enumerate()
        .filter(|(i, _)| understood(*i));
    Ok(Policy {
        key: PolicyKey {
            namespace,
            name: required(message.name).at("name")?,
        },
        scope,
        action,
        rules: rules.filter_map(|(_, rule)| rule).collect(),
        dry_run: message.dry_run,
    })
}

/// None: a rule of an ALLOW of which nothing is left that could be said to hold.
fn rule(message: wire::Rule, action: Action) -> Result<Option<Rule>, Fault> {
    let clauses = each("clauses", message.clauses, |message| {
        let given = message.matches.len();
        let all = each("matches", message.matches, |message| {
            let extended = !message.extensions.is_empty();
            let read = one_match(message)?;
            Ok((!(extended && action == Action::Allow)).then_some(read))
        })?;
        let matches: Vec<Match> = all.into_iter().flatten().collect();
        // A clause that never had matches holds; one that lost all of them must not.
        let lost = given > 0 && matches.is_empty();
        Ok((!lost).then_some(Clause { matches }))
    })?;
    let clauses: Option<Vec<Clause>> = clauses.into_iter().collect();
    Ok(clauses.map(|clauses| Rule { clauses }))
}

fn one_match(message: wire::Match) -> Result<Match, Fault> {
    Ok(Match {
        namespaces: each("namespaces", message.namespaces, text)?,
        not_namespaces: each("not_namespaces", message.not_namespaces, text)?,
        principals: each("principals", message.principals, text)?,
        not_principals: each("not_principals", message.not_principals, text)?,
        source_ips: each("source_ips", message.source_ips, range)?,
        not_source_ips: each("not_source_ips", message.not_source_ips, range)?,
        destination_ips: each("destination_ips", message.destination_ips, range)?,
        not_destination_ips: each("not_destination_ips", message.not_destination_ips, range)?,
        destination_ports: each("destination_ports", message.destination_ports, |number| {
            whole(port(number))
        })?,
        not_destination_ports: each(
            "not_destination_ports",
            message.not_destination_ports,
            |number| whole(port(number)),
        )?,
        service_accounts: each("service_accounts", message.service_accounts, account)?,
        not_service_accounts: each(
            "not_service_accounts",
            message.not_service_accounts,
            account,
        )?,
    })
}

fn text(message: wire::StringMatch) -> Result<StringMatch, Fault> {
    use wire::string_match::MatchType;
    Ok(
        match message
            .match_type
            .ok_or(Problem::Missing)
            .at("match_type")?
        {
            MatchType::Exact(text) => StringMatch::Exact(text.into()),
            MatchType::Prefix(text) => StringMatch::Prefix(text.into()),
            MatchType::Suffix(text) => StringMatch::Suffix(text.into()),
            MatchType::Presence(_) => StringMatch::Presence,
        },
    )
}

/// A length of 0 is all addresses of the family: it is what an absent length means on this wire.
fn range(message: wire::Address) -> Result<IpNet, Fault> {
    let address = raw_ip(&message.address).at("address")?;
    let length = u8::try_from(message.length).ok();
    let range = length.and_then(|length| NetworkCidr::new("", address, length));
    range
        .map(|r| r.cidr)
        .ok_or(Problem::PrefixLength(message.length))
        .at("length")
}

fn account(message: wire::ServiceAccountMatch) -> Result<ServiceAccountMatch, Fault> {
    Ok(ServiceAccountMatch {
        namespace: required(message.namespace).at("namespace")?,
        service_account: required(message.service_account).at("service_account")?,
    })
}
