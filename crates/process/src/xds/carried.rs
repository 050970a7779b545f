//! What a feed holds, as a value that the feed of another process can start from. Knows no stream
//! and no socket.

use std::sync::Arc;

use mesh::WorkloadUid;
use mesh::snapshot::{Snapshot, extend};
use mesh::workload::Pool;
use proto::wire::discovery::Resource as Wire;
use proto::{Resource, ResourceName, decode, encode};

/// A resource that is held: the version on the wire, and what it is in the snapshot.
///
/// There may be 50,000 of them, so it is small: the name of a workload is its uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    version: Version,
    /// None: the workload of this very name.
    key: Option<Arc<ResourceName>>,
}

impl Entry {
    /// With the name under which it is held.
    pub(super) fn named(version: &str, key: ResourceName) -> (Arc<str>, Self) {
        let version = Version::new(version);
        match key {
            ResourceName::Workload(uid) => (uid.0, Self { version, key: None }),
            other => {
                let name = other.to_string().into();
                let key = Some(Arc::new(other));
                (name, Self { version, key })
            }
        }
    }

    /// Of a route or a policy with targets: its name says all.
    pub(super) fn unnamed(version: &str) -> Self {
        let version = Version::new(version);
        Self { version, key: None }
    }

    /// As it came.
    pub(super) fn version(&self) -> &str {
        self.version.as_str()
    }

    /// What is held under `name`, in the snapshot.
    pub(super) fn key(&self, name: &Arc<str>) -> ResourceName {
        match &self.key {
            Some(key) => (**key).clone(),
            None => ResourceName::Workload(WorkloadUid(Arc::clone(name))),
        }
    }
}

/// Longest version that needs no memory of its own, in bytes; ours have 16.
const SHORT_BYTES: usize = 22;

/// A version as it came on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Version {
    /// The first so many of the bytes.
    Short(u8, [u8; SHORT_BYTES]),
    Long(Box<str>),
}

impl Version {
    fn new(text: &str) -> Self {
        let mut bytes = [0; SHORT_BYTES];
        match bytes.get_mut(..text.len()) {
            Some(part) => {
                part.copy_from_slice(text.as_bytes());
                Self::Short(u8::try_from(text.len()).expect("it is short"), bytes)
            }
            None => Self::Long(text.into()),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Short(length, bytes) => std::str::from_utf8(&bytes[..usize::from(*length)])
                .expect("it was made of a whole text"),
            Self::Long(text) => text,
        }
    }
}

/// By name on the wire. Cloning is cheap. A tree, since the nodes of a persistent hash map would
/// be nearly empty: they have 16 places at least.
pub(super) type ByName = imbl::OrdMap<Arc<str>, Entry>;

/// A complete state of a feed. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Carried {
    pub(super) snapshot: Snapshot,
    pub(super) addresses: ByName,
    pub(super) policies: ByName,
}

/// The same as resources on the wire, to be sent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mesh {
    /// Workloads and services.
    #[prost(message, repeated, tag = "1")]
    pub addresses: Vec<Wire>,
    /// Policies.
    #[prost(message, repeated, tag = "2")]
    pub policies: Vec<Wire>,
    /// Policies that were removed and stay in force because a workload names them.
    #[prost(message, repeated, tag = "3")]
    pub kept_policies: Vec<Wire>,
}

/// A resource that came from a predecessor cannot be used. Then nothing of it is: without one
/// policy all might be open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("resource {name}: {reason}")]
pub struct Unusable {
    name: String,
    reason: String,
}

impl Carried {
    /// For the wire.
    pub fn to_wire(&self) -> Mesh {
        let wire = |(name, entry): (&Arc<str>, &Entry)| {
            let resource = self.resource(&entry.key(name))?;
            Some(Wire {
                name: name.to_string(),
                ..encode::discovered(&resource, entry.version())
            })
        };
        let kept = self.snapshot.policies().filter(|policy| {
            let snapshot = &self.snapshot;
            snapshot.policy_is_kept(&policy.key)
        });
        let kept = kept.map(|policy| Resource::Policy((**policy).clone()));
        Mesh {
            addresses: self.addresses.iter().filter_map(wire).collect(),
            policies: self.policies.iter().filter_map(wire).collect(),
            kept_policies: kept.map(|kept| encode::discovered(&kept, "")).collect(),
        }
    }

    /// From the wire.
    ///
    /// # Errors
    /// One of the resources cannot be read.
    pub fn from_wire(mesh: &Mesh) -> Result<Self, Unusable> {
        let mut snapshot = Snapshot::new();
        let addresses = insert(&mesh.addresses, &mut snapshot)?;
        let policies = insert(&mesh.policies, &mut snapshot)?;
        // Behind the workloads that name them.
        for (name, entry) in &insert(&mesh.kept_policies, &mut snapshot)? {
            if let ResourceName::Policy(key) = entry.key(name) {
                snapshot.remove_policy(&key);
            }
        }
        snapshot.set_addresses_synced();
        snapshot.set_policies_synced();
        snapshot.pack_services();
        Ok(Self {
            snapshot,
            addresses,
            policies,
        })
    }

    fn resource(&self, key: &ResourceName) -> Option<Resource> {
        let snapshot = &self.snapshot;
        match key {
            ResourceName::Workload(uid) => {
                let workload = snapshot.workload(uid)?;
                Some(Resource::Workload((**workload).clone()))
            }
            ResourceName::Service(key) => {
                let service = snapshot.service(key)?;
                Some(Resource::Service((**service).clone()))
            }
            ResourceName::Policy(key) => {
                let policy = snapshot.policy(key)?;
                Some(Resource::Policy((**policy).clone()))
            }
            // No resource is named like that.
            ResourceName::Address(_) => None,
        }
    }
}

fn insert(resources: &[Wire], snapshot: &mut Snapshot) -> Result<ByName, Unusable> {
    let mut names = Vec::with_capacity(resources.len());
    let mut workloads = Vec::new();
    let mut pool = Pool::default();
    for wire in resources {
        let mut resource = decode::discovered(wire).map_err(|error| Unusable {
            name: wire.name.clone(),
            reason: error.to_string(),
        })?;
        if let Resource::Workload(workload) = &mut resource {
            pool.share(workload);
        }
        names.push(Entry::named(&wire.version, resource.name()));
        match resource {
            Resource::Workload(workload) => workloads.push(Arc::new(workload)),
            other => other.insert_into(snapshot),
        }
    }
    snapshot.insert_workloads(workloads);
    let mut by_name = ByName::new();
    extend(&mut by_name, names);
    Ok(by_name)
}

#[cfg(test)]
mod tests {
    use super::super::discovery::Kind;
    use super::super::{Scope, discovery::Discovery};
    use super::*;
    use proto::wire::discovery::{DeltaDiscoveryResponse, Node};
    use proto::wire::workload as wire;

    fn resource(name: &str, version: &str) -> Wire {
        let uid = format!("Kubernetes//Pod/shop/{name}");
        let workload = wire::Workload {
            uid: uid.clone(),
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            ..Default::default()
        };
        let bytes = prost::Message::encode_to_vec(&wire::Address {
            r#type: Some(wire::address::Type::Workload(workload)),
        });
        Wire {
            name: uid,
            version: version.to_owned(),
            resource: Some(prost_types::Any {
                type_url: proto::ADDRESS_TYPE_URL.to_owned(),
                value: bytes,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_version_is_what_it_was_whatever_its_length() {
        for length in [0, 1, SHORT_BYTES - 1, SHORT_BYTES, SHORT_BYTES + 1, 300] {
            let text = "7".repeat(length);
            assert_eq!(Version::new(&text).as_str(), text);
        }
        assert_eq!(Version::new("\u{e4}\u{6f22}").as_str(), "\u{e4}\u{6f22}");
        assert_eq!(size_of::<Entry>(), 32);
    }

    fn answer(kind: Kind, resources: Vec<Wire>) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            type_url: kind.url().to_owned(),
            resources,
            ..Default::default()
        }
    }

    #[test]
    fn a_feed_that_resumes_knows_the_same_and_announces_the_same_versions() {
        let mut first = Discovery::new(Node::default(), Scope::Wildcard);
        first.apply(answer(Kind::Addresses, vec![resource("a", "7")]));
        assert!(first.carried().is_none(), "policies were not answered");
        first.apply(answer(Kind::Policies, Vec::new()));
        let mesh = first.carried().unwrap().to_wire();
        let carried = Carried::from_wire(&mesh).unwrap();
        let mut second = Discovery::resume(Node::default(), carried);
        assert_eq!(second.snapshot(), first.snapshot());
        assert!(second.answered(Kind::Addresses) && second.answered(Kind::Policies));
        let versions = second.open().remove(0).initial_resource_versions;
        assert_eq!(
            versions.into_iter().collect::<Vec<_>>(),
            [("Kubernetes//Pod/shop/a".to_owned(), "7".to_owned())]
        );
    }

    #[test]
    fn what_was_removed_meanwhile_goes_at_the_first_contact() {
        let mut first = Discovery::new(Node::default(), Scope::Wildcard);
        let both = vec![resource("a", "1"), resource("b", "1")];
        first.apply(answer(Kind::Addresses, both));
        first.apply(answer(Kind::Policies, Vec::new()));
        let carried = Carried::from_wire(&first.carried().unwrap().to_wire()).unwrap();
        let mut second = Discovery::resume(Node::default(), carried);
        second.open();
        // A server that repeats all it has.
        second.apply(answer(Kind::Addresses, vec![resource("a", "1")]));
        second.settle();
        assert_eq!(second.snapshot().workloads().count(), 1);
    }

    #[test]
    fn one_bad_resource_makes_all_of_it_unusable() {
        let mut bad = resource("a", "1");
        bad.resource.as_mut().unwrap().value = vec![0xff];
        let mesh = Mesh {
            addresses: vec![resource("b", "1"), bad],
            ..Mesh::default()
        };
        let error = Carried::from_wire(&mesh).unwrap_err().to_string();
        assert!(error.contains("Pod/shop/a"), "{error}");
    }
}
