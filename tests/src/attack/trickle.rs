//! Bytes one at a time: in segments, in TLS records, in frames. Honest, but dear for whoever takes
//! them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::task::JoinSet;

use super::frames::{connect, frame, kind, window_update};
use super::tunnel::{Answer, Tunnel, Way};
use super::{End, Report};

/// Sent before the echo is waited for.
const BATCH: u64 = 64;

/// What has one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Each TCP segment, the handshake included.
    Segments,
    /// Each TLS record: a frame of one byte of data is ten of them.
    Records,
    /// Each DATA frame, all in one record.
    Frames,
}

/// A trickle to a server that echoes.
#[derive(Clone, Debug)]
pub struct Trickle {
    /// Where to, and as whom; `dripping` is set here.
    pub way: Way,
    /// The echo server.
    pub echo: SocketAddr,
    /// What is small.
    pub kind: Kind,
    /// Tunnels at a time.
    pub lanes: usize,
    /// How long.
    pub time: Duration,
}

/// Trickles; `report.sent` counts bytes of data that came back, each of which was checked.
pub async fn run(trickle: &Trickle) -> Report {
    let start = Instant::now();
    let mut lanes = JoinSet::new();
    for _ in 0..trickle.lanes {
        let mut trickle = trickle.clone();
        trickle.way.dripping = trickle.kind == Kind::Segments;
        lanes.spawn(async move {
            let mut report = Report {
                connections: 1,
                ..Report::default()
            };
            let end = lane(&trickle, &mut report).await;
            let end = end.err().unwrap_or(End::Other("left".to_owned()));
            report.ended(&end);
            report
        });
    }
    let mut report = Report::default();
    for lane in lanes.join_all().await {
        report.add(lane);
    }
    report.took(start)
}

async fn lane(trickle: &Trickle, report: &mut Report) -> Result<(), End> {
    let mut tunnel = Tunnel::open(&trickle.way, &[]).await?;
    report.tunnels += 1;
    tunnel.send(&connect(1, &trickle.echo.to_string())).await?;
    let (_, answer) = tunnel.answer().await?;
    report.answered(answer.to_string());
    if answer != Answer::Status(200) {
        return Err(End::Other("no stream".to_owned()));
    }
    // The tunnel's making does not count: on a busy machine it takes longer than all the rest.
    let start = Instant::now();
    while start.elapsed() < trickle.time {
        let bytes: Vec<u8> = (0..BATCH).map(|count| count as u8).collect();
        let frames: Vec<u8> = bytes
            .iter()
            .flat_map(|byte| frame(kind::DATA, 0, 1, &[*byte]))
            .collect();
        let piece = match trickle.kind {
            Kind::Records => 1,
            Kind::Segments | Kind::Frames => frames.len(),
        };
        for piece in frames.chunks(piece) {
            tunnel.send(piece).await?;
        }
        let mut echoed = Vec::new();
        while echoed.len() < bytes.len() {
            let frame = tunnel.next().await?;
            if frame.kind == kind::DATA {
                echoed.extend(frame.payload);
            }
        }
        if echoed != bytes {
            return Err(End::Other("other bytes came back".to_owned()));
        }
        report.sent += BATCH;
        let more = u32::try_from(BATCH).unwrap_or(u32::MAX);
        let credit = [window_update(0, more), window_update(1, more)].concat();
        tunnel.send(&credit).await?;
    }
    Ok(())
}
