//! How the keys of a session were agreed.

use std::fmt;

use rustls::NamedGroup;

/// The key exchange of a finished handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyExchange {
    /// ML-KEM 768 with X25519: safe against a later quantum computer.
    X25519MlKem768,
    /// X25519.
    X25519,
    /// NIST P-256.
    P256,
}

impl KeyExchange {
    pub(super) fn of(group: NamedGroup) -> Option<Self> {
        match group {
            NamedGroup::X25519MLKEM768 => Some(Self::X25519MlKem768),
            NamedGroup::X25519 => Some(Self::X25519),
            NamedGroup::secp256r1 => Some(Self::P256),
            _ => None,
        }
    }
}

impl fmt::Display for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X25519MlKem768 => "X25519MLKEM768",
            Self::X25519 => "X25519",
            Self::P256 => "secp256r1",
        })
    }
}
