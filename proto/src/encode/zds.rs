//! Messages between agent and ztunnel.

use prost::Message;

use crate::wire::zds as wire;
use crate::zds::{Ack, Add, Hello, ListenerRole, MAX_MESSAGE_BYTES, Request};

/// Longest text of an error in an ack, in bytes: the rest of the message takes less than 16.
const MAX_ERROR_BYTES: usize = MAX_MESSAGE_BYTES - 16;

/// A message that no buffer of the ecosystem takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ZDS message of {0} bytes is longer than {MAX_MESSAGE_BYTES}")]
pub struct EncodeError(pub usize);

/// A ztunnel's first message.
pub fn zds_hello(domain: &Hello) -> Vec<u8> {
    let version = wire::Version::V1.into();
    wire::ZdsHello {
        version,
        accepts_listeners: domain.accepts_listeners,
    }
    .encode_to_vec()
}

/// An agent's message.
///
/// # Errors
/// Longer than [`MAX_MESSAGE_BYTES`].
pub fn zds_request(domain: &Request) -> Result<Vec<u8>, EncodeError> {
    use wire::workload_request::Payload;
    let payload = match domain {
        Request::Add(domain) => Payload::Add(add(domain)),
        Request::Keep { uid } => Payload::Keep(wire::KeepWorkload { uid: uid.clone() }),
        Request::Delete { uid } => Payload::Del(wire::DelWorkload { uid: uid.clone() }),
        Request::SnapshotSent => Payload::SnapshotSent(wire::SnapshotSent {}),
    };
    let bytes = wire::WorkloadRequest {
        payload: Some(payload),
    }
    .encode_to_vec();
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(EncodeError(bytes.len()));
    }
    Ok(bytes)
}

/// A ztunnel's answer. An error too long for a message is cut.
pub fn zds_ack(domain: &Ack) -> Vec<u8> {
    use wire::workload_response::Payload;
    let error = domain.error.as_deref().unwrap_or_default();
    let end = error.floor_char_boundary(MAX_ERROR_BYTES.min(error.len()));
    let ack = wire::Ack {
        error: error[..end].to_owned(),
    };
    wire::WorkloadResponse {
        payload: Some(Payload::Ack(ack)),
    }
    .encode_to_vec()
}

fn add(domain: &Add) -> wire::AddWorkload {
    wire::AddWorkload {
        uid: domain.uid.clone(),
        workload_info: domain.pod.as_ref().map(|pod| wire::WorkloadInfo {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            service_account: pod.service_account.clone(),
        }),
        listeners: domain.listeners.iter().map(|r| role(*r).into()).collect(),
    }
}

fn role(domain: ListenerRole) -> wire::ListenerRole {
    match domain {
        ListenerRole::OutboundV4 => wire::ListenerRole::OutboundV4,
        ListenerRole::OutboundV6 => wire::ListenerRole::OutboundV6,
        ListenerRole::InboundV4 => wire::ListenerRole::InboundV4,
        ListenerRole::InboundV6 => wire::ListenerRole::InboundV6,
        ListenerRole::HboneV4 => wire::ListenerRole::HboneV4,
        ListenerRole::HboneV6 => wire::ListenerRole::HboneV6,
    }
}
