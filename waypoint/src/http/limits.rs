//! Bounds of HTTP: sizes, counts, times, each with its unit and reason.

use std::time::Duration;

/// Bytes of a request's head, or of a trailer section: what browsers' cookies and the largest
/// tokens need, eight times over.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a request line: longer targets meet servers that refuse them anyhow (RFC 9110 4.1
/// wants 8,000 at least).
pub const REQUEST_LINE_BYTES_MAX: usize = 16 * 1024;
/// Fields of a head, or of a trailer section: as many as hyper parses without memory of its own for
/// each request.
pub const FIELDS_MAX: usize = 100;
/// Bytes of a chunk's size line with its extensions, which nobody uses.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Streams of one HTTP/2 connection at once, downstream (RFC 9113 6.5.2 recommends 100 at least).
pub const STREAMS_MAX: u32 = 100;
/// Bytes that a slow reader's stream may hold in its windows, each way.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes that all streams of one connection together may have in flight.
pub const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes that hyper holds for one stream or one HTTP/1 connection before it stops to read.
pub const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Largest HTTP/1 read buffer of one connection: a whole head fits, and a body's next pieces.
pub const READ_BUFFER_BYTES: usize = 128 * 1024;
/// Bytes of a request's body that are kept to send it again: most unary calls fit, and a thousand
/// requests at once hold 64 MB at most.
pub const REPLAY_BYTES_MAX: usize = 64 * 1024;
/// Bytes that the copy of a request may lag behind the request itself; a mirror that is slower is
/// given up, since it must never slow the request.
pub const MIRROR_LAG_BYTES_MAX: usize = 256 * 1024;
/// Mirrored requests at once on a worker; past it no copy is made.
pub const MIRRORS_MAX: usize = 256;
/// Most endpoints that a request is moved to because the one before could not be reached.
pub const MOVES_MAX: usize = 3;
/// Idle HTTP/1 connections kept for one endpoint.
pub const IDLE_MAX: usize = 64;
/// Bytes of `traceparent`, `x-request-id` and session tokens that are believed.
pub const TOKEN_BYTES_MAX: usize = 256;

/// Bounds that a site may set otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte of a request's head to its last, then 408.
    pub head_timeout: Duration,
    /// How long a client's connection may be idle between requests.
    pub idle_timeout: Duration,
    /// How long an idle connection to an endpoint is kept: shorter than servers keep theirs (5 s
    /// with node.js).
    pub upstream_idle_timeout: Duration,
    /// How long a client that waits for `100 Continue` is kept waiting for the endpoint's.
    pub continue_timeout: Duration,
    /// How long a connection may make no progress in either direction after an upgrade.
    pub tunnel_idle_timeout: Duration,
    /// Longest time of a request whose route does not say; None: no limit.
    pub request_timeout: Option<Duration>,
    /// How long a side may owe bytes: a client that does not read its answer, or does not send the
    /// rest of a body whose length it told; an endpoint that does not take the body. As long as
    /// other proxies wait.
    pub stall_timeout: Duration,
    /// How long nothing at all may move in a request that is under way: streams of gRPC are silent
    /// for long, and no connection waits for ever.
    pub quiet_timeout: Duration,
    /// Requests of a worker under way at once, upgraded ones too; past it 503. Each holds some
    /// kilobytes and up to three tasks.
    pub requests_max: usize,
    /// Requests of a worker that wait for a connection at once; past it 503.
    pub pending_max: usize,
    /// Connection of HTTP/2 to one endpoint carries so many requests, then another is opened.
    pub upstream_streams_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(3_600),
            upstream_idle_timeout: Duration::from_secs(4),
            continue_timeout: Duration::from_secs(1),
            tunnel_idle_timeout: Duration::from_secs(3_600),
            request_timeout: None,
            stall_timeout: Duration::from_secs(300),
            quiet_timeout: Duration::from_secs(3_600),
            requests_max: 16_384,
            pending_max: 1_024,
            upstream_streams_max: 100,
        }
    }
}
