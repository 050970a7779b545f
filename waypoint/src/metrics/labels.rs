//! Labels as the ecosystem's dashboards want them. Knows no counter.

use std::fmt::Write as _;
use std::sync::Arc;

use mesh::service::ServiceKey;
use mesh::workload::TunnelProtocol;
use mesh::{Identity, Workload};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use super::sets::{Extra, Labelled, Parties};
use crate::record::{ConnectionRecord, RequestRecord};

/// A label value; the empty text shows as `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Text(Arc<str>);

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

/// Who, to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Who {
    reporter: Text,
    source_workload: Text,
    source_canonical_service: Text,
    source_canonical_revision: Text,
    source_workload_namespace: Text,
    source_principal: Text,
    source_app: Text,
    source_version: Text,
    source_cluster: Text,
    destination_service: Text,
    destination_service_namespace: Text,
    destination_service_name: Text,
    destination_workload: Text,
    destination_canonical_service: Text,
    destination_canonical_revision: Text,
    destination_workload_namespace: Text,
    destination_principal: Text,
    destination_app: Text,
    destination_version: Text,
    destination_cluster: Text,
}

/// Labels of `istio_tcp_*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ConnectionLabels {
    #[prometheus(flatten)]
    who: Who,
    request_protocol: Text,
    response_flags: Text,
    connection_security_policy: Text,
}

/// Labels of `istio_request*` and `istio_response*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    #[prometheus(flatten)]
    who: Who,
    request_protocol: Text,
    response_code: Text,
    grpc_response_status: Text,
    response_flags: Text,
    connection_security_policy: Text,
}

fn who(parties: &Parties<'_>) -> Who {
    let mut who = nobody();
    who.source_principal = principal(parties.source.identity.as_ref());
    // Requests do not say which tunnel they went by; its other end had to be the workload.
    let workload = parties.destination.workload.as_ref();
    let tunnelled = workload.filter(|workload| workload.tunnel == TunnelProtocol::Hbone);
    let expected = tunnelled.and_then(|workload| workload.identity().ok());
    let proved = parties.destination.identity.as_ref();
    who.destination_principal = principal(proved.or(expected.as_ref()));
    if let Some(service) = parties.service {
        let name = service.hostname.split('.').next().unwrap_or_default();
        who.destination_service = (&service.hostname).into();
        who.destination_service_namespace = (&service.namespace).into();
        who.destination_service_name = name.into();
    }
    if let Some(source) = &parties.source.workload {
        set_source(&mut who, source);
    }
    if let Some(destination) = &parties.destination.workload {
        set_destination(&mut who, destination);
    }
    who
}

fn nobody() -> Who {
    Who {
        reporter: "waypoint".into(),
        ..Who::default()
    }
}

fn principal(identity: Option<&Identity>) -> Text {
    match identity {
        Some(identity) => Text(identity.to_string().into()),
        None => Text::default(),
    }
}

fn set_source(who: &mut Who, workload: &Workload) {
    who.source_workload = (&workload.workload_name).into();
    who.source_canonical_service = (&workload.canonical_name).into();
    who.source_canonical_revision = (&workload.canonical_revision).into();
    who.source_workload_namespace = (&workload.namespace).into();
    who.source_app = (&workload.canonical_name).into();
    who.source_version = (&workload.canonical_revision).into();
    who.source_cluster = (&workload.cluster).into();
}

fn set_destination(who: &mut Who, workload: &Workload) {
    who.destination_workload = (&workload.workload_name).into();
    who.destination_canonical_service = (&workload.canonical_name).into();
    who.destination_canonical_revision = (&workload.canonical_revision).into();
    who.destination_workload_namespace = (&workload.namespace).into();
    who.destination_app = (&workload.canonical_name).into();
    who.destination_version = (&workload.canonical_revision).into();
    who.destination_cluster = (&workload.cluster).into();
}

impl Labelled for ConnectionRecord {
    type Labels = ConnectionLabels;

    fn parties(&self) -> Parties<'_> {
        Parties {
            source: &self.details.source,
            destination: &self.details.destination,
            service: self.details.service.as_ref(),
        }
    }

    fn extra(&self) -> Extra {
        let flag = self.flag();
        (flag, 0, None)
    }

    fn labels(&self) -> ConnectionLabels {
        ConnectionLabels {
            who: who(&self.parties()),
            request_protocol: "tcp".into(),
            response_flags: self.flag().into(),
            connection_security_policy: "mutual_tls".into(),
        }
    }

    fn rest() -> ConnectionLabels {
        ConnectionLabels {
            who: nobody(),
            ..ConnectionLabels::default()
        }
    }
}

impl ConnectionRecord {
    fn flag(&self) -> &'static str {
        match &self.outcome {
            Ok(()) => "-",
            Err((flag, _)) => flag.as_str(),
        }
    }
}

impl Labelled for RequestRecord {
    type Labels = RequestLabels;

    fn parties(&self) -> Parties<'_> {
        Parties {
            source: &self.source,
            destination: &self.destination,
            service: self.service.as_ref(),
        }
    }

    fn extra(&self) -> Extra {
        (self.flag(), self.code(), self.grpc_status)
    }

    fn labels(&self) -> RequestLabels {
        let grpc = self.grpc_status.filter(|_| self.is_grpc);
        RequestLabels {
            who: who(&self.parties()),
            request_protocol: if self.is_grpc { "grpc" } else { "http" }.into(),
            response_code: Text(self.code().to_string().into()),
            grpc_response_status: Text(
                grpc.map(|code| code.to_string()).unwrap_or_default().into(),
            ),
            response_flags: self.flag().into(),
            connection_security_policy: "mutual_tls".into(),
        }
    }

    fn rest() -> RequestLabels {
        RequestLabels {
            who: nobody(),
            ..RequestLabels::default()
        }
    }
}

impl RequestRecord {
    fn flag(&self) -> &'static str {
        self.reason.map_or("-", |reason| reason.as_str())
    }

    /// 0, as with the rivals, when the client went away first.
    fn code(&self) -> u16 {
        self.status.unwrap_or(0)
    }
}

/// Names of a service, for the key of a label set.
pub(super) fn names(service: Option<&ServiceKey>) -> [usize; 2] {
    service.map_or([0, 0], |key| {
        [key.hostname.as_ptr().addr(), key.namespace.as_ptr().addr()]
    })
}
