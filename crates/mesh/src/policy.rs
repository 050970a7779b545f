//! Authorization policies at L4. What they match stands in [`matching`].

mod matching;
pub mod targeted;

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

pub use matching::Connection;

/// Name of a policy: `namespace/name`. A global policy has the namespace it was written in (the
/// root namespace), or none: its [`Scope`] makes it global, not its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Kubernetes namespace; may be empty for a global policy only.
    pub namespace: Arc<str>,
    /// Kubernetes name.
    pub name: Arc<str>,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One policy. Rules are alternatives; clauses of a rule must all hold; matches of a clause are
/// alternatives; fields of a match must all hold; values of a field are alternatives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespace and name.
    pub key: PolicyKey,
    /// Which workloads it applies to.
    pub scope: Scope,
    /// What it does with what it matches.
    pub action: Action,
    /// Alternatives; empty never matches.
    pub rules: Vec<Rule>,
    /// Whether it is only logged.
    pub dry_run: bool,
}

/// Which workloads a policy applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All of the mesh.
    #[default]
    Global,
    /// All of its namespace.
    Namespace,
    /// Those that name it in [`Workload::policies`](crate::Workload::policies).
    WorkloadSelector,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Action {
    #[default]
    Allow,
    Deny,
}

/// All clauses must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The clauses.
    pub clauses: Vec<Clause>,
}

/// One of the matches must hold, if there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clause {
    /// The matches; one without any field is skipped.
    pub matches: Vec<Match>,
}

/// All given fields must hold; in a field one value must, in a `not_` field none may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Match {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub source_ips: Vec<IpNet>,
    pub not_source_ips: Vec<IpNet>,
    pub destination_ips: Vec<IpNet>,
    pub not_destination_ips: Vec<IpNet>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
}

/// How a text is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// Any text that is not empty.
    Presence,
}

/// A service account of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ServiceAccountMatch {
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}
