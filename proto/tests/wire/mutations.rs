//! Whatever the bytes are, nothing panics, and what is read can be said again.

use mesh::Snapshot;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use prost::Message;
use proto::{Resource, decode, encode};

use crate::any;

/// Tries for each kind; a fixed seed, so that a failure is the same everywhere.
const TRIES: u32 = 1_500;

fn runner() -> TestRunner {
    let config = Config {
        cases: TRIES,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

fn decode_all(bytes: &[u8]) {
    let urls = [
        proto::ADDRESS_TYPE_URL,
        proto::WORKLOAD_TYPE_URL,
        proto::AUTHORIZATION_TYPE_URL,
        "x",
    ];
    for url in urls {
        if let Ok(resource) = decode::resource(url, bytes) {
            said_again(&resource);
            resource.insert_into(&mut Snapshot::new());
        }
    }
    if let Ok(message) = proto::wire::discovery::Resource::decode(bytes) {
        let _ = decode::discovered(&message).map_err(|error| error.to_string());
    }
    if let Ok(request) = decode::zds_request(bytes) {
        assert_eq!(
            decode::zds_request(&encode::zds_request(&request).unwrap()),
            Ok(request)
        );
    }
    if let Ok(hello) = decode::zds_hello(bytes) {
        assert_eq!(decode::zds_hello(&encode::zds_hello(&hello)), Ok(hello));
    }
    let _ = decode::zds_ack(bytes).map(|ack| encode::zds_ack(&ack));
    let text = String::from_utf8_lossy(bytes);
    let _ = proto::ResourceName::parse(proto::ADDRESS_TYPE_URL, &text);
    let _ = proto::ResourceName::parse(proto::AUTHORIZATION_TYPE_URL, &text);
}

/// What was read is a proper domain value: it goes to the wire and comes back.
fn said_again(resource: &Resource) {
    let wire = encode::discovered(resource, "");
    let any = wire.resource.unwrap();
    assert_eq!(
        &decode::resource(&any.type_url, &any.value).unwrap(),
        resource
    );
}

#[test]
fn random_bytes_never_panic() {
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    runner()
        .run(&bytes, |bytes| {
            decode_all(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn mutated_resources_never_panic() {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4);
    let cases = (any::resource(), prop::collection::vec(change, 1..6));
    runner()
        .run(&cases, |(resource, changes)| {
            let mut bytes = encode::discovered(&resource, "").resource.unwrap().value;
            for (index, byte, kind) in changes {
                if bytes.is_empty() {
                    break;
                }
                let at = index.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at),
                }
            }
            decode_all(&bytes);
            Ok(())
        })
        .unwrap();
}
