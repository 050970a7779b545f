//! Held connections: questions and answers with a running checksum until somebody says end.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::content::{Content, Header, Kind, QUESTION_BYTES, Running, expect_end};
use super::moment::Moment;
use super::{Fault, HoldReport, SILENT_FOR, connect, within};

/// Holds `each` connections to every address, one question per `pause` on each, until `end` says
/// true. Prints `holding N` when all have had their first answer or have failed.
pub async fn hold(
    to: &[SocketAddr],
    each: usize,
    pause: Duration,
    end: watch::Receiver<bool>,
) -> HoldReport {
    let mut connections = JoinSet::new();
    let count = to.len() * each;
    let (first, mut firsts) = mpsc::channel::<()>(count.max(1));
    for (index, address) in to.iter().cycle().take(count).enumerate() {
        let (end, first, address) = (end.clone(), first.clone(), *address);
        connections.spawn(async move {
            let (began, mut rounds) = (Moment::now(), 0);
            let result = one(address, index as u64, pause, (end, first, &mut rounds)).await;
            (rounds, result.map_err(|fault| fault.of(began, address)))
        });
    }
    drop(first);
    let mut answered = 0;
    while firsts.recv().await.is_some() {
        answered += 1;
        if answered == count {
            break;
        }
    }
    println!("holding {answered}");
    let mut report = HoldReport {
        tried: count as u64,
        ..HoldReport::default()
    };
    while let Some(ended) = connections.join_next().await {
        let Ok((rounds, result)) = ended else {
            *report.lost.entry("panic".to_owned()).or_default() += 1;
            continue;
        };
        report.rounds += rounds;
        match result {
            Ok(()) => report.kept += 1,
            Err(failed) => {
                *report.lost.entry(failed.cause.clone()).or_default() += 1;
                super::note(&mut report.noted, [failed]);
            }
        }
    }
    report
}

type Told<'a> = (watch::Receiver<bool>, mpsc::Sender<()>, &'a mut u64);

async fn one(
    to: SocketAddr,
    seed: u64,
    pause: Duration,
    (mut end, first, rounds): Told<'_>,
) -> Result<(), Fault> {
    let mut stream = connect(to).await?;
    let header = Header {
        kind: Kind::Hold,
        up: 0,
        down: 0,
        seed,
    };
    let header = header.encode();
    within("first bytes", SILENT_FOR, stream.write_all(&header)).await?;
    let mut content = Content::new(seed);
    let mut running = Running::default();
    let mut first = Some(first);
    loop {
        // Seen before the question, so that one more round follows the end.
        let last = *end.borrow();
        question(&mut stream, &mut content, &mut running).await?;
        *rounds += 1;
        if let Some(first) = first.take() {
            // The receiver lives until all have told or are gone.
            let _ = first.send(()).await;
        }
        if last {
            break;
        }
        let _ = tokio::time::timeout(pause, end.changed()).await;
    }
    let ended = async {
        stream.shutdown().await?;
        expect_end(&mut stream).await
    };
    within("end", SILENT_FOR, ended).await
}

async fn question(
    stream: &mut TcpStream,
    content: &mut Content,
    running: &mut Running,
) -> Result<(), Fault> {
    let mut question = [0; QUESTION_BYTES];
    content.fill(&mut question);
    let mut answer = [0; QUESTION_BYTES + 8];
    let asked = async {
        stream.write_all(&question).await?;
        stream.read_exact(&mut answer).await?;
        io::Result::Ok(())
    };
    within("round", SILENT_FOR, asked).await?;
    if answer[..QUESTION_BYTES] != question || answer[QUESTION_BYTES..] != running.add(&question) {
        return Err(Fault::Mismatch("round"));
    }
    Ok(())
}
