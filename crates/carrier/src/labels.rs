//! Labels of connections as the ecosystem's dashboards want them (protocol.md 9). Knows no counter.

pub mod sets;

use std::fmt::Write as _;
use std::sync::Arc;

use mesh::service::ServiceKey;
use mesh::{Identity, Workload};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// A label value; the empty text shows as `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Text(Arc<str>);

impl EncodeLabelValue for Text {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        encoder.write_str(if self.0.is_empty() {
            "unknown"
        } else {
            &self.0
        })
    }
}

impl From<&Arc<str>> for Text {
    fn from(text: &Arc<str>) -> Self {
        Self(Arc::clone(text))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Option<&Identity>> for Text {
    fn from(identity: Option<&Identity>) -> Self {
        identity.map_or_else(Self::default, |identity| identity.to_string().into())
    }
}

/// One side of a connection.
#[derive(Clone, Debug, Default)]
pub struct Party {
    /// Its workload, when discovery knows it.
    pub workload: Option<Arc<Workload>>,
    /// Its identity, when a certificate proved it (or will have to, for a destination).
    pub identity: Option<Identity>,
}

impl Party {
    /// A side whose workload discovery knows.
    pub fn of(workload: &Arc<Workload>, identity: Option<Identity>) -> Self {
        Self {
            workload: Some(Arc::clone(workload)),
            identity,
        }
    }
}

/// Who takes part in what is recorded.
#[derive(Clone, Copy)]
pub struct Parties<'a> {
    /// Who began it.
    pub source: &'a Party,
    /// Whom it leads to.
    pub destination: &'a Party,
    /// The service that was addressed.
    pub service: Option<&'a ServiceKey>,
}

/// Who, to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs)]
pub struct Who {
    pub reporter: Text,
    pub source_workload: Text,
    pub source_canonical_service: Text,
    pub source_canonical_revision: Text,
    pub source_workload_namespace: Text,
    pub source_principal: Text,
    pub source_app: Text,
    pub source_version: Text,
    pub source_cluster: Text,
    pub destination_service: Text,
    pub destination_service_namespace: Text,
    pub destination_service_name: Text,
    pub destination_workload: Text,
    pub destination_canonical_service: Text,
    pub destination_canonical_revision: Text,
    pub destination_workload_namespace: Text,
    pub destination_principal: Text,
    pub destination_app: Text,
    pub destination_version: Text,
    pub destination_cluster: Text,
}

impl Who {
    /// Of a record in which nobody is known.
    pub fn nobody(reporter: impl Into<Text>) -> Self {
        Self {
            reporter: reporter.into(),
            ..Self::default()
        }
    }

    /// Of a record of these.
    pub fn of(reporter: &str, parties: &Parties<'_>) -> Self {
        let mut who = Self {
            source_principal: parties.source.identity.as_ref().into(),
            destination_principal: parties.destination.identity.as_ref().into(),
            ..Self::nobody(reporter)
        };
        if let Some(service) = parties.service {
            let name = service.hostname.split('.').next().unwrap_or_default();
            who.destination_service = (&service.hostname).into();
            who.destination_service_namespace = (&service.namespace).into();
            who.destination_service_name = name.into();
        }
        if let Some(source) = &parties.source.workload {
            who.set_source(source);
        }
        if let Some(destination) = &parties.destination.workload {
            who.set_destination(destination);
        }
        who
    }

    fn set_source(&mut self, workload: &Workload) {
        self.source_workload = (&workload.workload_name).into();
        self.source_canonical_service = (&workload.canonical_name).into();
        self.source_canonical_revision = (&workload.canonical_revision).into();
        self.source_workload_namespace = (&workload.namespace).into();
        self.source_app = (&workload.canonical_name).into();
        self.source_version = (&workload.canonical_revision).into();
        self.source_cluster = (&workload.cluster).into();
    }

    fn set_destination(&mut self, workload: &Workload) {
        self.destination_workload = (&workload.workload_name).into();
        self.destination_canonical_service = (&workload.canonical_name).into();
        self.destination_canonical_revision = (&workload.canonical_revision).into();
        self.destination_workload_namespace = (&workload.namespace).into();
        self.destination_app = (&workload.canonical_name).into();
        self.destination_version = (&workload.canonical_revision).into();
        self.destination_cluster = (&workload.cluster).into();
    }
}

/// Labels of `istio_tcp_*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs)]
pub struct ConnectionLabels {
    #[prometheus(flatten)]
    pub who: Who,
    pub request_protocol: Text,
    pub response_flags: Text,
    pub connection_security_policy: Text,
}
