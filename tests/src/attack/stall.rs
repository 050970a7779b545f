//! Readers that never read: many tunnels with many streams to servers that send all they can, with
//! the largest windows, and nobody who takes a byte.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::frames::{
    INITIAL_WINDOW_SIZE, WINDOW_DEFAULT, WINDOW_MAX, connect, settings, window_update,
};
use super::streams::stream_number;
use super::tunnel::{Answer, Tunnel, Way};
use super::{End, PATIENCE, Report};

/// All streams of a tunnel are answered within this: thousands are opened at once, and on a machine
/// with one busy core 30 s were too few.
pub const OPENED_WITHIN: Duration = Duration::from_secs(180);

/// How many of what.
#[derive(Clone, Debug)]
pub struct Stall {
    /// Where to, and as whom.
    pub way: Way,
    /// Servers that pour, asked in turn.
    pub authorities: Vec<String>,
    /// Tunnels.
    pub tunnels: usize,
    /// Streams in each.
    pub streams: usize,
    /// The far side must have ended a tunnel that is not read after this; none: it is not waited
    /// for.
    pub ends_within: Option<Duration>,
}

/// Opens all, prints `holding N` (streams), and holds until told to end, or until the far side has
/// ended each tunnel.
pub async fn run(stall: &Stall, end: watch::Receiver<bool>) -> Report {
    let start = Instant::now();
    let mut making = JoinSet::new();
    for number in 0..stall.tunnels {
        let stall = stall.clone();
        making.spawn(async move { make(&stall, number).await });
    }
    let mut report = Report::default();
    let mut held = Vec::new();
    for (made, tunnel) in making.join_all().await {
        report.add(made);
        held.extend(tunnel);
    }
    println!("holding {}", report.sent);
    match stall.ends_within {
        Some(within) => {
            tokio::time::sleep(within).await;
            let mut ending = JoinSet::new();
            for tunnel in held {
                // What is over already says so without being read empty first.
                ending.spawn(tunnel.end(PATIENCE));
            }
            for end in ending.join_all().await {
                report.ended(&end);
            }
        }
        None => until_told(end).await,
    }
    report.took(start)
}

/// One tunnel whose streams are all answered, from now on unread.
async fn make(stall: &Stall, number: usize) -> (Report, Option<Tunnel>) {
    let mut report = Report {
        connections: 1,
        ..Report::default()
    };
    // No window at first, so that the answers are not behind data.
    let opened = Tunnel::open(&stall.way, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    let mut tunnel = match opened {
        Ok(tunnel) => tunnel,
        Err(end) => {
            report.ended(&end);
            return (report, None);
        }
    };
    report.tunnels = 1;
    let opened = timeout(
        OPENED_WITHIN,
        streams(stall, number, &mut tunnel, &mut report),
    )
    .await;
    match opened.unwrap_or(Err(End::Open)) {
        Ok(()) => (report, Some(tunnel)),
        Err(end) => {
            report.ended(&end);
            (report, None)
        }
    }
}

async fn streams(
    stall: &Stall,
    number: usize,
    tunnel: &mut Tunnel,
    report: &mut Report,
) -> Result<(), End> {
    let requests: Vec<u8> = (0..stall.streams)
        .flat_map(|index| {
            let at = (number * stall.streams + index) % stall.authorities.len();
            connect(stream_number(index), &stall.authorities[at])
        })
        .collect();
    tunnel.send(&requests).await?;
    for _ in 0..stall.streams {
        let answer = loop {
            // A refusal is followed by a reset without a fault.
            match tunnel.answer().await? {
                (_, Answer::Reset(0)) => {}
                (_, answer) => break answer,
            }
        };
        report.answered(answer.to_string());
        report.sent += u64::from(answer == Answer::Status(200));
    }
    let largest = [
        settings(&[(INITIAL_WINDOW_SIZE, WINDOW_MAX)]),
        window_update(0, WINDOW_MAX - WINDOW_DEFAULT),
    ];
    Ok(tunnel.send(&largest.concat()).await?)
}

/// Returns when true was told, or nobody is left to tell.
pub async fn until_told(mut end: watch::Receiver<bool>) {
    let _ = end.wait_for(|told| *told).await;
}
