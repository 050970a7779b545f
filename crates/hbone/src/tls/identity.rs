//! The proof that a peer showed who it is.

use std::fmt;

use mesh::identity::Identity;

/// The identity of a peer, taken from its verified certificate when the handshake was finished.
/// Nothing else can make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity(Identity);

impl PeerIdentity {
    pub(super) fn proven(identity: Identity) -> Self {
        Self(identity)
    }

    /// The identity.
    pub fn identity(&self) -> &Identity {
        &self.0
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
