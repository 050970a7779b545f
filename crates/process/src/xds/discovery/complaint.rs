//! What a NACK says. Knows no state.

use std::collections::BTreeMap;

use proto::wire::discovery::{self as wire, DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::{Applied, Rejected, request};

/// gRPC code of a NACK: INVALID_ARGUMENT.
pub(super) const INVALID_ARGUMENT: i32 = 3;
/// Resources named in one NACK: enough for a person, bounded for the server's log.
const MAX_NAMED: usize = 16;
/// Longest text of a NACK in bytes, for the same reason.
pub(super) const MAX_NACK_BYTES: usize = 8 * 1024;

/// What a NACK says: how many were refused, and the first of them.
pub(super) fn complaint(rejected: &[Rejected]) -> wire::Status {
    // A name twice is one mistake.
    let named: BTreeMap<_, _> = rejected.iter().map(|bad| (&bad.name, bad)).collect();
    let mut message = format!("{} refused, the others are in use:", named.len());
    for bad in named.values().take(MAX_NAMED) {
        message.push_str(&format!(" [{bad}]"));
    }
    let mut end = message.len().min(MAX_NACK_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    wire::Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

/// A response of a type that was not asked for: nothing of it is used.
pub(super) fn unasked(response: &DeltaDiscoveryResponse) -> Applied {
    let name = response.type_url.chars().take(200).collect();
    let rejected = vec![Rejected {
        name,
        reason: "this type was not asked for".to_owned(),
        denies: false,
    }];
    let nack = DeltaDiscoveryRequest {
        response_nonce: response.nonce.clone(),
        error_detail: Some(complaint(&rejected)),
        ..request(&response.type_url)
    };
    Applied {
        kind: None,
        changed: false,
        requests: vec![nack],
        rejected,
    }
}
