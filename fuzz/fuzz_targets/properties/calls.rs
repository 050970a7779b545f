//! Messages of the agent's socket: what is read as a call or an answer is read alike when we write
//! it, and what passes for a pod can name a directory.

use std::fmt::Debug;

use cni_plugin::message::{Answer, MAX_ID_BYTES, MAX_NAME_BYTES, PodName, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Input: one datagram, read as a call and as an answer.
pub fn holds(input: &[u8]) {
    if let Some(Request::Add { pod, .. } | Request::Enrol { pod, .. } | Request::Unenrol { pod }) =
        read::<Request>(input)
    {
        pod_holds(&pod);
    }
    read::<Answer>(input);
}

fn read<T: DeserializeOwned + Serialize + PartialEq + Debug>(input: &[u8]) -> Option<T> {
    let message: T = serde_json::from_slice(input).ok()?;
    let written = serde_json::to_vec(&message).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("our own writing");
    assert_eq!(again, message);
    Some(message)
}

fn pod_holds(pod: &PodName) {
    if pod.mistake().is_some() {
        return;
    }
    assert!((1..=MAX_ID_BYTES).contains(&pod.uid.len()) && pod.uid != "node");
    for text in [&pod.uid, &pod.namespace, &pod.name] {
        assert!((1..=MAX_NAME_BYTES).contains(&text.len()));
        assert!(!text.contains(['/', '\0', '\n']), "{text:?}");
    }
}
