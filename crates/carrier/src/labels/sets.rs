//! Label sets that were seen, found again by the addresses of what they were made of.
//!
//! The labels of a record are some twenty texts. Writing and hashing them for each record would
//! cost more than the record itself; a record of the same workloads, identities and service finds
//! its counters by comparing a few numbers. Knows no counter.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Weak};

use mesh::service::ServiceKey;
use mesh::{Identity, Workload};

use super::{Parties, Party};
use crate::limits::LABEL_SETS;

/// Series that are remembered by address, after which all are looked up anew; two for each label
/// set, since a push may bring the same workload at a new address.
const SERIES: usize = 2 * LABEL_SETS;

/// What can be counted under labels.
pub trait Labelled {
    /// Its labels.
    type Labels: Clone + Eq + Hash;
    /// What else tells label sets apart, in a few numbers.
    type Extra: Eq + Hash;

    /// Who takes part.
    fn parties(&self) -> Parties<'_>;
    /// What else tells its labels from others.
    fn extra(&self) -> Self::Extra;
    /// Writes them.
    fn labels(&self) -> Self::Labels;
    /// Where everything counts that comes after [`LABEL_SETS`].
    fn rest(&self) -> Self::Labels;
}

/// The label sets.
pub struct Sets<R: Labelled, S> {
    seen: HashSet<R::Labels>,
    series: HashMap<Key<R::Extra>, Kept<S>>,
}

impl<R: Labelled, S> Default for Sets<R, S> {
    fn default() -> Self {
        Self {
            seen: HashSet::new(),
            series: HashMap::new(),
        }
    }
}

/// What labels are made of, by address.
#[derive(PartialEq, Eq, Hash)]
struct Key<E> {
    extra: E,
    /// Both workloads, the service's two names, both identities; 0 for what is not known.
    addresses: [usize; 6],
}

/// Keeps the addresses of a [`Key`] from being used for something else. It does not keep the
/// workloads that discovery has forgotten.
struct Kept<S> {
    series: S,
    _workloads: [Option<Weak<Workload>>; 2],
    _service: Option<ServiceKey>,
    _identities: [Option<Identity>; 2],
}

impl<R: Labelled, S> Sets<R, S> {
    /// The series that a record counts in, made for its labels at the first one.
    pub fn of(&mut self, record: &R, make: impl FnOnce(&R::Labels) -> S) -> &mut S {
        if self.series.len() >= SERIES {
            self.series = HashMap::new();
        }
        let seen = &mut self.seen;
        let kept = self.series.entry(Key::of(record));
        let kept = kept.or_insert_with(|| {
            let labels = bounded(record, seen);
            Kept::new(&record.parties(), make(&labels))
        });
        &mut kept.series
    }
}

impl<E> Key<E> {
    fn of(record: &impl Labelled<Extra = E>) -> Self {
        let Parties {
            source,
            destination,
            service,
        } = record.parties();
        let workload = |party: &Party| {
            let known = party.workload.as_ref();
            known.map_or(0, |workload| Arc::as_ptr(workload).addr())
        };
        // Its parts are made together and never shared with another identity.
        let identity = |party: &Party| {
            let known = party.identity.as_ref();
            known.map_or(0, |identity| identity.service_account().as_ptr().addr())
        };
        let [hostname, namespace] = service.map_or([0, 0], |key| {
            [key.hostname.as_ptr().addr(), key.namespace.as_ptr().addr()]
        });
        Self {
            extra: record.extra(),
            addresses: [
                workload(source),
                workload(destination),
                hostname,
                namespace,
                identity(source),
                identity(destination),
            ],
        }
    }
}

impl<S> Kept<S> {
    fn new(parties: &Parties<'_>, series: S) -> Self {
        let both = [parties.source, parties.destination];
        Self {
            series,
            _workloads: both.map(|party| party.workload.as_ref().map(Arc::downgrade)),
            _service: parties.service.cloned(),
            _identities: both.map(|party| party.identity.clone()),
        }
    }
}

/// The labels, or those of "everything else" when there are [`LABEL_SETS`] already.
fn bounded<R: Labelled>(record: &R, seen: &mut HashSet<R::Labels>) -> R::Labels {
    let labels = record.labels();
    if seen.contains(&labels) {
        return labels;
    }
    if seen.len() < LABEL_SETS {
        seen.insert(labels.clone());
        return labels;
    }
    record.rest()
}
