//! An honest neighbour: steady questions on kept and on new connections, or on new tunnels, and how
//! long each answer takes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::frames::{connect, frame, kind};
use super::tunnel::{Answer, Tunnel, Way};
use super::{End, PATIENCE};

/// A question, and its answer.
const QUESTION: [u8; 64] = [b'?'; 64];
/// Between two questions of a kept connection.
const KEPT_PAUSE: Duration = Duration::from_millis(10);
/// Between two new connections.
const NEW_PAUSE: Duration = Duration::from_millis(25);
/// Between two new tunnels.
const VISIT_PAUSE: Duration = Duration::from_millis(100);

/// What a neighbour saw, as one line of JSON on stdout. Times are in microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Each question on a kept connection.
    pub kept_us: Vec<u64>,
    /// Each new connection with one question.
    pub new_us: Vec<u64>,
    /// Each new tunnel with one stream and one question.
    pub visit_us: Vec<u64>,
    /// Questions, connections and tunnels that failed, by cause.
    pub failed: BTreeMap<String, u64>,
}

impl Seen {
    /// Adds what another saw.
    pub fn add(&mut self, other: Seen) {
        self.kept_us.extend(other.kept_us);
        self.new_us.extend(other.new_us);
        self.visit_us.extend(other.visit_us);
        for (cause, count) in other.failed {
            *self.failed.entry(cause).or_default() += count;
        }
    }

    /// All that failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// All that was answered.
    pub fn answered(&self) -> usize {
        self.kept_us.len() + self.new_us.len() + self.visit_us.len()
    }
}

type Shared = Rc<RefCell<Seen>>;

/// Asks echo servers until it is told to end. Prints `steady` after the first answers.
pub async fn ask(to: &[SocketAddr], kept: usize, end: watch::Receiver<bool>) -> Seen {
    let seen = Shared::default();
    let mut tasks = JoinSet::new();
    let steady = Rc::new(tokio::sync::Barrier::new(to.len() * (kept + 1) + 1));
    for address in to {
        for _ in 0..kept {
            let (seen, end, steady) = (Rc::clone(&seen), end.clone(), Rc::clone(&steady));
            tasks.spawn_local(keep(*address, seen, end, steady));
        }
        let (seen, end, steady) = (Rc::clone(&seen), end.clone(), Rc::clone(&steady));
        tasks.spawn_local(renew(*address, seen, end, steady));
    }
    steady.wait().await;
    println!("steady");
    tasks.join_all().await;
    seen.take()
}

/// Makes new tunnels until it is told to end. Prints `steady` after the first.
pub async fn visit(way: &Way, echo: SocketAddr, end: watch::Receiver<bool>) -> Seen {
    let mut seen = Seen::default();
    let mut first = true;
    while first || !*end.borrow() {
        let start = Instant::now();
        match timeout(PATIENCE, one_visit(way, echo)).await {
            Ok(Ok(())) => seen.visit_us.push(micros(start)),
            Ok(Err(why)) => *seen.failed.entry(format!("tunnel: {why}")).or_default() += 1,
            Err(_) => *seen.failed.entry("tunnel: silent".to_owned()).or_default() += 1,
        }
        if std::mem::take(&mut first) {
            println!("steady");
        }
        sleep(VISIT_PAUSE).await;
    }
    seen
}

async fn keep(
    to: SocketAddr,
    seen: Shared,
    end: watch::Receiver<bool>,
    steady: Rc<tokio::sync::Barrier>,
) {
    let mut connection = None;
    let mut first = true;
    while first || !*end.borrow() {
        let start = Instant::now();
        let is_new = connection.is_none();
        match timeout(PATIENCE, question(&mut connection, to)).await {
            // A first question waited for the connection too.
            Ok(Ok(())) if is_new => {}
            Ok(Ok(())) => seen.borrow_mut().kept_us.push(micros(start)),
            Ok(Err(error)) => {
                connection = None;
                note(&seen, format!("kept: {:?}", error.kind()));
            }
            Err(_) => {
                connection = None;
                note(&seen, "kept: silent".to_owned());
            }
        }
        if std::mem::take(&mut first) {
            steady.wait().await;
        }
        sleep(KEPT_PAUSE).await;
    }
}

async fn renew(
    to: SocketAddr,
    seen: Shared,
    end: watch::Receiver<bool>,
    steady: Rc<tokio::sync::Barrier>,
) {
    let mut first = true;
    while first || !*end.borrow() {
        let start = Instant::now();
        match timeout(PATIENCE, question(&mut None, to)).await {
            Ok(Ok(())) if !first => seen.borrow_mut().new_us.push(micros(start)),
            Ok(Ok(())) => {}
            Ok(Err(error)) => note(&seen, format!("new: {:?}", error.kind())),
            Err(_) => note(&seen, "new: silent".to_owned()),
        }
        if std::mem::take(&mut first) {
            steady.wait().await;
        }
        sleep(NEW_PAUSE).await;
    }
}

/// One question, on a connection that is made when there is none.
async fn question(connection: &mut Option<TcpStream>, to: SocketAddr) -> io::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            connection.insert(stream)
        }
    };
    stream.write_all(&QUESTION).await?;
    let mut answer = [0; QUESTION.len()];
    stream.read_exact(&mut answer).await?;
    if answer == QUESTION {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

async fn one_visit(way: &Way, echo: SocketAddr) -> Result<(), End> {
    let mut tunnel = Tunnel::open(way, &[]).await?;
    tunnel.send(&connect(1, &echo.to_string())).await?;
    let (_, answer) = tunnel.answer().await?;
    if answer != Answer::Status(200) {
        return Err(End::Other(answer.to_string()));
    }
    tunnel.send(&frame(kind::DATA, 0, 1, &QUESTION)).await?;
    let mut answer = Vec::new();
    while answer.len() < QUESTION.len() {
        let frame = tunnel.next().await?;
        if frame.kind == kind::DATA {
            answer.extend(frame.payload);
        }
    }
    if answer == QUESTION {
        Ok(())
    } else {
        Err(End::Other("other bytes came back".to_owned()))
    }
}

fn note(seen: &Shared, cause: String) {
    *seen.borrow_mut().failed.entry(cause).or_default() += 1;
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
