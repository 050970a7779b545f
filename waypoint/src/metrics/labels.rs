//! Labels of what a waypoint records. Knows no counter.

use carrier::labels::sets::Labelled;
use carrier::labels::{ConnectionLabels, Parties, Text, Who};
use mesh::workload::TunnelProtocol;
use prometheus_client::encoding::EncodeLabelSet;

use crate::record::{ConnectionRecord, RequestRecord};

/// Who counts here.
const REPORTER: &str = "waypoint";

/// Flag, status, status of gRPC.
type Extra = (&'static str, u16, Option<u16>);

/// Labels of `istio_request*` and `istio_response*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    #[prometheus(flatten)]
    who: Who,
    request_protocol: Text,
    response_code: Text,
    grpc_response_status: Text,
    response_flags: Text,
    connection_security_policy: Text,
}

fn who(parties: &Parties<'_>) -> Who {
    let mut who = Who::of(REPORTER, parties);
    if parties.destination.identity.is_none() {
        // Requests do not say which tunnel they went by; its other end had to be the workload.
        let workload = parties.destination.workload.as_ref();
        let tunnelled = workload.filter(|workload| workload.tunnel == TunnelProtocol::Hbone);
        let expected = tunnelled.and_then(|workload| workload.identity().ok());
        who.destination_principal = expected.as_ref().into();
    }
    who
}

impl Labelled for ConnectionRecord {
    type Labels = ConnectionLabels;
    type Extra = &'static str;

    fn parties(&self) -> Parties<'_> {
        Parties {
            source: &self.details.source,
            destination: &self.details.destination,
            service: self.details.service.as_ref(),
        }
    }

    fn extra(&self) -> &'static str {
        self.flag()
    }

    fn labels(&self) -> ConnectionLabels {
        ConnectionLabels {
            who: who(&self.parties()),
            request_protocol: "tcp".into(),
            response_flags: self.flag().into(),
            connection_security_policy: "mutual_tls".into(),
        }
    }

    fn rest(&self) -> ConnectionLabels {
        ConnectionLabels {
            who: Who::nobody(REPORTER),
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
    type Extra = Extra;

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
            response_code: self.code().to_string().into(),
            grpc_response_status: grpc.map(|code| code.to_string()).unwrap_or_default().into(),
            response_flags: self.flag().into(),
            connection_security_policy: "mutual_tls".into(),
        }
    }

    fn rest(&self) -> RequestLabels {
        RequestLabels {
            who: Who::nobody(REPORTER),
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
