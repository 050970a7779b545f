//! Label sets that were seen, found again by the addresses of what they were made of.
//!
//! A connection's labels are some twenty texts. Writing and hashing them for each record cost more
//! than the record itself; a record of the same workloads, identities and service finds its
//! counters by comparing a few numbers. Knows no family of counters.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use mesh::service::ServiceKey;
use mesh::{Identity, Workload};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{Labels, flag_of, is_mutual_tls, labels};
use crate::connection::{Details, Direction};
use crate::record::{Flag, Record};
use carrier::limits::LABEL_SETS;

/// Series that are remembered by address, after which all are looked up anew; two for each label
/// set, since a push may bring the same workload at a new address.
const SERIES: usize = 2 * LABEL_SETS;

/// The label sets.
#[derive(Default)]
pub(super) struct Sets {
    seen: HashSet<Labels>,
    series: HashMap<Key, Kept>,
}

/// One label set with its counters.
pub(super) struct Series {
    pub(super) labels: Labels,
    pub(super) counters: Counters,
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
    pub(super) fn of(&mut self, family: &Family<Labels, Counter>, labels: &Labels) -> &Counter {
        self.0
            .get_or_insert_with(|| family.get_or_create_owned(labels))
    }
}

/// What labels are made of, by address.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    direction: Direction,
    flag: Flag,
    mutual_tls: bool,
    /// Both workloads, the service's two names, both identities; 0 for what is not known.
    addresses: [usize; 6],
}

/// Keeps the addresses of a [`Key`] from being used for something else. It does not keep the
/// workloads that discovery has forgotten.
struct Kept {
    series: Series,
    _workloads: [Option<Weak<Workload>>; 2],
    _service: Option<ServiceKey>,
    _identities: [Option<Identity>; 2],
}

impl Sets {
    /// The series that a record counts in.
    pub(super) fn of(&mut self, record: &Record) -> &mut Series {
        if self.series.len() >= SERIES {
            self.series = HashMap::new();
        }
        let seen = &mut self.seen;
        let kept = self.series.entry(Key::of(record));
        &mut kept.or_insert_with(|| Kept::new(record, seen)).series
    }
}

impl Key {
    fn of(record: &Record) -> Self {
        let Details {
            source,
            destination,
            service,
            ..
        } = &record.details;
        let workload = |known: &Option<Arc<Workload>>| {
            known
                .as_ref()
                .map_or(0, |workload| Arc::as_ptr(workload).addr())
        };
        // Its parts are made together and never shared with another identity.
        let identity = |known: &Option<Identity>| {
            known
                .as_ref()
                .map_or(0, |identity| identity.service_account().as_ptr().addr())
        };
        Self {
            direction: record.direction,
            flag: flag_of(record),
            mutual_tls: is_mutual_tls(record.direction, &record.details),
            addresses: [
                workload(&source.workload),
                workload(&destination.workload),
                service
                    .as_ref()
                    .map_or(0, |key| key.hostname.as_ptr().addr()),
                service
                    .as_ref()
                    .map_or(0, |key| key.namespace.as_ptr().addr()),
                identity(&source.identity),
                identity(&destination.identity),
            ],
        }
    }
}

impl Kept {
    fn new(record: &Record, seen: &mut HashSet<Labels>) -> Self {
        let details = &record.details;
        let parties = [&details.source, &details.destination];
        Self {
            series: Series {
                labels: bounded(labels(record), seen),
                counters: Counters::default(),
            },
            _workloads: parties.map(|party| party.workload.as_ref().map(Arc::downgrade)),
            _service: details.service.clone(),
            _identities: parties.map(|party| party.identity.clone()),
        }
    }
}

/// The labels, or those of "everything else" when there are [`LABEL_SETS`] already.
fn bounded(labels: Labels, seen: &mut HashSet<Labels>) -> Labels {
    if seen.contains(&labels) {
        return labels;
    }
    if seen.len() < LABEL_SETS {
        seen.insert(labels.clone());
        return labels;
    }
    Labels {
        reporter: labels.reporter,
        ..Labels::default()
    }
}
