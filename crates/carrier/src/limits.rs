//! Every bound of the proxy with its unit and its reason.
//!
//! [`Limits`] is what an operator may set, by a YAML file (`--limits`); the rest is constant. Knows
//! no other module of the proxy.

mod fixed;
mod given;
mod page;
mod reached;

use hbone::Config as TunnelConfig;
use process::config::Mistakes;
use serde::{Deserialize, Serialize};

pub use fixed::*;
use given::count;
pub use given::{bytes, load, print, read, time};
pub use page::{table, yaml};
pub use reached::{Fate, Limit, Reached};

/// What is said of one limit.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its key in the file.
    pub key: &'static str,
    /// What it bounds.
    pub what: &'static str,
    /// What it is counted in.
    pub unit: &'static str,
    /// Why the default is as it is.
    pub reason: &'static str,
    /// What happens past it.
    pub past: &'static str,
    /// Smallest and largest value that is taken.
    pub range: (usize, usize),
    /// How its values are written.
    pub kind: Kind,
}

/// How the value of a limit is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number.
    Count,
    /// Bytes, like `4MiB`.
    Size,
    /// Milliseconds, like `30s`.
    Time,
}

/// Makes the struct, its defaults, and what is said of each field, from one list.
macro_rules! limits {
    ($(
        $(#[doc = $what:literal])+
        $kind:tt $key:ident = $default:expr, $unit:literal, $low:expr => $high:expr;
        why $reason:literal;
        past $past:literal;
    )+) => {
        /// What the proxy may take up. A file gives what differs from the defaults.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Limits {
            $(
                $(#[doc = $what])+
                #[doc = ""]
                #[doc = concat!("Unit: ", $unit, ". ", $reason, " Past it: ", $past)]
                #[serde(with = $kind)]
                pub $key: usize,
            )+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl Limits {
            /// What there is to say of each limit, with its value.
            pub fn about(&self) -> Vec<(About, usize)> {
                vec![$((
                    About {
                        key: stringify!($key),
                        what: concat!($($what),+).trim_ascii(),
                        unit: $unit,
                        reason: $reason,
                        past: $past,
                        range: ($low, $high),
                        kind: match $kind.as_bytes() {
                            b"bytes" => Kind::Size,
                            b"time" => Kind::Time,
                            _ => Kind::Count,
                        },
                    },
                    self.$key,
                ),)+]
            }
        }
    };
}

/// Counts beyond this are a mistake: no machine has so many descriptors.
const MOST: usize = 16_777_216;

/// Windows of HTTP/2 end here (RFC 9113 6.9.1).
const WINDOW: usize = 0x7fff_ffff;

const KIB: usize = 1_024;
const MIB: usize = 1_024 * KIB;

/// Times are in milliseconds.
const SECOND: usize = 1_000;
const MINUTE: usize = 60 * SECOND;
const HOUR: usize = 60 * MINUTE;
const DAY: usize = 24 * HOUR;

limits! {
    /// Connections, captured or tunnelled, that one worker carries at once.
    "count" connections_per_worker = 16_384, "connections", 1 => MOST;
    why "At 6 KB or less each; two workers carry 32,768, more than the open files a container \
        usually gets.";
    past "Refused: `connections of this worker`.";

    /// Connections of one pod on one worker.
    "count" connections_per_pod = 8_192, "connections", 1 => MOST;
    why "Half of the worker: one pod cannot starve the others.";
    past "Refused: `connections of this pod on this worker`.";

    /// Connections of clients of one identity on one worker of a waypoint.
    "count" connections_per_peer = 4_096, "connections", 1 => MOST;
    why "A quarter of the worker: clients of one service account cannot keep the others out.";
    past "Refused: `connections of this client on this worker`.";

    /// Inbound TLS handshakes in flight on one worker.
    "count" handshakes_per_worker = 512, "handshakes", 1 => MOST;
    why "0.4 ms of CPU each: 0.2 s of work, within the peer's 10 s.";
    past "The oldest one of the peer address that has the most is reset, and the new one goes \
        on.";

    /// Inbound TLS handshakes in flight of one peer address on one worker.
    "count" handshakes_per_address = 128, "handshakes", 1 => MOST;
    why "A quarter of the worker; a pod that talks to 110 pods of a node at once needs 110.";
    past "Refused: `TLS handshakes in flight of this peer address`.";

    /// Tunnels that peers made to one worker.
    "count" inbound_tunnels_per_worker = 8_192, "tunnels", 1 => MOST;
    why "Peers keep about one per client pod and core.";
    past "One without streams gets GOAWAY, else refused: `inbound tunnels of this worker`.";

    /// Tunnels that peers made to one pod on one worker.
    "count" inbound_tunnels_per_pod = 4_096, "tunnels", 1 => MOST;
    why "Half of the worker: one pod cannot starve the others.";
    past "One of the pod without streams gets GOAWAY, else refused: `inbound tunnels of this \
        pod`.";

    /// Tunnels that peers of one identity made to one worker.
    "count" inbound_tunnels_per_peer = 2_048, "tunnels", 1 => MOST;
    why "A quarter of the worker: 256 client pods of one service account on nodes with 8 \
        workers.";
    past "One of the peer without streams gets GOAWAY, else refused: `inbound tunnels of this \
        peer`.";

    /// Tunnels that one worker keeps or makes.
    "count" outbound_tunnels_per_worker = 4_096, "tunnels", 1 => MOST;
    why "64 clients that all talk with 64 servers.";
    past "Refused: `tunnels of this worker`.";

    /// Tunnels that one worker keeps or makes between the same two pods.
    "count" outbound_tunnels_per_peer = 64, "tunnels", 1 => MOST;
    why "64 of 100 streams: above the 4,536 connections that the far side carries with the \
        client's address kept.";
    past "Refused: `tunnels between two pods`.";

    /// Connections that wait for one tunnel to be made.
    "count" waiting_per_tunnel = 1_024, "connections", 1 => MOST;
    why "More would not get a stream in time.";
    past "Refused: `connections waiting for one tunnel`.";

    /// Streams that we open in one tunnel, or fewer if the peer allows fewer.
    "count" streams_per_tunnel = 100, "streams", 1 => 100_000;
    why "As the stock peer.";
    past "The next tunnel is made.";

    /// Streams that a peer may have open in one tunnel.
    "count" peer_streams_per_tunnel = 200, "streams", 1 => 100_000;
    why "As the stock peer.";
    past "REFUSED_STREAM.";

    /// Bytes of one stream that we hold unread, at its start.
    "bytes" stream_window = 512 * KIB, "bytes", 16 * KIB => WINDOW;
    why "A larger one is a queue in front of the small flows of the same tunnel.";
    past "The peer must wait (HTTP/2 window).";

    /// What that grows to while the tunnel is otherwise idle.
    "bytes" stream_window_max = 4 * MIB, "bytes", 16 * KIB => WINDOW;
    why "The stock peer's fixed window.";
    past "The peer must wait.";

    /// Bytes of one tunnel that we hold unread.
    "bytes" tunnel_window = 16 * MIB, "bytes", 64 * KIB => WINDOW;
    why "The most that one tunnel can make us hold.";
    past "The peer must wait.";

    /// Bytes that one stream takes from its application and has not sent.
    "bytes" stream_backlog = 256 * KIB, "bytes", 4 * KIB => WINDOW;
    why "One large read.";
    past "The application's socket is not read.";

    /// Bytes that all streams of one tunnel take and have not sent.
    "bytes" tunnel_backlog = 4 * MIB, "bytes", 4 * KIB => WINDOW;
    why "Sixteen large reads.";
    past "The application's socket is not read.";

    /// Bytes that all tunnels of one worker hold, unread and unsent together.
    "bytes" buffered_per_worker = 128 * MIB, "bytes", MIB => 1 << 40;
    why "Eight whole tunnel windows; two workers hold 256 MiB, half of what a node proxy \
        usually gets.";
    past "64 KiB of window and 4 KiB unsent a stream; at twice as much tunnels above their \
        share are not read, and new streams are refused: `bytes buffered by this worker`.";

    /// Waypoint: HTTP requests under way on one worker, upgraded ones too.
    "count" http_requests_per_worker = 16_384, "requests", 1 => MOST;
    why "One for each connection that may be there; with bodies kept for a retry 1 GiB at the \
        very worst.";
    past "503 `overflow`.";

    /// Waypoint: requests that wait for a connection to an endpoint, of one worker.
    "count" http_waiting_per_worker = 1_024, "requests", 1 => MOST;
    why "Each holds its client's memory; what waits behind more would time out anyway.";
    past "503 `overflow`.";

    /// Waypoint: connections of HTTP to endpoints, of one worker, kept ones too.
    "count" http_endpoint_connections_per_worker = 16_384, "connections", 1 => MOST;
    why "One for each request of HTTP/1 that may be under way.";
    past "503 `overflow`: `connections to endpoints of this worker`.";

    /// Waypoint: requests that one HTTP/2 connection to an endpoint carries at once.
    "count" http_streams_per_connection = 100, "requests", 1 => 100_000;
    why "What servers commonly allow; one that allows fewer is given fewer.";
    past "Another connection is made.";

    /// Waypoint: from the first byte of a request's head to its last.
    "time" http_head_timeout = 30 * SECOND, "time", SECOND => HOUR;
    why "64 KiB in small pieces over a bad line.";
    past "408, the connection ends.";

    /// Waypoint: how long a client's connection may be idle between requests.
    "time" http_idle_timeout = HOUR, "time", SECOND => 30 * DAY;
    why "An idle connection costs little, a client's request into one that ends just then fails.";
    past "The connection is closed.";

    /// Waypoint: how long an idle connection to an endpoint is kept.
    "time" http_endpoint_idle_timeout = 4 * SECOND, "time", SECOND => HOUR;
    why "Shorter than servers keep theirs (node.js: 5 s).";
    past "The connection is closed.";

    /// Waypoint: how long a client that waits for `100 Continue` waits for the endpoint's.
    "time" http_continue_timeout = SECOND, "time", 10 => MINUTE;
    why "Servers that know of it answer at once; others never.";
    past "The waypoint says it.";

    /// Waypoint: how long one side of a request may take none of the bytes that are ready for it.
    "time" http_stall_timeout = 5 * MINUTE, "time", SECOND => DAY;
    why "A client that reads a page a minute is no client.";
    past "The request ends.";

    /// Waypoint: how long nothing may move in a request under way.
    "time" http_quiet_timeout = HOUR, "time", SECOND => 30 * DAY;
    why "Streams of events may be silent for long; one that died must end some day.";
    past "The request ends.";

    /// Waypoint: how long nothing may move in a connection after an upgrade (WebSocket, CONNECT).
    "time" http_upgrade_idle_timeout = HOUR, "time", SECOND => 30 * DAY;
    why "As a quiet request.";
    past "The connection is closed.";

    /// Waypoint: longest time of a request whose route does not say; `0s`: no limit.
    "time" http_request_timeout = 0, "time", 0 => 30 * DAY;
    why "As the Gateway API: a route without `timeouts` has none.";
    past "504 `timed_out`.";

    /// Open files of the process that are asked of the kernel (RLIMIT_NOFILE).
    "count" open_files = 1_048_576, "files", 64 => MOST;
    why "What kernels allow by default; a connection takes one or two. The hard limit, if that \
        is lower.";
    past "Accepting fails, is logged, is tried again each 50 ms; what is open goes on.";
}

impl Limits {
    /// Tasks of one worker: one per connection, one per tunnel and handshake, twice six listeners
    /// per pod, and some of its own. Never reached before the others.
    pub fn tasks_per_worker(&self) -> usize {
        let tunnels = self.outbound_tunnels_per_worker
            + self.inbound_tunnels_per_worker
            + self.inbound_tunnels_per_worker / LEAVING_SHARE;
        self.connections_per_worker + tunnels + 2 * self.handshakes_per_worker + 12 * PODS + 1_024
    }

    /// The part that tunnels keep by themselves.
    pub fn tunnel(&self) -> TunnelConfig {
        // All are bounded far below 2^32.
        let small = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        TunnelConfig {
            stream_window_bytes: small(self.stream_window),
            stream_window_max_bytes: small(self.stream_window_max),
            connection_window_bytes: small(self.tunnel_window),
            stream_backlog_bytes: self.stream_backlog,
            connection_backlog_bytes: self.tunnel_backlog,
            server_max_streams: small(self.peer_streams_per_tunnel),
            client_max_streams: small(self.streams_per_tunnel),
            ..TunnelConfig::default()
        }
    }

    /// Notes what is out of range, and what does not fit together.
    fn check(&self, mistakes: &mut Mistakes) {
        for (about, value) in self.about() {
            let (low, high) = about.range;
            let reason = format!(
                "{} is not from {} to {}",
                page::written(&about, value),
                page::written(&about, low),
                page::written(&about, high),
            );
            mistakes.require((low..=high).contains(&value), about.key, &reason);
        }
        let pairs = [
            ("connections_per_pod", "connections_per_worker"),
            ("connections_per_peer", "connections_per_worker"),
            ("http_waiting_per_worker", "http_requests_per_worker"),
            ("handshakes_per_address", "handshakes_per_worker"),
            ("handshakes_per_worker", "inbound_tunnels_per_worker"),
            ("inbound_tunnels_per_pod", "inbound_tunnels_per_worker"),
            ("inbound_tunnels_per_peer", "inbound_tunnels_per_worker"),
            ("outbound_tunnels_per_peer", "outbound_tunnels_per_worker"),
            ("stream_window", "stream_window_max"),
            ("stream_window_max", "tunnel_window"),
            ("tunnel_window", "buffered_per_worker"),
            ("stream_backlog", "tunnel_backlog"),
            ("tunnel_backlog", "buffered_per_worker"),
        ];
        let all = self.about();
        let find = |key: &str| all.iter().find(|(about, _)| about.key == key);
        for (smaller, larger) in pairs {
            let (Some((part, least)), Some((whole, most))) = (find(smaller), find(larger)) else {
                unreachable!("`{smaller}` and `{larger}` are fields");
            };
            let reason = format!(
                "{} is more than {larger} ({}): lower the one or raise the other",
                page::written(part, *least),
                page::written(whole, *most),
            );
            mistakes.require(least <= most, smaller, &reason);
        }
    }
}

#[cfg(test)]
mod tests;
