//! The proof that a peer showed who it is.

use std::fmt;

use mesh::identity::Identity;
use rustls::pki_types::UnixTime;

/// The identity of a peer, taken from its verified certificate when the handshake was finished.
/// Nothing else can make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    identity: Identity,
    not_after: UnixTime,
}

impl PeerIdentity {
    pub(super) fn proven(identity: Identity, not_after: UnixTime) -> Self {
        Self {
            identity,
            not_after,
        }
    }

    /// The identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the certificate that proved it ends. A connection does not end with it.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}
