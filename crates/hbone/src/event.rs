//! What a connection tells its driver, and the requests and responses that travel in it.

use std::fmt;

use crate::error::{CloseReason, ErrorCode};
use crate::headers::Headers;
use crate::tls::{KeyExchange, PeerIdentity};

/// Names a stream within its connection: odd, growing, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(crate) u32);

impl StreamId {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What happened in a connection. Taken with `poll_event` until that gives nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both sides are authenticated; streams may be opened. The first event, once.
    Established {
        /// Who the peer is.
        peer: PeerIdentity,
        /// How the keys were agreed.
        kx: KeyExchange,
    },
    /// Server: the peer asks for a tunnel. Answer with `respond` (or `reset`). A request that the
    /// peer resets before this was taken is never told, and nothing else of its stream.
    Request {
        /// The stream of the tunnel.
        stream: StreamId,
        /// What it asks for.
        request: ConnectRequest,
    },
    /// Client: the peer answered; after 200 data may be written. Once per stream.
    Response {
        /// The stream that was opened.
        stream: StreamId,
        /// The answer.
        response: ConnectResponse,
    },
    /// Data waits in `read`; told once until `read` took it.
    Readable(StreamId),
    /// `writable_bytes` is above zero again after it was zero or a write was short.
    Writable(StreamId),
    /// The peer sent END_STREAM and `read` has given all its data. Our direction is still open.
    Finished(StreamId),
    /// The stream is over at once, in both directions; unread data is dropped. Also for every
    /// stream that a closing connection cuts off. Not told for streams that we reset.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why: `REFUSED_STREAM` means that the peer did not look at it (try elsewhere).
        code: ErrorCode,
    },
    /// The peer takes no new streams; open ones go on.
    GoAway {
        /// `NO_ERROR` for a drain.
        code: ErrorCode,
    },
    /// The connection is over. Send what `poll_transmit` still gives, then close the socket.
    /// Streams that had ended whole keep their unread data until it is read. The last event, once.
    Closed(CloseReason),
}

/// A CONNECT request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectRequest {
    /// `ip:port`, `[v6]:port` or `host:port`; unparsed, see [`crate::authority::Authority`].
    pub authority: String,
    /// Ordinary fields: `baggage`, `forwarded`, `traceparent`.
    pub headers: Headers,
}

/// The answer to a CONNECT request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectResponse {
    /// 200 opens the tunnel, everything else refuses it. 200 to 599.
    pub status: u16,
    /// Ordinary fields: `baggage`.
    pub headers: Headers,
}

impl ConnectResponse {
    /// A response without fields.
    pub fn of(status: u16) -> Self {
        Self {
            status,
            headers: Headers::new(),
        }
    }

    /// Whether it opens the tunnel.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}
