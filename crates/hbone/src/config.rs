//! What a tunnel may hold and how long it waits: every bound with its unit and its reason.

use std::time::Duration;

/// Limits and waits of one connection. `Default` is what both proxies run with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest frame that the peer may send, bytes; 1 MiB, because 16 KiB frames cost bulk
    /// transfers 18 to 90 % (datapath.md 5). Frames are taken in as they come, so this holds no
    /// memory.
    pub max_frame_bytes: u32,
    /// Largest frame that we send, bytes, if the peer allows as much; 256 KiB, one large read of an
    /// application's socket.
    pub max_send_frame_bytes: u32,
    /// Receive window of a stream at its start, bytes; 512 KiB, because a larger one is a queue in
    /// front of the small flows of the same tunnel (datapath.md 5).
    pub stream_window_bytes: u32,
    /// What a stream's receive window may grow to while the tunnel is otherwise idle, bytes; 4 MiB,
    /// the stock peer's fixed window.
    pub stream_window_max_bytes: u32,
    /// Receive window of the connection, bytes; 16 MiB: the most unread data that a peer can make
    /// one connection hold.
    pub connection_window_bytes: u32,
    /// Data that a stream takes from the application before it is sealed, bytes; 256 KiB, one large
    /// read. A write past it is refused until the tunnel moves.
    pub stream_backlog_bytes: usize,
    /// The same over all streams of the connection, bytes; 4 MiB.
    pub connection_backlog_bytes: usize,
    /// Streams that a server allows at once; 200, as the stock peer.
    pub server_max_streams: u32,
    /// Streams that a client opens at once, if the peer allows as many; 100, as the stock peer's
    /// pool.
    pub client_max_streams: u32,
    /// Header list that a client takes, bytes as RFC 9113 6.5.2 counts them; 16 KiB.
    pub client_header_list_bytes: u32,
    /// Header list that a server takes, bytes; 64 KiB.
    pub server_header_list_bytes: u32,
    /// How long TLS and the first SETTINGS of the peer may take; 10 s.
    pub handshake_timeout: Duration,
    /// Silence after which a PING asks whether the peer lives; 10 s.
    pub keepalive_idle: Duration,
    /// How long the peer may stay silent after that PING; 20 s.
    pub keepalive_timeout: Duration,
    /// How long a drain waits for the answer to its PING before it names the last stream; 2 s.
    pub drain_ping_wait: Duration,
    /// Records that one traffic key seals before a KeyUpdate; 2^23, half of what rustls allows an
    /// AES-GCM key (2^24, from RFC 8446 5.5).
    pub key_update_records: u64,
    /// What a peer may send without moving data.
    pub floods: FloodLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_frame_bytes: 1 << 20,
            max_send_frame_bytes: 256 << 10,
            stream_window_bytes: 512 << 10,
            stream_window_max_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
            stream_backlog_bytes: 256 << 10,
            connection_backlog_bytes: 4 << 20,
            server_max_streams: 200,
            client_max_streams: 100,
            client_header_list_bytes: 16 << 10,
            server_header_list_bytes: 64 << 10,
            handshake_timeout: Duration::from_secs(10),
            keepalive_idle: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(20),
            drain_ping_wait: Duration::from_secs(2),
            key_update_records: 1 << 23,
            floods: FloodLimits::default(),
        }
    }
}

/// An allowance that refills with time: `burst` at once, `per_second` in the long run.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Most that is taken at once.
    pub burst: u32,
    /// What comes back each second.
    pub per_second: u32,
}

/// Allowances for frames that cost the peer little and us work. Past one of them the connection
/// ends with ENHANCE_YOUR_CALM.
#[derive(Clone, Debug)]
pub struct FloodLimits {
    /// PING frames; a keep-alive needs one in 10 s, a bandwidth probe one per round trip.
    pub pings: Allowance,
    /// SETTINGS frames; an honest peer sends one, seldom two.
    pub settings: Allowance,
    /// DATA frames without data and without END_STREAM, 1xx responses.
    pub empty_frames: Allowance,
    /// Streams reset before their request was answered (CVE-2023-44487, "rapid reset"). A client
    /// whose applications give up at once, or that shuts down, resets at most all its streams
    /// together.
    pub early_resets: Allowance,
    /// Requests that were refused: malformed, not CONNECT, or past the stream limit.
    pub refusals: Allowance,
    /// Frames that mean nothing: unknown types, PRIORITY, frames of streams that are gone.
    pub idle_frames: Allowance,
    /// WINDOW_UPDATE frames, besides those that our DATA frames pay for (four each, and one
    /// more for each 512 bytes).
    pub window_updates: Allowance,
    /// CONTINUATION frames of one header block (CVE-2024-27316); an honest peer fills each frame.
    pub continuations: u32,
    /// Entries of one SETTINGS frame; RFC 9113 knows six.
    pub settings_entries: u32,
    /// Answers to the peer's frames (acknowledgements, resets, refusals) that wait to be sent,
    /// bytes; a peer that sends but does not read would grow them without end.
    pub control_backlog_bytes: usize,
}

impl Default for FloodLimits {
    fn default() -> Self {
        Self {
            pings: Allowance {
                burst: 200,
                per_second: 20,
            },
            settings: Allowance {
                burst: 20,
                per_second: 1,
            },
            empty_frames: Allowance {
                burst: 100,
                per_second: 10,
            },
            early_resets: Allowance {
                burst: 250,
                per_second: 100,
            },
            refusals: Allowance {
                burst: 250,
                per_second: 100,
            },
            idle_frames: Allowance {
                burst: 1000,
                per_second: 200,
            },
            window_updates: Allowance {
                burst: 2000,
                per_second: 200,
            },
            continuations: 16,
            settings_entries: 64,
            control_backlog_bytes: 256 << 10,
        }
    }
}
