//! Messages of a node agent and of a ztunnel, read by the other: what is read is within the
//! protocol's bounds and comes back alike when we write it.

use proto::zds::{MAX_MESSAGE_BYTES, MAX_UID_BYTES, Request};
use proto::{decode, encode};

/// Input: one datagram, read as each of the three messages.
pub fn holds(input: &[u8]) {
    if let Ok(hello) = decode::zds_hello(input) {
        assert_eq!(decode::zds_hello(&encode::zds_hello(&hello)), Ok(hello));
    }
    if let Ok(ack) = decode::zds_ack(input) {
        assert_eq!(decode::zds_ack(&encode::zds_ack(&ack)), Ok(ack));
    }
    match decode::zds_request(input) {
        Ok(request) => request_holds(&request),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn request_holds(request: &Request) {
    let uid = match request {
        Request::Add(add) => {
            let mut roles = add.listeners.clone();
            roles.sort();
            roles.dedup();
            assert_eq!(roles.len(), add.listeners.len(), "a role comes twice");
            Some(&add.uid)
        }
        Request::Keep { uid } | Request::Delete { uid } => Some(uid),
        Request::SnapshotSent => None,
    };
    if let Some(uid) = uid {
        assert!((1..=MAX_UID_BYTES).contains(&uid.len()));
        assert!(!uid.contains('/') && !uid.starts_with('.'), "{uid:?}");
    }
    let written = encode::zds_request(request).expect("what fits a datagram fits it again");
    assert!(written.len() <= MAX_MESSAGE_BYTES);
    assert_eq!(decode::zds_request(&written).as_ref(), Ok(request));
}
