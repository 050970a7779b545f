//! What can be wrong with a record, and the alert that the peer is told it by.

use rustls::AlertDescription;

/// Why an established session is dead. The texts are for a log.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(in crate::tls) enum Fault {
    #[error("a record that cannot be opened: damaged, or not of this session")]
    Damaged,
    #[error("a record larger than TLS allows")]
    Oversized,
    #[error("a record of outer type {0}, where everything is encrypted")]
    Plain(u8),
    #[error("a record of nothing but padding")]
    NoKind,
    #[error("a record of inner type {0}")]
    Kind(u8),
    #[error("an empty record of handshake or alert")]
    Empty,
    #[error("another record within a handshake message")]
    Interleaved,
    #[error("a handshake message of type {0} after the handshake")]
    Message(u8),
    #[error("a handshake message that cannot be read")]
    Unreadable,
    #[error("a KeyUpdate of unknown kind {0}")]
    UpdateKind(u8),
    #[error("bytes under the old key behind a KeyUpdate")]
    BehindUpdate,
    #[error("too many messages without data")]
    Flood,
    #[error("an alert that cannot be read")]
    Alert,
    #[error("received fatal alert: {0:?}")]
    Refused(AlertDescription),
    #[error("a session ticket that cannot be taken: {0}")]
    Ticket(rustls::Error),
    #[error("the keys cannot be changed: {0}")]
    Keys(rustls::Error),
    #[error("a cipher suite that the mesh does not speak")]
    Suite,
    #[error("a key is used up")]
    KeyUsedUp,
    #[error("a record cannot be sealed")]
    Sealing,
}

impl Fault {
    /// What the peer is told; nothing when it was the peer who ended the session.
    pub(in crate::tls) fn alert(&self) -> Option<AlertDescription> {
        Some(match self {
            Self::Refused(_) => return None,
            Self::Damaged => AlertDescription::BadRecordMac,
            Self::Oversized => AlertDescription::RecordOverflow,
            Self::Unreadable | Self::Alert => AlertDescription::DecodeError,
            Self::UpdateKind(_) => AlertDescription::IllegalParameter,
            Self::Ticket(rustls::Error::InvalidMessage(_)) => AlertDescription::DecodeError,
            Self::Ticket(_) => AlertDescription::IllegalParameter,
            Self::Keys(_) | Self::Suite | Self::KeyUsedUp | Self::Sealing => {
                AlertDescription::InternalError
            }
            Self::Plain(_)
            | Self::NoKind
            | Self::Kind(_)
            | Self::Empty
            | Self::Interleaved
            | Self::Message(_)
            | Self::BehindUpdate
            | Self::Flood => AlertDescription::UnexpectedMessage,
        })
    }
}
