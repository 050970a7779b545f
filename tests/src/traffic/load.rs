//! Many connections of seeded kinds and sizes, one after the other in each of some workers.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::content::{DIGEST_BYTES, Digest, Header, Kind, expect_end, receive, send};
use super::moment::Moment;
use super::{Fault, LoadReport, SILENT_FOR, connect, within};

/// Most bytes of a short connection in each direction.
const SHORT_BYTES: u64 = 2048;
/// Most bytes of a middling one.
const MIDDLE_BYTES: u64 = 256 * 1024;
/// Most bytes of a bulk transfer: seconds on a busy machine.
const BULK_BYTES: u64 = 16 * 1024 * 1024;

/// What a load is made of.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where connections go, chosen at random.
    pub to: Vec<SocketAddr>,
    /// Decides on kinds, sizes, addresses and content.
    pub seed: u64,
    /// Connections at a time.
    pub workers: usize,
    /// Connections in all; 0: until the end is told.
    pub count: u64,
    /// Prints `made N` at this many connections, and goes on; 0: never.
    pub tell: u64,
    /// Also bulk, half-closed and aborted ones.
    pub mixed: bool,
    /// Longest pause of a worker between two connections.
    pub pause: Duration,
}

struct Shared {
    load: Load,
    left: Cell<u64>,
    end: watch::Receiver<bool>,
    report: RefCell<LoadReport>,
}

/// Runs it; must be polled on a `LocalSet`.
pub async fn run(load: Load, end: watch::Receiver<bool>) -> LoadReport {
    let left = Cell::new(match load.count {
        0 => u64::MAX,
        count => count,
    });
    let workers = load.workers;
    let shared = Rc::new(Shared {
        load,
        left,
        end,
        report: RefCell::default(),
    });
    let mut set = JoinSet::new();
    for worker in 0..workers {
        set.spawn_local(work(Rc::clone(&shared), worker as u64));
    }
    while let Some(ended) = set.join_next().await {
        if ended.is_err() {
            let mut report = shared.report.borrow_mut();
            *report.failed.entry("panic".to_owned()).or_default() += 1;
        }
    }
    shared.report.take()
}

async fn work(shared: Rc<Shared>, worker: u64) {
    let Shared { load, left, .. } = &*shared;
    let mut random = SmallRng::seed_from_u64(load.seed.wrapping_mul(1_000_003) ^ worker);
    while !*shared.end.borrow() && left.get() > 0 {
        left.set(left.get() - 1);
        let header = choose(&mut random, load.mixed);
        let to = load.to[random.random_range(0..load.to.len())];
        let start = (Moment::now(), Instant::now());
        let result = one(to, header, &mut random).await;
        let made = {
            let mut report = shared.report.borrow_mut();
            note(&mut report, (header, to), start, result);
            report.connections
        };
        if made == load.tell {
            println!("made {made}");
        }
        let pause = load.pause.mul_f64(random.random());
        tokio::time::sleep(pause).await;
    }
}

fn choose(random: &mut SmallRng, mixed: bool) -> Header {
    let (kind, most) = match random.random_range(0..100) {
        _ if !mixed => (Kind::Both, SHORT_BYTES),
        0..60 => (Kind::Both, SHORT_BYTES),
        60..75 => (Kind::HalfClosed, MIDDLE_BYTES),
        75..88 => (Kind::Both, MIDDLE_BYTES),
        88..90 => (Kind::Both, BULK_BYTES),
        _ => (Kind::Aborted, MIDDLE_BYTES),
    };
    Header {
        kind,
        up: random.random_range(0..=most),
        down: random.random_range(0..=most),
        seed: random.random(),
    }
}

/// What a report calls it.
fn name(header: Header) -> &'static str {
    match header.kind {
        Kind::HalfClosed => "half_closed",
        Kind::Aborted => "aborted",
        Kind::Hold => "held",
        Kind::Both => match header.up.max(header.down) {
            most if most <= SHORT_BYTES => "short",
            most if most <= MIDDLE_BYTES => "middling",
            _ => "bulk",
        },
    }
}

fn note(
    report: &mut LoadReport,
    (header, to): (Header, SocketAddr),
    (began, start): (Moment, Instant),
    result: Result<(), Fault>,
) {
    report.connections += 1;
    match result {
        Ok(()) if header.kind == Kind::Aborted => report.aborted += 1,
        Ok(()) => {
            report.streams += 1;
            let family = if to.is_ipv4() { "ipv4" } else { "ipv6" };
            for (counts, name) in [
                (&mut report.kinds, name(header)),
                (&mut report.families, family),
            ] {
                *counts.entry(name.to_owned()).or_default() += 1;
            }
            report.bytes_up += header.up;
            report.bytes_down += header.down;
            let took = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            report.slowest_ms = report.slowest_ms.max(took);
        }
        Err(fault) => {
            if matches!(fault, Fault::Mismatch(_)) {
                report.mismatched += 1;
            }
            *report.failed.entry(fault.cause()).or_default() += 1;
            super::note(&mut report.noted, [fault.of(began, to)]);
        }
    }
}

async fn one(to: SocketAddr, header: Header, random: &mut SmallRng) -> Result<(), Fault> {
    let stream = connect(to).await?;
    if header.kind == Kind::Aborted {
        let part = random.random_range(0..=header.up);
        return abort(stream, header, part).await;
    }
    within("stream", SILENT_FOR, exchange(stream, header))
        .await
        .and_then(|right| {
            if right {
                Ok(())
            } else {
                Err(Fault::Mismatch("content"))
            }
        })
}

/// Whether both directions carried what was sent.
async fn exchange(mut stream: TcpStream, header: Header) -> std::io::Result<bool> {
    let (mut reading, mut writing) = stream.split();
    let sending = async {
        writing.write_all(&header.encode()).await?;
        let sent = send(&mut writing, header.seed_up(), header.up).await?;
        if header.kind == Kind::HalfClosed {
            writing.shutdown().await?;
        }
        Ok(sent)
    };
    let receiving = async {
        let got = receive(&mut reading, header.down).await?;
        let mut digests: [Digest; 2] = [[0; DIGEST_BYTES]; 2];
        for digest in &mut digests {
            reading.read_exact(digest).await?;
        }
        std::io::Result::Ok((got, digests))
    };
    let (sent, (got, [theirs, received])) = tokio::try_join!(sending, receiving)?;
    if header.kind != Kind::HalfClosed {
        stream.shutdown().await?;
    }
    expect_end(&mut stream).await?;
    // Not only what the server says: the content that the seed makes.
    let wanted = send(&mut tokio::io::sink(), header.seed_down(), header.down).await?;
    Ok(got == theirs && got == wanted && received == sent)
}

async fn abort(mut stream: TcpStream, header: Header, part: u64) -> Result<(), Fault> {
    let sent = async {
        stream.write_all(&header.encode()).await?;
        send(&mut stream, header.seed_up(), part).await
    };
    within("stream", SILENT_FOR, sent).await?;
    // RST instead of FIN.
    stream
        .set_zero_linger()
        .map_err(|e| Fault::Socket("abort", e))
}
