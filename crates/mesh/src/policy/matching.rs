//! Whether a policy matches a connection. Knows nothing of what follows from it.
//!
//! Rules are alternatives and their clauses must all hold; the matches of a clause are
//! alternatives and their fields must all hold; of a field's values one must match, of a `not_`
//! field's values none may. From that: no rules never match, a rule without clauses matches
//! everything. A match without fields is skipped, so that a clause of nothing else never holds,
//! but a clause without any match says nothing and holds. Both are read in this way wherever these
//! policies are understood (checked against istio/ztunnel).
//!
//! A plaintext peer has no identity. No value of `principals`, `namespaces` or
//! `service_accounts` matches it, not even `Presence`; hence each of their `not_` forms holds for
//! it. That is how STRICT peer authentication is said: DENY when `not_principals` has
//! [`StringMatch::Presence`]. It also means that an ALLOW with nothing but `not_principals`
//! lets plaintext in, as it does everywhere else where these policies are understood.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{Clause, Match, Policy, Rule, ServiceAccountMatch, StringMatch};
use crate::address::canonical;
use crate::identity::Identity;

const SCHEME: &str = "spiffe://";

/// What policies see of a connection. Addresses are canonical.
#[derive(Clone, Debug)]
pub struct Connection<'a> {
    peer: Option<&'a Identity>,
    /// The peer's SPIFFE ID with its scheme, made once for all policies.
    uri: Option<String>,
    source_ip: IpAddr,
    destination: SocketAddr,
}

impl<'a> Connection<'a> {
    /// A connection of `peer` (None: plaintext, no identity) from `source_ip` to `destination`,
    /// the address that the TCP connection has.
    pub fn new(peer: Option<&'a Identity>, source_ip: IpAddr, destination: SocketAddr) -> Self {
        Self {
            peer,
            uri: peer.map(Identity::to_string),
            source_ip: canonical(source_ip),
            destination: SocketAddr::new(canonical(destination.ip()), destination.port()),
        }
    }
}

impl Policy {
    /// Whether one of the rules matches; what follows is up to `action` and `dry_run`.
    pub fn matches(&self, connection: &Connection<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(connection))
    }
}

impl Rule {
    /// Whether all clauses hold; of no clauses, all do.
    pub fn matches(&self, connection: &Connection<'_>) -> bool {
        self.clauses.iter().all(|clause| clause.matches(connection))
    }
}

impl Clause {
    /// Whether one of the matches holds, not counting those without any field, or there is none.
    pub fn matches(&self, connection: &Connection<'_>) -> bool {
        let mut given = self.matches.iter().filter(|m| !m.is_empty());
        self.matches.is_empty() || given.any(|m| m.holds(connection))
    }
}

impl Match {
    /// Whether no field is given.
    pub fn is_empty(&self) -> bool {
        let Self {
            namespaces,
            not_namespaces,
            principals,
            not_principals,
            source_ips,
            not_source_ips,
            destination_ips,
            not_destination_ips,
            destination_ports,
            not_destination_ports,
            service_accounts,
            not_service_accounts,
        } = self;
        let texts = [namespaces, not_namespaces, principals, not_principals];
        let ranges = [
            source_ips,
            not_source_ips,
            destination_ips,
            not_destination_ips,
        ];
        texts.iter().all(|field| field.is_empty())
            && ranges.iter().all(|field| field.is_empty())
            && destination_ports.is_empty()
            && not_destination_ports.is_empty()
            && service_accounts.is_empty()
            && not_service_accounts.is_empty()
    }

    fn holds(&self, c: &Connection<'_>) -> bool {
        let namespace = |m: &StringMatch| c.peer.is_some_and(|p| m.is_namespace(p.namespace()));
        let principal = |m: &StringMatch| c.uri.as_ref().is_some_and(|uri| m.is_principal(uri));
        let account = |m: &ServiceAccountMatch| c.peer.is_some_and(|p| m.is_account_of(p));
        let source = |range: &IpNet| holds_address(range, c.source_ip);
        let target = |range: &IpNet| holds_address(range, c.destination.ip());
        let port = |port: &u16| *port == c.destination.port();
        field(&self.namespaces, &self.not_namespaces, namespace)
            && field(&self.principals, &self.not_principals, principal)
            && field(&self.service_accounts, &self.not_service_accounts, account)
            && field(&self.source_ips, &self.not_source_ips, source)
            && field(&self.destination_ips, &self.not_destination_ips, target)
            && field(&self.destination_ports, &self.not_destination_ports, port)
    }
}

/// A field and its negation: one of the values if there are any, and none of the others.
fn field<T>(wanted: &[T], unwanted: &[T], is: impl Fn(&T) -> bool) -> bool {
    (wanted.is_empty() || wanted.iter().any(&is)) && !unwanted.iter().any(&is)
}

/// Whether the range has the address. A range within `::ffff:0:0/96` counts as IPv4; a wider one,
/// such as `::/0`, is of IPv6 addresses only.
fn holds_address(range: &IpNet, ip: IpAddr) -> bool {
    if range.contains(&ip) {
        return true;
    }
    match (range, ip) {
        (IpNet::V6(range), IpAddr::V4(v4)) if range.prefix_len() >= 96 => {
            range.contains(&v4.to_ipv6_mapped())
        }
        _ => false,
    }
}

impl StringMatch {
    fn is_namespace(&self, namespace: &str) -> bool {
        match self {
            Self::Exact(text) => namespace == &**text,
            Self::Prefix(text) => namespace.starts_with(&**text),
            Self::Suffix(text) => namespace.ends_with(&**text),
            Self::Presence => !namespace.is_empty(),
        }
    }

    /// Compares with a SPIFFE ID. Policies leave its scheme out; one that has it means the same.
    fn is_principal(&self, uri: &str) -> bool {
        let principal = uri.strip_prefix(SCHEME).unwrap_or(uri);
        match self {
            Self::Exact(text) => principal == text.strip_prefix(SCHEME).unwrap_or(text),
            Self::Prefix(text) => principal.starts_with(&**text) || uri.starts_with(&**text),
            Self::Suffix(text) => uri.ends_with(&**text),
            Self::Presence => !principal.is_empty(),
        }
    }
}

impl ServiceAccountMatch {
    fn is_account_of(&self, peer: &Identity) -> bool {
        peer.namespace() == &*self.namespace && peer.service_account() == &*self.service_account
    }
}
