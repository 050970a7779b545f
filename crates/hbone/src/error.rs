//! Why streams and connections end, and why calls are refused.

use std::fmt;

use crate::tls::HandshakeError;

/// An HTTP/2 error code (RFC 9113 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// Graceful end.
    pub const NO_ERROR: Self = Self(0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// An unexpected condition here.
    pub const INTERNAL_ERROR: Self = Self(2);
    /// The peer sent more than a window allowed.
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(4);
    /// A frame for a stream whose sender had finished it.
    pub const STREAM_CLOSED: Self = Self(5);
    /// A frame of a wrong size.
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    /// Not processed; safe to try again elsewhere.
    pub const REFUSED_STREAM: Self = Self(7);
    /// No longer wanted.
    pub const CANCEL: Self = Self(8);
    /// The header compression state is broken.
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// The TCP connection behind a CONNECT was reset.
    pub const CONNECT_ERROR: Self = Self(10);
    /// The peer makes excessive work.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
    /// The transport is not secure enough.
    pub const INADEQUATE_SECURITY: Self = Self(12);
    /// HTTP/1.1 is wanted.
    pub const HTTP_1_1_REQUIRED: Self = Self(13);

    /// Its name in RFC 9113, if it has one.
    pub fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(usize::try_from(self.0).ok()?).copied()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a connection is over; the text is what a log prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// No tunnel came about.
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
    /// The TLS session broke after the handshake (a damaged record, a fatal alert of the peer: a
    /// server that refuses our certificate says so only then).
    #[error("TLS: {0}")]
    Tls(String),
    /// The peer broke HTTP/2 or passed a bound; we sent GOAWAY with the code.
    #[error("peer at fault, {code}: {why}")]
    Peer {
        /// What GOAWAY said.
        code: ErrorCode,
        /// What it did.
        why: &'static str,
    },
    /// The peer ended the connection with GOAWAY and an error code.
    #[error("closed by the peer: {code}")]
    ByPeer {
        /// What its GOAWAY said.
        code: ErrorCode,
    },
    /// A drain, ours or the peer's, came to its end: no stream was cut off.
    #[error("drained")]
    Drained,
    /// We closed it.
    #[error("closed here: {code}")]
    ByUs {
        /// What GOAWAY said.
        code: ErrorCode,
    },
    /// The peer did not answer the keep-alive PING.
    #[error("keep-alive timeout")]
    KeepAliveTimeout,
    /// The peer ended the transport; `clean` when it said so with close_notify.
    #[error("{}", if *.clean { "closed by the peer" } else { "connection lost" })]
    Eof {
        /// Whether close_notify came before.
        clean: bool,
    },
}

/// Why a stream cannot be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The handshake is not finished.
    #[error("the tunnel is not established yet")]
    NotEstablished,
    /// Only clients open streams.
    #[error("a server opens no streams")]
    Server,
    /// The peer or we drain, or stream numbers are used up: use another connection.
    #[error("the tunnel takes no new streams")]
    Draining,
    /// The connection is over.
    #[error("the tunnel is closed")]
    Closed,
    /// As many streams are open as the peer and we allow.
    #[error("the tunnel carries as many streams as it may")]
    TooManyStreams,
    /// The header list is larger than the peer takes.
    #[error("the header list is larger than the peer takes")]
    HeadersTooLarge,
    /// A field name or value has bytes that HTTP forbids, or is empty where it must not be.
    #[error("a header field is not valid in HTTP")]
    InvalidHeader,
}

/// Why a response cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RespondError {
    /// The stream is gone, or was never there.
    #[error("the stream is gone")]
    StreamGone,
    /// It was answered already, or we are the client.
    #[error("the request was answered already")]
    Answered,
    /// The status is not within 200 to 599.
    #[error("not a final status")]
    InvalidStatus,
    /// As [`OpenError::HeadersTooLarge`].
    #[error("the header list is larger than the peer takes")]
    HeadersTooLarge,
    /// As [`OpenError::InvalidHeader`].
    #[error("a header field is not valid in HTTP")]
    InvalidHeader,
}

/// The stream was reset, finished, or never existed: nothing more can be written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream is gone")]
pub struct StreamGone;
