//! Gateways and their classes as their authors write them. Fields of ours that are not served are
//! read to be told of in the status; those that are not known are not looked at, since a Gateway of
//! another controller is none of our business. Knows no waypoint.

use serde::Deserialize;

use super::Unread;
use crate::object::{Labels, Meta};

/// `spec` of a Gateway; only what routes and waypoints need is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct GatewaySpec {
    pub gateway_class_name: String,
    pub listeners: Vec<Listener>,
    /// Asked for; what a waypoint has is its Service's.
    pub addresses: Vec<GatewayAddress>,
    pub infrastructure: Option<Infrastructure>,
    /// None: no ListenerSets.
    pub allowed_listeners: Option<AllowedListeners>,
    pub tls: Option<GatewayTls>,
    /// The field before it became `tls.backend`.
    #[serde(rename = "backendTLS")]
    pub backend_tls: Option<Unread>,
    /// None: None.
    pub default_scope: Option<String>,
}

/// An address that a Gateway asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct GatewayAddress {
    /// None: IPAddress.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// None: any of the type.
    pub value: Option<String>,
}

/// What the things made for a Gateway are like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Infrastructure {
    pub labels: Labels,
    pub annotations: Labels,
    pub parameters_ref: Option<ParametersRef>,
}

/// Parameters that a controller may read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct ParametersRef {
    pub group: String,
    pub kind: String,
    pub name: String,
    /// Of a GatewayClass only; None: the referent is in no namespace.
    #[serde(default)]
    pub namespace: Option<String>,
}

/// Which ListenerSets may add listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct AllowedListeners {
    pub namespaces: Option<RouteNamespaces>,
}

/// TLS of a Gateway as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct GatewayTls {
    /// Of HTTPS listeners.
    pub frontend: Option<Unread>,
    /// What it shows to endpoints.
    pub backend: Option<Unread>,
}

/// `spec` of a GatewayClass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct GatewayClassSpec {
    pub controller_name: String,
    pub parameters_ref: Option<ParametersRef>,
    pub description: Option<String>,
}

/// One listener of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Listener {
    pub name: String,
    pub hostname: Option<String>,
    pub port: u16,
    pub protocol: String,
    pub tls: Option<ListenerTls>,
    pub allowed_routes: Option<AllowedRoutes>,
}

/// TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ListenerTls {
    /// None: Terminate.
    pub mode: Option<String>,
    pub certificate_refs: Vec<Unread>,
    pub frontend_validation: Option<Unread>,
    /// Any controller's own.
    pub options: Labels,
}

impl ListenerTls {
    /// Whether the bytes are passed on as they are.
    #[must_use]
    pub fn passes_through(&self) -> bool {
        self.mode.as_deref() == Some("Passthrough")
    }
}

/// Which routes may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct AllowedRoutes {
    pub namespaces: Option<RouteNamespaces>,
    pub kinds: Vec<RouteGroupKind>,
}

/// From which namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct RouteNamespaces {
    /// None: Same.
    pub from: Option<String>,
    pub selector: Option<LabelSelector>,
}

/// A selector of namespaces: all of it has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct LabelSelector {
    pub match_labels: Labels,
    pub match_expressions: Vec<Requirement>,
}

/// One condition on labels.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    #[serde(default)]
    pub values: Vec<String>,
}

/// How the label of a key is compared with the values; without the label only the two negative
/// ones hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object is selected. An empty selector, which would be everything, selects nothing
    /// here: whoever means all namespaces says `from: All`.
    #[must_use]
    pub fn takes(&self, meta: &Meta) -> bool {
        let has = |(key, value): (&String, &String)| meta.label(key) == Some(value.as_str());
        let holds = |wanted: &Requirement| {
            let label = meta.label(&wanted.key);
            let is_one = label.is_some_and(|label| wanted.values.iter().any(|one| one == label));
            match wanted.operator {
                Operator::In => is_one,
                Operator::NotIn => !is_one,
                Operator::Exists => label.is_some(),
                Operator::DoesNotExist => label.is_none(),
            }
        };
        let is_empty = self.match_labels.is_empty() && self.match_expressions.is_empty();
        !is_empty && self.match_labels.iter().all(has) && self.match_expressions.iter().all(holds)
    }
}

/// A kind of route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct RouteGroupKind {
    pub group: Option<String>,
    pub kind: String,
}
