//! The delta protocol as a value: responses in, requests and a snapshot out.
//!
//! Knows no socket, time or task. One value lives as long as the process; each stream begins with
//! [`Discovery::open`].
//!
//! ```text
//! open() -> first requests     (versions of what is held: the server skips what is unchanged)
//!   apply(response) -> ACK, or NACK that lists the bad ones; the good ones are in the snapshot
//!   want(address)   -> subscription, on demand
//!   settle()        -> after a quiet moment on a reconnected stream: drops what is gone
//! ```

use std::collections::BTreeSet;
use std::fmt;

use mesh::NetworkAddress;
use mesh::route::Book;
use mesh::snapshot::{Snapshot, packed};
use mesh::workload::Pool;
use proto::ResourceName;
use proto::wire::discovery::{self as wire, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};

use super::carried::{Carried, Entry};
use arrived::Arrived;
use complaint::{complaint, unasked};
use held::Held;
pub use held::Kind;
use library::Library;
use unreadable::decode;

mod arrived;
mod complaint;
mod held;
mod library;
mod removal;
mod unreadable;

/// Addresses subscribed to on demand at once. A node talks to far fewer; a client that scans
/// addresses must not grow the subscription for ever (absent ones are bounded by
/// [`mesh::snapshot::MAX_ABSENT`]).
const MAX_WANTED: usize = 65_536;

/// Names that must have come for another packing: less is not worth it.
const PACKED_FROM: usize = 512;

/// What is asked for. Policies are always asked for as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All workloads and services.
    #[default]
    Wildcard,
    /// Only addresses that [`Discovery::want`] named (and what the server thinks we need).
    OnDemand,
}

/// A resource that was refused; what was held under its name before stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Name on the wire.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whether it is a policy or a route that nothing was held of, and what it applies to is denied
    /// now.
    pub denies: bool,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// What a response led to.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Its type; None for one that was not asked for.
    pub kind: Option<Kind>,
    /// Whether the snapshot, or the book, is another one now.
    pub changed: bool,
    /// To send, in this order; the first acknowledges the response.
    pub requests: Vec<DeltaDiscoveryRequest>,
    /// Resources that were refused.
    pub rejected: Vec<Rejected>,
}

/// State of the protocol, over all streams.
#[derive(Debug)]
pub struct Discovery {
    node: Node,
    scope: Scope,
    snapshot: Snapshot,
    addresses: Held,
    policies: Held,
    routes: Held,
    target_policies: Held,
    /// None: routes are not asked for.
    library: Option<Library>,
    wanted: BTreeSet<NetworkAddress>,
    pool: Pool,
    /// Names of workloads and services when their tables were packed last.
    packed: usize,
    /// The fewest of them since then: what went has left gaps.
    fewest: usize,
}

impl Discovery {
    /// Nothing known yet.
    pub fn new(node: Node, scope: Scope) -> Self {
        Self {
            node,
            scope,
            snapshot: Snapshot::new(),
            addresses: Held::default(),
            policies: Held::default(),
            routes: Held::default(),
            target_policies: Held::default(),
            library: None,
            wanted: BTreeSet::new(),
            pool: Pool::default(),
            packed: 0,
            fewest: 0,
        }
    }

    /// Asks for routes too.
    pub fn with_routes(mut self) -> Self {
        self.library = Some(Library::default());
        self
    }

    /// All routes and policies with targets that are known now; None when they are not asked for.
    pub fn book(&self) -> Option<&Book> {
        self.library.as_ref().map(Library::book)
    }

    /// The types that are asked for.
    fn kinds(&self) -> impl Iterator<Item = Kind> + use<> {
        let with_routes = self.library.is_some();
        let all = Kind::ALL.into_iter();
        all.filter(move |kind| with_routes || !kind.is_of_book())
    }

    /// Everything, as another process' feed held it. Each type counts as answered.
    pub fn resume(node: Node, carried: Carried) -> Self {
        let held = |by_name| Held {
            by_name,
            answered: true,
            ..Held::default()
        };
        Self {
            snapshot: carried.snapshot,
            addresses: held(carried.addresses),
            policies: held(carried.policies),
            ..Self::new(node, Scope::Wildcard)
        }
    }

    /// What another feed can start from: the snapshot, not the book. None before both of its types
    /// were answered, and on demand, when what is held depends on who asked.
    pub fn carried(&self) -> Option<Carried> {
        let answered = self.answered(Kind::Addresses) && self.answered(Kind::Policies);
        let whole = self.scope == Scope::Wildcard && answered;
        whole.then(|| Carried {
            snapshot: self.snapshot.clone(),
            addresses: self.addresses.by_name.clone(),
            policies: self.policies.by_name.clone(),
        })
    }

    /// Makes tables that have grown or shrunk much take no more memory than they need. To be called
    /// before each publication: nothing is shared with what was published before.
    pub fn pack(&mut self) {
        let names = self.addresses.by_name.len();
        self.fewest = self.fewest.min(names);
        // Each name is packed some five times at the most, however slowly they come.
        let has_grown = names >= self.fewest + self.fewest / 4 + PACKED_FROM;
        let has_shrunk = names + PACKED_FROM <= self.packed / 2;
        if has_grown || has_shrunk {
            (self.packed, self.fewest) = (names, names);
            self.pool.sweep();
            self.snapshot.pack();
            self.addresses.by_name = packed(&self.addresses.by_name);
        }
    }

    /// All that is known now.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whether a response of that type came, on any stream.
    pub fn answered(&self, kind: Kind) -> bool {
        self.held(kind).answered
    }

    /// A stream begins: the requests to send first.
    pub fn open(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut requests: Vec<_> = self.kinds().map(|kind| self.opening(kind)).collect();
        if self.scope == Scope::OnDemand && !self.wanted.is_empty() {
            requests.push(DeltaDiscoveryRequest {
                resource_names_subscribe: self.wanted.iter().map(ToString::to_string).collect(),
                ..request(Kind::Addresses.url())
            });
        }
        requests
    }

    fn opening(&mut self, kind: Kind) -> DeltaDiscoveryRequest {
        let on_demand = kind == Kind::Addresses && self.scope == Scope::OnDemand;
        let all = || {
            if on_demand {
                vec!["*".to_owned()]
            } else {
                Vec::new()
            }
        };
        let node = Some(self.node.clone());
        let held = self.held_mut(kind);
        held.repeats = false;
        // On demand a server that answers with less has not said that the rest is gone.
        let names = || held.by_name.keys().cloned().collect();
        held.unconfirmed = (held.answered && !on_demand).then(names);
        let versions = held.by_name.iter();
        DeltaDiscoveryRequest {
            node,
            resource_names_subscribe: all(),
            resource_names_unsubscribe: all(),
            initial_resource_versions: versions
                .map(|(name, entry)| (name.to_string(), entry.version().to_owned()))
                .collect(),
            ..request(kind.url())
        }
    }

    /// Subscribes to an address, on demand. None when there is nothing to send: it is subscribed
    /// to, the scope is the wildcard, or [`MAX_WANTED`] are.
    pub fn want(&mut self, address: NetworkAddress) -> Option<DeltaDiscoveryRequest> {
        if self.scope == Scope::Wildcard || self.wanted.len() >= MAX_WANTED {
            return None;
        }
        let name = address.to_string();
        self.wanted.insert(address).then(|| DeltaDiscoveryRequest {
            resource_names_subscribe: vec![name],
            ..request(Kind::Addresses.url())
        })
    }

    /// Takes a response: all good resources and removals of it, whatever else is bad in it.
    pub fn apply(&mut self, response: DeltaDiscoveryResponse) -> Applied {
        let kind = Kind::of(&response.type_url);
        let Some(kind) = kind.filter(|kind| self.library.is_some() || !kind.is_of_book()) else {
            return unasked(&response);
        };
        let mut changed = self.note_answer(kind);
        let mut ended = Vec::new();
        for name in &response.removed_resources {
            changed |= self.remove(kind, name, &mut ended);
        }
        let mut rejected = Vec::new();
        let mut arrived = match kind {
            Kind::Addresses => Arrived::with_capacity(response.resources.len()),
            _ => Arrived::default(),
        };
        for resource in &response.resources {
            match self.accept(kind, resource, &mut arrived) {
                Ok(new) => changed |= new,
                Err(reason) => {
                    let denies = match kind {
                        Kind::Addresses => false,
                        Kind::Policies => self.deny_instead(resource),
                        Kind::Routes | Kind::TargetPolicies => {
                            self.refuse_instead(kind, resource, &reason)
                        }
                    };
                    changed |= denies;
                    let name = resource.name.clone();
                    rejected.push(Rejected {
                        name,
                        reason,
                        denies,
                    });
                }
            }
        }
        changed |= self.take(arrived);
        if let Some(library) = &mut self.library {
            library.arrange();
        }
        let mut requests = vec![DeltaDiscoveryRequest {
            response_nonce: response.nonce,
            error_detail: (!rejected.is_empty()).then(|| complaint(&rejected)),
            ..request(kind.url())
        }];
        requests.extend(unsubscription(&ended));
        Applied {
            kind: Some(kind),
            changed,
            requests,
            rejected,
        }
    }

    /// The reconnected stream was quiet for a moment: drops what a server that sends everything
    /// again has left out. Returns whether the snapshot changed.
    ///
    /// Servers that compare versions send removals themselves, and then this does nothing. It waits
    /// for quiet because nothing says that everything comes in one response.
    pub fn settle(&mut self) -> bool {
        let mut changed = false;
        for kind in self.kinds() {
            let held = self.held_mut(kind);
            if !held.repeats {
                continue;
            }
            for name in held.unconfirmed.take().unwrap_or_default() {
                // Wildcard only: there is no subscription to end.
                changed |= self.remove(kind, &name, &mut Vec::new());
            }
        }
        if let Some(library) = &mut self.library {
            library.arrange();
        }
        changed
    }

    /// Whether [`Discovery::settle`] has something to do.
    pub fn unsettled(&self) -> bool {
        let waits = |held: &Held| held.repeats && held.unconfirmed.is_some();
        self.kinds().any(|kind| waits(self.held(kind)))
    }

    /// The first response of a type makes it synced; its emptiness is an answer too.
    fn note_answer(&mut self, kind: Kind) -> bool {
        let held = self.held_mut(kind);
        if std::mem::replace(&mut held.answered, true) {
            return false;
        }
        match kind {
            Kind::Policies => self.snapshot.set_policies_synced(),
            Kind::Addresses if self.scope == Scope::Wildcard => {
                self.snapshot.set_addresses_synced();
            }
            // On demand no answer is ever about all addresses.
            Kind::Addresses => return false,
            // An empty book is there from the beginning; readiness waits for the answer.
            Kind::Routes | Kind::TargetPolicies => {}
        }
        true
    }

    /// Takes one resource, or puts it with what has arrived; says whether the snapshot, or the
    /// book, is another one now.
    fn accept(
        &mut self,
        kind: Kind,
        resource: &wire::Resource,
        arrived: &mut Arrived,
    ) -> Result<bool, String> {
        let held = self.held_mut(kind);
        held.confirm(resource);
        if kind.is_of_book() {
            let Some(library) = &mut self.library else {
                return Ok(false);
            };
            let changed = library.take(kind, resource)?;
            let entry = Entry::unnamed(&resource.version);
            let name = resource.name.as_str().into();
            self.held_mut(kind).by_name.insert(name, entry);
            return Ok(changed);
        }
        let mut decoded = decode(kind, resource)?;
        if let proto::Resource::Workload(workload) = &mut decoded {
            self.pool.share(workload);
            if let Some(old) = self.snapshot.workload(&workload.uid) {
                // One text for the table of names and for the workload.
                workload.uid = old.uid.clone();
            }
        }
        let (name, entry) = Entry::named(&resource.version, decoded.name());
        match kind {
            Kind::Addresses => arrived.name(name, entry),
            _ => drop(self.held_mut(kind).by_name.insert(name, entry)),
        }
        if let proto::Resource::Workload(workload) = decoded {
            arrived.workload(workload);
            return Ok(false);
        }
        if self.has(&decoded) {
            return Ok(false);
        }
        decoded.insert_into(&mut self.snapshot);
        Ok(true)
    }

    /// A policy that cannot be read, and of which nothing is held, denies what it applies to until
    /// it can be read or is gone. Says whether it does.
    fn deny_instead(&mut self, resource: &wire::Resource) -> bool {
        let Some(policy) = unreadable::stand_in(resource) else {
            return false;
        };
        let is_held = self.policies.by_name.contains_key(&*resource.name);
        if is_held || self.snapshot.policy(&policy.key).is_some() {
            return false;
        }
        // Of no version: it is to be sent again on the next stream, to a newer reader perhaps.
        let (_, entry) = Entry::named("", ResourceName::Policy(policy.key.clone()));
        let name = resource.name.as_str().into();
        self.policies.by_name.insert(name, entry);
        self.snapshot.insert_policy(policy);
        true
    }

    /// A route or a policy with targets that cannot be read, and of which nothing is held: what it
    /// is for is refused until it can be read or is gone. Says whether it is.
    fn refuse_instead(&mut self, kind: Kind, resource: &wire::Resource, reason: &str) -> bool {
        if self.held(kind).by_name.contains_key(&*resource.name) {
            return false;
        }
        let library = self.library.as_mut();
        let refused = library.is_some_and(|library| library.refuse(kind, &resource.name, reason));
        if refused {
            // Of no version, as with policies above.
            let name = resource.name.as_str().into();
            self.held_mut(kind).by_name.insert(name, Entry::unnamed(""));
        }
        refused
    }

    /// Whether the snapshot has this already, word for word.
    fn has(&self, new: &proto::Resource) -> bool {
        let snapshot = &self.snapshot;
        match new {
            // It is looked at when all have arrived.
            proto::Resource::Workload(_) => false,
            proto::Resource::Service(new) => {
                snapshot.service(&new.key).is_some_and(|old| **old == *new)
            }
            // A kept one is removed in all but name: it must be inserted again.
            proto::Resource::Policy(new) => {
                snapshot.policy(&new.key).is_some_and(|old| **old == *new)
                    && !snapshot.policy_is_kept(&new.key)
            }
        }
    }

    fn held(&self, kind: Kind) -> &Held {
        match kind {
            Kind::Addresses => &self.addresses,
            Kind::Policies => &self.policies,
            Kind::Routes => &self.routes,
            Kind::TargetPolicies => &self.target_policies,
        }
    }

    fn held_mut(&mut self, kind: Kind) -> &mut Held {
        match kind {
            Kind::Addresses => &mut self.addresses,
            Kind::Policies => &mut self.policies,
            Kind::Routes => &mut self.routes,
            Kind::TargetPolicies => &mut self.target_policies,
        }
    }
}

fn request(type_url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        ..Default::default()
    }
}

fn unsubscription(ended: &[NetworkAddress]) -> Option<DeltaDiscoveryRequest> {
    (!ended.is_empty()).then(|| DeltaDiscoveryRequest {
        resource_names_unsubscribe: ended.iter().map(ToString::to_string).collect(),
        ..request(Kind::Addresses.url())
    })
}

#[cfg(test)]
mod tests;
