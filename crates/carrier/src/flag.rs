//! Why a connection failed, in the one word that metrics and logs of the field have for it.

/// `response_flags` of the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Flag {
    /// `-`
    #[default]
    None,
    /// `DENY`: by policy.
    Deny,
    /// `CONNECT`: the next hop cannot be reached.
    Connect,
    /// `TLS_FAILURE`
    TlsFailure,
    /// `H2_HANDSHAKE_FAILURE`
    H2HandshakeFailure,
    /// `NETWORK_POLICY`: a time-out on port 15008.
    NetworkPolicy,
    /// `IDENTITY_ERROR`: no certificate.
    IdentityError,
}

impl Flag {
    /// As metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
        }
    }
}
