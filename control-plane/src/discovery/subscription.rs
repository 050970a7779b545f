//! What one stream wants of one type, what it has, and what it is to be sent next. A state machine
//! without I/O: requests go in, responses come out.
//!
//! ```text
//!   first request -> Owed --next()--> InFlight(nonce) --ack/nack--> Idle --change--> InFlight ...
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use proto::{
    ADDRESS_TYPE_URL, AUTHORIZATION_TYPE_URL, ROUTE_TYPE_URL, TARGET_POLICY_TYPE_URL,
    WORKLOAD_TYPE_URL,
};

use crate::publication::{Entry, Published, Table};

/// Most names that a stream asks for one by one: the addresses a node talks to, with room.
const MAX_NAMES: usize = 65_536;

/// Longest name in bytes: a workload's uid with two Kubernetes names in it.
const MAX_NAME_BYTES: usize = 1024;

/// Longest part of a client's error that is kept, in characters.
const MAX_DETAIL_CHARS: usize = 2000;

/// The types that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Workloads and services.
    Address,
    /// Workloads alone.
    Workload,
    /// Policies; always all of them.
    Authorization,
    /// Policies that are for services and gateways; always all of them.
    TargetPolicy,
    /// Routes; always all of them.
    Route,
}

impl Kind {
    /// The kind of a type URL.
    pub fn of(url: &str) -> Option<Self> {
        let all = [
            Self::Address,
            Self::Workload,
            Self::Authorization,
            Self::TargetPolicy,
            Self::Route,
        ];
        all.into_iter().find(|k| k.url() == url)
    }

    /// Whether it is of workloads and services, which may be asked for one by one.
    pub fn is_of_addresses(self) -> bool {
        matches!(self, Self::Address | Self::Workload)
    }

    /// Its type URL.
    pub fn url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS_TYPE_URL,
            Self::Workload => WORKLOAD_TYPE_URL,
            Self::Authorization => AUTHORIZATION_TYPE_URL,
            Self::TargetPolicy => TARGET_POLICY_TYPE_URL,
            Self::Route => ROUTE_TYPE_URL,
        }
    }

    /// A word for logs and labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Workload => "workload",
            Self::Authorization => "authorization",
            Self::TargetPolicy => "target_policy",
            Self::Route => "route",
        }
    }

    fn table(self, published: &Published) -> &Table {
        match self {
            Self::Address => &published.addresses,
            Self::Workload => &published.workloads,
            Self::Authorization => &published.policies,
            Self::TargetPolicy => &published.target_policies,
            Self::Route => &published.routes,
        }
    }
}

/// What a request was.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The last response was applied whole.
    Acknowledged,
    /// The last response was refused in part or whole, with the client's reason.
    Rejected(String),
    /// No answer to the last response: a change of what is asked for, or too late.
    Other,
}

/// What the client has.
enum Has {
    /// These versions, as it said itself on reconnecting.
    Claims(BTreeMap<String, String>),
    /// What it was sent.
    Sent(Table),
}

struct InFlight {
    nonce: String,
    revision: u64,
}

/// One type of one stream.
pub struct Subscription {
    kind: Kind,
    node: Arc<str>,
    wildcard: bool,
    names: BTreeSet<String>,
    has: Has,
    /// Names asked for that the client was told do not exist.
    absent: BTreeSet<String>,
    in_flight: Option<InFlight>,
    /// Whether there was a response already: the first is sent even if it is empty, so that the
    /// client knows that it has everything.
    answered: bool,
    acked: u64,
    /// Whether the last response was refused: its changes may not be in force at the client.
    rejected: bool,
    responses: u64,
}

impl Subscription {
    /// Begins with the first request of a type on a stream.
    ///
    /// # Errors
    /// A sentence: it asks for too much.
    pub fn first(
        kind: Kind,
        node: Arc<str>,
        request: &DeltaDiscoveryRequest,
    ) -> Result<Self, String> {
        let mut subscription = Self {
            kind,
            node,
            // An empty first list asks for everything (xDS protocol, "Wildcard").
            wildcard: !kind.is_of_addresses() || request.resource_names_subscribe.is_empty(),
            names: BTreeSet::new(),
            has: Has::Claims(
                request
                    .initial_resource_versions
                    .clone()
                    .into_iter()
                    .collect(),
            ),
            absent: BTreeSet::new(),
            in_flight: None,
            answered: false,
            acked: 0,
            rejected: false,
            responses: 0,
        };
        subscription.change_names(request)?;
        Ok(subscription)
    }

    /// Its type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether an answer on addresses, older than what is published, is on its way.
    pub fn is_behind(&self, published: &Published) -> bool {
        let older = |f: &InFlight| f.revision < published.revision;
        self.kind.is_of_addresses() && self.in_flight.as_ref().is_some_and(older)
    }

    /// Last revision whose changes the client has applied.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Takes a further request.
    ///
    /// # Errors
    /// A sentence: it asks for too much.
    pub fn take(&mut self, request: &DeltaDiscoveryRequest) -> Result<Answer, String> {
        self.change_names(request)?;
        let answers = |f: &InFlight| f.nonce == request.response_nonce;
        let Some(in_flight) = self.in_flight.take_if(|f| answers(f)) else {
            return Ok(Answer::Other);
        };
        self.rejected = request.error_detail.is_some();
        match &request.error_detail {
            None => {
                self.acked = in_flight.revision;
                Ok(Answer::Acknowledged)
            }
            // What was good is applied; what was refused is not sent again until it changes.
            Some(error) => Ok(Answer::Rejected(
                error.message.chars().take(MAX_DETAIL_CHARS).collect(),
            )),
        }
    }

    fn change_names(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), String> {
        if !self.kind.is_of_addresses() {
            return Ok(());
        }
        for name in &request.resource_names_subscribe {
            match name.as_str() {
                "*" => self.wildcard = true,
                _ if name.len() > MAX_NAME_BYTES => {
                    return Err(format!(
                        "a resource name has more than {MAX_NAME_BYTES} bytes"
                    ));
                }
                _ => {
                    self.names.insert(name.clone());
                    // Asked again, it is answered again.
                    self.absent.remove(name);
                }
            }
        }
        // After the subscriptions: `*` in both lists asks for names only (`protocol.md` 6).
        for name in &request.resource_names_unsubscribe {
            match name.as_str() {
                "*" => self.wildcard = false,
                _ => {
                    self.names.remove(name);
                    self.absent.remove(name);
                }
            }
        }
        if self.names.len() > MAX_NAMES {
            return Err(format!("more than {MAX_NAMES} resource names"));
        }
        Ok(())
    }

    /// What to send now: the difference between what the client has and what there is. None while
    /// a response is unacknowledged, or when there is no difference.
    pub fn next(&mut self, published: &Published) -> Option<DeltaDiscoveryResponse> {
        if self.in_flight.is_some() {
            return None;
        }
        let target = self.target(published);
        let (changed, mut removed) = self.difference(&target);
        if !self.wildcard {
            removed.extend(self.newly_absent(published));
        }
        self.has = Has::Sent(target);
        if changed.is_empty() && removed.is_empty() && self.answered {
            // Nothing of this revision is missing at the client, unless it refused some of it.
            if !self.rejected {
                self.acked = published.revision;
            }
            return None;
        }
        self.answered = true;
        self.responses += 1;
        let nonce = format!("{}-{}", published.revision, self.responses);
        self.in_flight = Some(InFlight {
            nonce: nonce.clone(),
            revision: published.revision,
        });
        let resources = changed.iter().filter_map(|entry| match self.kind {
            Kind::Workload => entry.as_workload(),
            _ => Some(entry.resource.clone()),
        });
        Some(DeltaDiscoveryResponse {
            system_version_info: published.revision.to_string(),
            resources: resources.collect(),
            type_url: self.kind.url().to_owned(),
            nonce,
            removed_resources: removed,
        })
    }

    /// All that the client shall have.
    fn target(&self, published: &Published) -> Table {
        let table = self.kind.table(published);
        if self.wildcard {
            return table.clone();
        }
        let index = &published.index;
        let mut wanted: BTreeSet<&Arc<str>> = BTreeSet::new();
        // A node always knows its own pods: it proxies for them.
        wanted.extend(index.by_node.get(&self.node).into_iter().flatten());
        for name in &self.names {
            for name in resolve(published, name) {
                // The endpoints come with their service: the next question would be for them.
                wanted.extend(index.by_service.get(&**name).into_iter().flatten());
                wanted.insert(name);
            }
        }
        let found = wanted
            .into_iter()
            .filter_map(|n| Some((n.clone(), table.get(n)?.clone())));
        found.collect()
    }

    fn difference(&self, target: &Table) -> (Vec<Arc<Entry>>, Vec<String>) {
        let mut changed = Vec::new();
        let mut removed = Vec::new();
        match &self.has {
            Has::Sent(sent) => {
                for difference in sent.diff(target) {
                    match difference {
                        DiffItem::Add(_, entry) => changed.push(entry.clone()),
                        DiffItem::Update {
                            new: (_, entry), ..
                        } => changed.push(entry.clone()),
                        DiffItem::Remove(name, _) => removed.push(name.to_string()),
                    }
                }
            }
            Has::Claims(versions) => {
                let same = |entry: &Entry| {
                    versions.get(&entry.resource.name) == Some(&entry.resource.version)
                };
                changed.extend(target.values().filter(|entry| !same(entry)).cloned());
                let gone = versions
                    .keys()
                    .filter(|name| !target.contains_key(name.as_str()));
                removed.extend(gone.cloned());
            }
        }
        (changed, removed)
    }

    /// Names asked for that are of nothing and were not called so yet.
    fn newly_absent(&mut self, published: &Published) -> Vec<String> {
        let mut newly = Vec::new();
        for name in &self.names {
            if !resolve(published, name).is_empty() {
                self.absent.remove(name);
            } else if self.absent.insert(name.clone()) {
                newly.push(name.clone());
            }
        }
        newly
    }
}

/// The names of what `name` stands for: itself, or all that have it as an alias.
fn resolve<'a>(published: &'a Published, name: &str) -> Vec<&'a Arc<str>> {
    if let Some((name, _)) = published.addresses.get_key_value(name) {
        return vec![name];
    }
    published
        .index
        .by_alias
        .get(name)
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::discovery::Status;

    fn subscribed() -> (Subscription, Published) {
        let request = DeltaDiscoveryRequest::default();
        let made = Subscription::first(Kind::Authorization, "a".into(), &request);
        (
            made.unwrap(),
            Published {
                revision: 3,
                ..Published::default()
            },
        )
    }

    fn answer(nonce: &str, error: Option<&str>) -> DeltaDiscoveryRequest {
        let status = |message: &str| Status {
            message: message.to_owned(),
            ..Status::default()
        };
        DeltaDiscoveryRequest {
            response_nonce: nonce.to_owned(),
            error_detail: error.map(status),
            ..DeltaDiscoveryRequest::default()
        }
    }

    #[test]
    fn a_revision_counts_as_acknowledged_when_its_response_is_or_nothing_differs() {
        let (mut subscription, mut published) = subscribed();
        // The first answer is due even without any resource.
        let first = subscription.next(&published).unwrap();
        assert!(subscription.next(&published).is_none());
        assert_eq!(subscription.acked(), 0);
        assert_eq!(
            subscription.take(&answer("other", None)).unwrap(),
            Answer::Other
        );
        assert_eq!(
            subscription.take(&answer(&first.nonce, None)).unwrap(),
            Answer::Acknowledged
        );
        assert_eq!(subscription.acked(), 3);
        published.revision = 4;
        assert!(subscription.next(&published).is_none());
        assert_eq!(subscription.acked(), 4);
    }

    #[test]
    fn what_a_client_refused_is_not_acknowledged_by_silence() {
        let (mut subscription, mut published) = subscribed();
        let first = subscription.next(&published).unwrap();
        let refusal = answer(&first.nonce, Some("no"));
        assert_eq!(
            subscription.take(&refusal).unwrap(),
            Answer::Rejected("no".to_owned())
        );
        published.revision = 4;
        assert!(subscription.next(&published).is_none());
        assert_eq!(subscription.acked(), 0);
    }

    #[test]
    fn a_client_that_asks_for_too_much_is_told_so() {
        let names = |names: Vec<String>| DeltaDiscoveryRequest {
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        };
        let first = |request| Subscription::first(Kind::Address, "a".into(), &request).map(|_| ());
        assert!(first(names(vec!["x".repeat(MAX_NAME_BYTES + 1)])).is_err());
        assert!(first(names((0..=MAX_NAMES).map(|n| n.to_string()).collect())).is_err());
        assert!(first(names((0..MAX_NAMES).map(|n| n.to_string()).collect())).is_ok());
    }
}
