//! Why a handshake failed, as an operator wants to read it.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::verify::IdentityMismatch;

/// Why no tunnel came about. Each is told apart in logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The certificate is missing its proof of the right identity.
    #[error(transparent)]
    Identity(#[from] IdentityMismatch),
    /// The client showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// No common version (we speak TLS 1.3 only), suite or key exchange.
    #[error("the peer speaks no TLS that we take: {0}")]
    Incompatible(String),
    /// The peer did not agree on HTTP/2.
    #[error("the peer did not agree on ALPN h2")]
    Alpn,
    /// The peer refused us with this alert; `access denied` and the certificate alerts mean that it
    /// does not take our identity.
    #[error("the peer refused the handshake: {0}")]
    Refused(String),
    /// No identity was expected, so no server could be the right one; the caller is at fault.
    #[error("no identity is expected of the server")]
    NobodyExpected,
    /// The handshake was not finished in time.
    #[error("not finished within the time allowed")]
    Timeout,
    /// The peer closed the transport in the middle.
    #[error("the peer closed the connection")]
    Closed,
    /// What came was not TLS, or broke its rules.
    #[error("{0}")]
    Broken(String),
}

impl HandshakeError {
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<IdentityMismatch>() {
                    Some(mismatch) => Self::Identity(mismatch.clone()),
                    None => Self::Broken(error.to_string()),
                }
            }
            Error::InvalidCertificate(e) => {
                Self::Identity(IdentityMismatch::Untrusted(e.to_string()))
            }
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::NoApplicationProtocol => Self::Alpn,
            Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::Incompatible("TLS 1.3 is required".to_owned()),
            Error::PeerIncompatible(why) => Self::Incompatible(format!("{why:?}")),
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            Error::AlertReceived(AlertDescription::ProtocolVersion) => {
                Self::Incompatible("the peer wants another version".to_owned())
            }
            Error::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            other => Self::Broken(other.to_string()),
        }
    }
}
