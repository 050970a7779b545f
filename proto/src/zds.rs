//! What a node agent and a ztunnel say to each other (ZDS), as values. One message a datagram.

/// Longest message in bytes, either way: the buffers of all parts of the ecosystem have this size.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// Longest uid of a pod in bytes. Kubernetes gives 36.
pub const MAX_UID_BYTES: usize = 128;

/// The first message, from ztunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Whether it takes listeners that the agent made (Culvert's extension).
    pub accepts_listeners: bool,
}

/// From the agent; each is answered by one [`Ack`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A pod is there. Its descriptors come beside the message: the netns, then the listeners.
    Add(Add),
    /// A pod whose netns could not be opened again stays; only before `SnapshotSent`.
    Keep {
        /// Kubernetes UID of the pod.
        uid: String,
    },
    /// A pod is gone.
    Delete {
        /// Kubernetes UID of the pod.
        uid: String,
    },
    /// All pods of the node were named: what was not is gone.
    SnapshotSent,
}

/// A pod to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// Kubernetes UID of the pod.
    pub uid: String,
    /// Who it is; a very old agent does not say.
    pub pod: Option<PodInfo>,
    /// What the descriptors after the first are, in their order; each role at most once. Empty
    /// from an agent that hands no listeners.
    pub listeners: Vec<ListenerRole>,
}

/// Who a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInfo {
    /// Kubernetes name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum ListenerRole {
    OutboundV4,
    OutboundV6,
    InboundV4,
    InboundV6,
    HboneV4,
    HboneV6,
}

impl ListenerRole {
    /// All roles, in the order in which an agent of ours hands the listeners.
    pub const ALL: [Self; 6] = [
        Self::OutboundV4,
        Self::OutboundV6,
        Self::InboundV4,
        Self::InboundV6,
        Self::HboneV4,
        Self::HboneV6,
    ];
}

/// ztunnel's answer to a [`Request`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// What went wrong; None: done.
    pub error: Option<String>,
}
