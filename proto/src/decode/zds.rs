//! Messages between agent and ztunnel.

use prost::Message;

use super::fault::{At, DecodeError, Fault, Problem, each, value, whole};
use crate::wire::zds as wire;
use crate::zds::{
    Ack, Add, Hello, ListenerRole, MAX_MESSAGE_BYTES, MAX_UID_BYTES, PodInfo, Request,
};

/// Reads a ztunnel's first message.
///
/// # Errors
/// Too long, not protobuf, or of another version than 1.
pub fn zds_hello(bytes: &[u8]) -> Result<Hello, DecodeError> {
    let read = || {
        let message: wire::ZdsHello = parse(bytes)?;
        match value(message.version).at("version")? {
            wire::Version::V1 => Ok(Hello {
                accepts_listeners: message.accepts_listeners,
            }),
            wire::Version::NotUsed => Err(Fault::new("version", Problem::Missing)),
        }
    };
    read().map_err(|fault| fault.of("ZdsHello"))
}

/// Reads an agent's message.
///
/// # Errors
/// Too long, not protobuf, or a field that is missing or not understood.
pub fn zds_request(bytes: &[u8]) -> Result<Request, DecodeError> {
    use wire::workload_request::Payload;
    let read = || {
        let message: wire::WorkloadRequest = parse(bytes)?;
        match message.payload.ok_or(Problem::Missing).at("payload")? {
            Payload::Add(message) => add(message).at("add").map(Request::Add),
            Payload::Keep(m) => Ok(Request::Keep {
                uid: uid(m.uid).at("keep.uid")?,
            }),
            Payload::Del(m) => Ok(Request::Delete {
                uid: uid(m.uid).at("del.uid")?,
            }),
            Payload::SnapshotSent(_) => Ok(Request::SnapshotSent),
        }
    };
    read().map_err(|fault| fault.of("WorkloadRequest"))
}

/// Reads a ztunnel's answer.
///
/// # Errors
/// Too long, not protobuf, or without content.
pub fn zds_ack(bytes: &[u8]) -> Result<Ack, DecodeError> {
    use wire::workload_response::Payload;
    let read = || {
        let message: wire::WorkloadResponse = parse(bytes)?;
        let Payload::Ack(ack) = message.payload.ok_or(Problem::Missing).at("payload")?;
        Ok(Ack {
            error: (!ack.error.is_empty()).then_some(ack.error),
        })
    };
    read().map_err(|fault: Fault| fault.of("WorkloadResponse"))
}

fn parse<M: Message + Default>(bytes: &[u8]) -> Result<M, Fault> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        let problem = Problem::Long {
            bytes: bytes.len(),
            bound: MAX_MESSAGE_BYTES,
        };
        return Err(Fault::new("bytes", problem));
    }
    M::decode(bytes)
        .map_err(|e| Problem::Protobuf(e.to_string()))
        .at("bytes")
}

fn add(message: wire::AddWorkload) -> Result<Add, Fault> {
    let listeners = each("listeners", message.listeners, |number| whole(role(number)))?;
    let repeated = |(i, role): (usize, &ListenerRole)| listeners[..i].contains(role);
    if listeners.iter().enumerate().any(repeated) {
        return Err(Fault::new(
            "listeners",
            Problem::Unsupported("a role that comes twice"),
        ));
    }
    Ok(Add {
        uid: uid(message.uid).at("uid")?,
        pod: message.workload_info.map(|info| PodInfo {
            name: info.name,
            namespace: info.namespace,
            service_account: info.service_account,
        }),
        listeners,
    })
}

/// A pod's uid names things on this node, so it must be a plain word.
fn uid(text: String) -> Result<String, Problem> {
    if text.is_empty() {
        return Err(Problem::Missing);
    }
    if text.len() > MAX_UID_BYTES {
        return Err(Problem::Long {
            bytes: text.len(),
            bound: MAX_UID_BYTES,
        });
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
    if !text.chars().all(plain) || text.starts_with('.') {
        return Err(Problem::form(
            &text,
            "letters, digits, '-', '_', '.' and ':'",
        ));
    }
    Ok(text)
}

fn role(number: i32) -> Result<ListenerRole, Problem> {
    use wire::ListenerRole as Wire;
    Ok(match value(number)? {
        Wire::ListenerUnspecified => return Err(Problem::Missing),
        Wire::OutboundV4 => ListenerRole::OutboundV4,
        Wire::OutboundV6 => ListenerRole::OutboundV6,
        Wire::InboundV4 => ListenerRole::InboundV4,
        Wire::InboundV6 => ListenerRole::InboundV6,
        Wire::HboneV4 => ListenerRole::HboneV4,
        Wire::HboneV6 => ListenerRole::HboneV6,
    })
}
