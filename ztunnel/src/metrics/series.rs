//! The labels of a connection, and its counters under them. Knows no family of counters.

use carrier::labels::sets::Labelled;
use carrier::labels::{ConnectionLabels, Parties, Who};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::connection::{Details, Direction};
use crate::record::{Flag, Record};

/// One label set with its counters.
pub(super) struct Series {
    pub(super) labels: ConnectionLabels,
    pub(super) counters: Counters,
}

impl Series {
    /// Nothing counted yet.
    pub(super) fn new(labels: &ConnectionLabels) -> Self {
        Self {
            labels: labels.clone(),
            counters: Counters::default(),
        }
    }
}

/// Counters of a label set, each there from its first use on.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) opened: Slot,
    pub(super) closed: Slot,
    pub(super) failed: Slot,
    pub(super) sent: Slot,
    pub(super) received: Slot,
}

/// A counter, once it was used.
#[derive(Default)]
pub(super) struct Slot(Option<Counter>);

impl Slot {
    /// The counter, from its family at the first time.
    pub(super) fn of(
        &mut self,
        family: &Family<ConnectionLabels, Counter>,
        labels: &ConnectionLabels,
    ) -> &Counter {
        self.0
            .get_or_insert_with(|| family.get_or_create_owned(labels))
    }
}

impl Labelled for Record {
    type Labels = ConnectionLabels;
    type Extra = (Direction, Flag, bool);

    fn parties(&self) -> Parties<'_> {
        Parties {
            source: &self.details.source,
            destination: &self.details.destination,
            service: self.details.service.as_ref(),
        }
    }

    fn extra(&self) -> Self::Extra {
        let mutual_tls = is_mutual_tls(self.direction, &self.details);
        (self.direction, flag_of(self), mutual_tls)
    }

    fn labels(&self) -> ConnectionLabels {
        let mutual_tls = is_mutual_tls(self.direction, &self.details);
        ConnectionLabels {
            who: Who::of(reporter(self.direction), &self.parties()),
            request_protocol: "tcp".into(),
            response_flags: flag_of(self).as_str().into(),
            connection_security_policy: if mutual_tls { "mutual_tls" } else { "unknown" }.into(),
        }
    }

    fn rest(&self) -> ConnectionLabels {
        ConnectionLabels {
            who: Who::nobody(reporter(self.direction)),
            ..ConnectionLabels::default()
        }
    }
}

fn reporter(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "source",
        Direction::Inbound => "destination",
    }
}

/// Whether mutual TLS carries the connection.
fn is_mutual_tls(direction: Direction, details: &Details) -> bool {
    match direction {
        Direction::Outbound => details.authority.is_some(),
        Direction::Inbound => details.source.identity.is_some(),
    }
}

fn flag_of(record: &Record) -> Flag {
    match &record.outcome {
        Ok(()) => Flag::None,
        Err((flag, _)) => *flag,
    }
}
