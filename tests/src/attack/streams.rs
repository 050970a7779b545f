//! Requests by a peer with a certificate: for odd targets, and for every port of a pod.

use std::collections::BTreeSet;
use std::time::Instant;

use super::frames::connect;
use super::tunnel::{Answer, Tunnel, Way};
use super::{End, PATIENCE, Report};

/// Requests that wait for their answer in one tunnel: below what a server takes.
const AT_ONCE: usize = 100;

/// Asks for each authority once, over one tunnel after the other; `report.sent` counts requests.
pub async fn ask(way: &Way, authorities: &[String]) -> Report {
    let start = Instant::now();
    let mut report = Report::default();
    let mut rest = authorities;
    while !rest.is_empty() && start.elapsed() < 2 * PATIENCE {
        report.connections += 1;
        match Tunnel::open(way, &[]).await {
            Ok(tunnel) => {
                report.tunnels += 1;
                let asked = over_one(tunnel, rest, &mut report).await;
                rest = &rest[asked..];
            }
            Err(end) => {
                report.answered(format!("no tunnel: {end}"));
                break;
            }
        }
    }
    report.took(start)
}

/// How many were asked for before the tunnel ended.
async fn over_one(mut tunnel: Tunnel, authorities: &[String], report: &mut Report) -> usize {
    let mut waiting = BTreeSet::new();
    let mut asked = 0;
    loop {
        while asked < authorities.len() && waiting.len() < AT_ONCE {
            let stream = stream_number(asked);
            if tunnel
                .send(&connect(stream, &authorities[asked]))
                .await
                .is_err()
            {
                break;
            }
            waiting.insert(stream);
            asked += 1;
            report.sent += 1;
        }
        if waiting.is_empty() && asked == authorities.len() {
            report.ended(&End::Other("left".to_owned()));
            return asked;
        }
        match tunnel.answer().await {
            // A refusal is a status and a reset; the first of them counts.
            Ok((stream, answer)) if waiting.remove(&stream) => report.answered(text(answer)),
            Ok(_) => {}
            Err(end) => {
                for _ in &waiting {
                    report.answered("none");
                }
                report.ended(&end);
                return asked.max(1);
            }
        }
    }
}

fn text(answer: Answer) -> String {
    answer.to_string()
}

/// The n-th stream of a client.
pub fn stream_number(index: usize) -> u32 {
    u32::try_from(2 * index + 1).unwrap_or(u32::MAX)
}
