//! L4 authorization policies.

use ipnet::IpNet;
use mesh::policy::{Action, Clause, Match, Policy, Rule, Scope, ServiceAccountMatch, StringMatch};

use super::workload::ip;
use crate::wire::security as wire;

/// A policy.
pub fn policy(domain: &Policy) -> wire::Authorization {
    let scope = match domain.scope {
        Scope::Global => wire::Scope::Global,
        Scope::Namespace => wire::Scope::Namespace,
        Scope::WorkloadSelector => wire::Scope::WorkloadSelector,
    };
    let action = match domain.action {
        Action::Allow => wire::Action::Allow,
        Action::Deny => wire::Action::Deny,
    };
    wire::Authorization {
        name: domain.key.name.to_string(),
        namespace: domain.key.namespace.to_string(),
        scope: scope.into(),
        action: action.into(),
        rules: domain.rules.iter().map(rule).collect(),
        dry_run: domain.dry_run,
        extensions: Vec::new(),
    }
}

fn rule(domain: &Rule) -> wire::Rule {
    let clause = |clause: &Clause| wire::Clause {
        matches: clause.matches.iter().map(one_match).collect(),
    };
    wire::Rule {
        clauses: domain.clauses.iter().map(clause).collect(),
    }
}

fn one_match(domain: &Match) -> wire::Match {
    let texts = |field: &[StringMatch]| field.iter().map(text).collect();
    let ranges = |field: &[IpNet]| field.iter().map(range).collect();
    let ports = |field: &[u16]| field.iter().map(|port| u32::from(*port)).collect();
    let accounts = |field: &[ServiceAccountMatch]| field.iter().map(account).collect();
    wire::Match {
        namespaces: texts(&domain.namespaces),
        not_namespaces: texts(&domain.not_namespaces),
        principals: texts(&domain.principals),
        not_principals: texts(&domain.not_principals),
        source_ips: ranges(&domain.source_ips),
        not_source_ips: ranges(&domain.not_source_ips),
        destination_ips: ranges(&domain.destination_ips),
        not_destination_ips: ranges(&domain.not_destination_ips),
        destination_ports: ports(&domain.destination_ports),
        not_destination_ports: ports(&domain.not_destination_ports),
        service_accounts: accounts(&domain.service_accounts),
        not_service_accounts: accounts(&domain.not_service_accounts),
        extensions: Vec::new(),
    }
}

fn text(domain: &StringMatch) -> wire::StringMatch {
    use wire::string_match::{MatchType, Presence};
    let match_type = match domain {
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Presence => MatchType::Presence(Presence {}),
    };
    wire::StringMatch {
        match_type: Some(match_type),
    }
}

fn range(domain: &IpNet) -> wire::Address {
    wire::Address {
        address: ip(domain.addr()),
        length: domain.prefix_len().into(),
    }
}

fn account(domain: &ServiceAccountMatch) -> wire::ServiceAccountMatch {
    wire::ServiceAccountMatch {
        namespace: domain.namespace.to_string(),
        service_account: domain.service_account.to_string(),
    }
}
