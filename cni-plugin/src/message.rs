//! What is said over the agent's socket: one JSON value a datagram, the pod's network namespace as
//! descriptor beside it.
//!
//! Knows no sockets and no CNI versions.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::steering::fault::Fault;

/// Longest datagram in bytes, both directions. A GC call lists the containers of a whole node:
/// 1,000 ids of 64 digits are 70 KiB; the kernel's default send buffer ends at 208 KiB.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// Longest pod UID or container id, in bytes (a Kubernetes UID has 36, a container id 64).
pub const MAX_ID_BYTES: usize = 128;

/// Longest Kubernetes name, in bytes (RFC 1123 subdomain).
pub const MAX_NAME_BYTES: usize = 253;

/// Who a pod is, as the runtime or the operator says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodName {
    /// Kubernetes UID, or the container id when the runtime gave none. Letters, digits, `-`, `_`.
    pub uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
}

impl PodName {
    /// The first reason for which this cannot be a pod. The UID becomes a directory name on bpffs,
    /// which takes no dots, and all of it must fit a ZDS datagram.
    pub fn mistake(&self) -> Option<String> {
        if !is_id(&self.uid) || self.uid == "node" {
            return Some(format!(
                "pod uid {:?} is not 1-128 letters, digits, - or _",
                self.uid
            ));
        }
        for (what, value) in [("namespace", &self.namespace), ("name", &self.name)] {
            if value.is_empty() || value.len() > MAX_NAME_BYTES || !is_dns(value) {
                return Some(format!("pod {what} {value:?} is not a Kubernetes name"));
            }
        }
        None
    }
}

/// Whether a text can be a pod's UID or a container id.
pub fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !text.is_empty() && text.len() <= MAX_ID_BYTES && text.bytes().all(plain)
}

fn is_dns(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

/// One call to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// CNI ADD. One descriptor: the pod's network namespace.
    Add {
        /// The pod.
        pod: PodName,
        /// The sandbox that the runtime made.
        container_id: String,
        /// Path of the namespace as the runtime gave it; may mean nothing to the agent.
        netns: String,
        /// Addresses that the plugins before gave the pod.
        ips: Vec<IpAddr>,
        /// How long the caller waits for the answer.
        timeout_ms: u64,
    },
    /// CNI DEL: forget the sandbox. Unknown is fine.
    Del {
        /// The sandbox.
        container_id: String,
    },
    /// CNI CHECK: is the sandbox as ADD left it?
    Check {
        /// The sandbox.
        container_id: String,
    },
    /// CNI STATUS: could an ADD succeed now?
    Ready,
    /// CNI GC: forget every sandbox but these.
    Gc {
        /// Sandboxes that live.
        keep: Vec<String>,
    },
    /// Capture a running pod, whatever the control plane says. One descriptor: its namespace.
    Enrol {
        /// The pod.
        pod: PodName,
        /// Path of its namespace.
        netns: String,
        /// How long the caller waits for the answer.
        timeout_ms: u64,
        /// Close the connections that the pod has with other hosts.
        #[serde(default)]
        close_existing: bool,
    },
    /// Let a running pod go; its captured connections stay.
    Unenrol {
        /// The pod.
        pod: PodName,
    },
    /// What the agent knows; answered by [`Answer::Status`] and one [`Answer::Pod`] each.
    Status,
    /// Try the capture of all enrolled pods, or of one; answered by [`Answer::Verified`] and one
    /// [`Answer::Verdict`] each.
    Verify {
        /// Only this pod.
        uid: Option<String>,
        /// Whether to put right what is broken.
        repair: bool,
    },
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// Done.
    Done {
        /// Whether the pod is captured now.
        enrolled: bool,
        /// Why (not), a sentence.
        reason: String,
    },
    /// Not done; nothing of it stays.
    Failed(Failure),
    /// The head of a status: `pods` datagrams follow.
    Status {
        /// Name of the node.
        node: String,
        /// Connected proxies, the newest last.
        ztunnels: Vec<ZtunnelStatus>,
        /// How many pods follow.
        pods: usize,
    },
    /// One pod of a status.
    Pod(PodStatus),
    /// The head of a verification: `pods` datagrams follow.
    Verified {
        /// How many pods follow.
        pods: usize,
    },
    /// One pod of a verification.
    Verdict(PodVerdict),
}

/// Why a call failed, in CNI's terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// CNI error code.
    pub code: u32,
    /// One sentence.
    pub msg: String,
    /// What an operator needs besides; may be empty.
    pub details: String,
}

/// One connected proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZtunnelStatus {
    /// Its process id as the agent sees it; 0 in a foreign pid namespace.
    pub pid: i32,
    /// Whether it has acknowledged all pods of the snapshot.
    pub ready: bool,
    /// Pods that it has acknowledged.
    pub pods: usize,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Who.
    #[serde(flatten)]
    pub pod: PodName,
    /// Addresses as text.
    pub ips: Vec<IpAddr>,
    /// `not_enrolled`, `enrolling`, `enrolled` or `leaving` (un-enrolled, captured connections
    /// still live).
    pub phase: String,
    /// Why it is in this phase.
    pub reason: String,
    /// The runtime's sandbox; empty for a pod that was enrolled by command only.
    pub container_id: String,
    /// Path of its namespace.
    pub netns: String,
    /// Cookie of its namespace; 0 while not enrolled.
    pub cookie: u64,
    /// Connections by what the steering program did with them.
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// What a verification says of one enrolled pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodVerdict {
    /// Who.
    #[serde(flatten)]
    pub pod: PodName,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Whether its connections go to the proxy now.
    pub captured: bool,
    /// Why not.
    pub faults: Vec<Fault>,
    /// What was wrong and is put right.
    pub repaired: Vec<Fault>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, namespace: &str, name: &str) -> PodName {
        PodName {
            uid: uid.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_uid_that_would_leave_its_directory_is_refused() {
        for uid in ["", "../x", "a.b", "a/b", &"x".repeat(129)] {
            assert!(pod(uid, "ns", "name").mistake().is_some(), "{uid:?}");
        }
        assert_eq!(
            pod("5b1b7f3c-0f0e-4a1f-9d53-3f0d0a6a0f4e", "ns", "web-0").mistake(),
            None
        );
    }

    #[test]
    fn names_are_kubernetes_names() {
        assert!(pod("u", "Ns", "name").mistake().is_some());
        assert!(pod("u", "ns", "").mistake().is_some());
        assert!(pod("u", "ns", &"x".repeat(254)).mistake().is_some());
        assert!(pod("u", "kube-system", "coredns-1.2").mistake().is_none());
    }

    #[test]
    fn requests_and_answers_survive_the_way() {
        let request = Request::Add {
            pod: pod("u", "ns", "n"),
            container_id: "c".into(),
            netns: "/run/netns/x".into(),
            ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            timeout_ms: 30_000,
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        let answer = Answer::Failed(Failure {
            code: 11,
            msg: "m".into(),
            details: "d".into(),
        });
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer);
        let status = Answer::Pod(PodStatus {
            pod: pod("u", "ns", "n"),
            ips: vec![],
            phase: "enrolled".into(),
            reason: String::new(),
            container_id: String::new(),
            netns: String::new(),
            cookie: u64::MAX,
            counters: [("outbound".to_owned(), 3)].into(),
        });
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), status);
    }

    #[test]
    fn an_unknown_call_is_an_error() {
        assert!(serde_json::from_str::<Request>(r#"{"op":"reboot"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"op":"del"}"#).is_err());
    }
}
