//! What is published: every resource with its version, indexed as streams ask for it. A value,
//! replaced whole by the engine; unchanged parts are shared between one publication and the next,
//! so that the difference for a stream costs what changed, not what there is.
//!
//! Knows no stream.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use imbl::OrdMap;
use prost::Message;
use proto::routed::AnyRoute;
use proto::wire::discovery::Resource as WireResource;
use proto::{Routed, WORKLOAD_TYPE_URL, encode, wire};
use translate::object::Objects;
use translate::{Condition, ListenerStatus, ObjectKey, PodReport, Routes, SourceError};

/// Resources of a type by name.
pub type Table = OrdMap<Arc<str>, Arc<Entry>>;

/// One resource as it is sent.
#[derive(Debug)]
pub struct Entry {
    /// With its name, version (a hash of its content) and aliases.
    pub resource: WireResource,
    is_workload: bool,
    /// The route that it was made of: encoding and hashing it again gives the same.
    route: Option<AnyRoute>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.resource.version == other.resource.version
            && self.resource.aliases == other.resource.aliases
    }
}

impl Entry {
    fn of(resource: &proto::resource::Resource) -> Self {
        let is_workload = matches!(resource, proto::resource::Resource::Workload(_));
        Self {
            is_workload,
            ..Self::plain(encode::discovered(resource, ""))
        }
    }

    /// Of any other type.
    fn plain(mut wire: WireResource) -> Self {
        wire.version = wire
            .resource
            .as_ref()
            .map(|any| version(&any.value))
            .unwrap_or_default();
        Self {
            resource: wire,
            is_workload: false,
            route: None,
        }
    }

    /// As a resource of the type of workloads alone; None for a service.
    pub fn as_workload(&self) -> Option<WireResource> {
        if !self.is_workload {
            return None;
        }
        let any = self.resource.resource.as_ref()?;
        let address = wire::workload::Address::decode(&*any.value).ok()?;
        let wire::workload::address::Type::Workload(workload) = address.r#type? else {
            return None;
        };
        let content = prost_types::Any {
            type_url: WORKLOAD_TYPE_URL.to_owned(),
            value: workload.encode_to_vec(),
        };
        Some(WireResource {
            resource: Some(content),
            ..self.resource.clone()
        })
    }

    /// Whether it was made of this very route.
    fn is_of(&self, route: &AnyRoute) -> bool {
        match (&self.route, route) {
            (Some(AnyRoute::Http(own)), AnyRoute::Http(route)) => Arc::ptr_eq(own, route),
            (Some(AnyRoute::Stream(own)), AnyRoute::Stream(route)) => Arc::ptr_eq(own, route),
            _ => false,
        }
    }

    /// Whether it is a workload.
    pub fn is_workload(&self) -> bool {
        self.is_workload
    }
}

/// 64 bits of SHA-256: the same content has the same version in every process.
fn version(content: &[u8]) -> String {
    let hash = digest(&SHA256, content);
    hash.as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What on-demand streams ask by.
#[derive(Debug, Default)]
pub struct Index {
    /// Names by alias (`network/ip`).
    pub by_alias: BTreeMap<String, BTreeSet<Arc<str>>>,
    /// Workloads by node.
    pub by_node: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Workloads by the service that they are endpoints of.
    pub by_service: BTreeMap<String, BTreeSet<Arc<str>>>,
}

/// One state of the mesh.
#[derive(Debug, Default)]
pub struct Published {
    /// Grows with every change; 0 is before the first.
    pub revision: u64,
    /// Workloads and services.
    pub addresses: Table,
    /// Workloads alone: the same entries.
    pub workloads: Table,
    /// Policies.
    pub policies: Table,
    /// Policies that are for services and gateways.
    pub target_policies: Table,
    /// Routes at their parents.
    pub routes: Table,
    /// Indexes of `addresses`.
    pub index: Index,
    /// The objects behind all this.
    pub objects: Arc<Objects>,
    /// What the nodes report.
    pub reports: Arc<BTreeMap<Arc<str>, Vec<PodReport>>>,
    /// What is wrong with the source.
    pub errors: Vec<SourceError>,
    /// What is said of objects.
    pub statuses: BTreeMap<ObjectKey, Vec<Condition>>,
    /// What is said of listeners beside conditions, by Gateway.
    pub listeners: BTreeMap<ObjectKey, Vec<ListenerStatus>>,
}

/// What a publication is made of besides the last one.
pub struct Made {
    /// The mesh.
    pub output: translate::Output,
    /// The objects it came from.
    pub objects: Arc<Objects>,
    /// The reports it came from.
    pub reports: Arc<BTreeMap<Arc<str>, Vec<PodReport>>>,
    /// What is wrong with the source.
    pub errors: Vec<SourceError>,
}

impl Published {
    /// The publication after `self`.
    pub fn next(&self, made: Made) -> Self {
        use proto::resource::Resource;
        let output = made.output;
        let mut index = Index::default();
        for workload in output.workloads.values() {
            index.add(workload);
        }
        let mut addresses = Vec::new();
        for workload in output.workloads.into_values() {
            addresses.push(Entry::of(&Resource::Workload(workload)));
        }
        for service in output.services.into_values() {
            addresses.push(Entry::of(&Resource::Service(service)));
        }
        for entry in &addresses {
            for alias in &entry.resource.aliases {
                let names = index.by_alias.entry(alias.clone()).or_default();
                names.insert(entry.resource.name.as_str().into());
            }
        }
        let policies = output.policies.into_values().map(Resource::Policy);
        let policies = policies.map(|policy| Entry::of(&policy)).collect();
        let target_policies = output.target_policies.values();
        let target_policies =
            target_policies.map(|policy| Entry::plain(encode::target_policy(policy, "")));
        let addresses = merge(&self.addresses, addresses);
        let workloads = addresses.iter().filter(|(_, entry)| entry.is_workload);
        let workloads = merge_shared(&self.workloads, workloads);
        Self {
            revision: self.revision + 1,
            workloads,
            addresses,
            policies: merge(&self.policies, policies),
            target_policies: merge(&self.target_policies, target_policies.collect()),
            routes: routes(&self.routes, output.routes),
            index,
            objects: made.objects,
            reports: made.reports,
            errors: made.errors,
            statuses: output.statuses,
            listeners: output.listeners,
        }
    }
}

/// `last` with the routes of now. Translation keeps what did not change, and so does this.
fn routes(last: &Table, routes: Routes) -> Table {
    let at_parents = routes.into_iter().flat_map(|(parent, at)| {
        let http = at.http.into_iter().map(AnyRoute::Http);
        let streams = at.streams.into_iter().map(AnyRoute::Stream);
        http.chain(streams).map(move |route| Routed {
            parent: parent.clone(),
            route,
        })
    });
    let now = at_parents.map(|routed| {
        let name: Arc<str> = routed.name().to_string().into();
        match last.get_key_value(&*name) {
            Some((name, entry)) if entry.is_of(&routed.route) => (name.clone(), entry.clone()),
            _ => {
                let entry = Entry::plain(encode::routed(&routed, ""));
                let route = Some(routed.route);
                (name, Arc::new(Entry { route, ..entry }))
            }
        }
    });
    let now: Vec<_> = now.collect();
    merge_shared(last, now.iter().map(|(name, entry)| (name, entry)))
}

impl Index {
    fn add(&mut self, workload: &mesh::Workload) {
        let name = &workload.uid.0;
        if !workload.node.is_empty() {
            self.by_node
                .entry(workload.node.clone())
                .or_default()
                .insert(name.clone());
        }
        for service in workload.services.keys() {
            self.by_service
                .entry(service.to_string())
                .or_default()
                .insert(name.clone());
        }
    }
}

/// `last` with the entries of now: what is equal stays the very same.
fn merge(last: &Table, now: Vec<Entry>) -> Table {
    let now: Vec<(Arc<str>, Arc<Entry>)> = now
        .into_iter()
        .map(|entry| (entry.resource.name.as_str().into(), Arc::new(entry)))
        .collect();
    merge_shared(last, now.iter().map(|(name, entry)| (name, entry)))
}

fn merge_shared<'a>(
    last: &Table,
    now: impl Iterator<Item = (&'a Arc<str>, &'a Arc<Entry>)>,
) -> Table {
    let mut table = last.clone();
    let mut names = HashSet::new();
    for (name, entry) in now {
        names.insert(&**name);
        let known = table.get(name);
        // One that was made of another, equal route is to be known by that one.
        let stays = |known: &Arc<Entry>| {
            Arc::ptr_eq(known, entry) || (known == entry && entry.route.is_none())
        };
        if !known.is_some_and(stays) {
            table.insert(name.clone(), entry.clone());
        }
    }
    let gone: Vec<Arc<str>> = table
        .keys()
        .filter(|name| !names.contains(&***name))
        .cloned()
        .collect();
    for name in gone {
        table.remove(&name);
    }
    table
}

#[cfg(test)]
mod tests;
