//! Discovery resources of every type, and names of removed ones: what is read goes to the wire
//! and comes back alike, equal resources have equal bytes, and what came into a snapshot goes out
//! of it by its name.

use mesh::Snapshot;
use mesh::policy::Connection;
use prost::Message;
use proto::wire::discovery;
use proto::{Resource, ResourceName, decode, encode};

/// Input: one message, read as each type of resource, in its envelope, and as a name.
pub fn holds(input: &[u8]) {
    let urls = [
        proto::ADDRESS_TYPE_URL,
        proto::WORKLOAD_TYPE_URL,
        proto::AUTHORIZATION_TYPE_URL,
    ];
    for url in urls {
        match decode::resource(url, input) {
            Ok(resource) => resource_holds(resource),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        if let Ok(name) = str::from_utf8(input) {
            name_holds(url, name);
        }
    }
    if let Ok(message) = discovery::Resource::decode(input)
        && let Ok(resource) = decode::discovered(&message)
    {
        assert_eq!(resource.name().to_string(), message.name);
        resource_holds(resource);
    }
}

fn resource_holds(resource: Resource) {
    let written = encode::discovered(&resource, "1").encode_to_vec();
    let message = discovery::Resource::decode(&written[..]).expect("our own writing");
    let again = decode::discovered(&message).expect("what was read is sound");
    assert_eq!(again, resource);
    assert_eq!(encode::discovered(&again, "1").encode_to_vec(), written);
    if let Resource::Policy(policy) = &resource {
        let source = "10.0.0.1".parse().expect("an address");
        let destination = "10.0.0.2:80".parse().expect("an address");
        policy.matches(&Connection::new(None, source, destination));
    }
    let name = resource.name();
    let mut snapshot = Snapshot::new();
    resource.insert_into(&mut snapshot);
    assert_ne!(snapshot, Snapshot::new(), "{name} did not come in");
    name.remove_from(&mut snapshot);
    assert_eq!(snapshot, Snapshot::new(), "{name} did not go out");
}

fn name_holds(url: &str, text: &str) {
    let Ok(name) = ResourceName::parse(url, text) else {
        return;
    };
    let written = name.to_string();
    assert_eq!(ResourceName::parse(url, &written).as_ref(), Ok(&name));
    name.remove_from(&mut Snapshot::new());
}
