//! Load for a mesh: connections that know what they must carry, and say what became of them.
//!
//! Runs in pods as the program `traffic`. It must not know the mesh: it sees sockets only.

pub mod content;
pub mod hold;
pub mod load;
pub mod moment;
pub mod server;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;

use moment::Moment;

/// A connection that waits in a listener while its proxy restarts is no failure; a debug build on
/// two busy cores starts within 5 s.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(40);
/// No stream or round of ours is silent for longer, but when it is lost.
pub const SILENT_FOR: Duration = Duration::from_secs(60);

/// What `traffic load` did, as one line of JSON on stdout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Connections tried, whatever became of them.
    pub connections: u64,
    /// Those that carried all their bytes, each checked by SHA-256 in both directions.
    pub streams: u64,
    /// The same by kind: `short`, `middling`, `bulk`, `half_closed`.
    pub kinds: BTreeMap<String, u64>,
    /// The same by family: `ipv4`, `ipv6`.
    pub families: BTreeMap<String, u64>,
    /// Those that the client reset on purpose.
    pub aborted: u64,
    /// Those whose bytes were others than those sent.
    pub mismatched: u64,
    /// Bytes of checked streams, client to server.
    pub bytes_up: u64,
    /// Bytes of checked streams, server to client.
    pub bytes_down: u64,
    /// The longest of the checked streams in milliseconds.
    pub slowest_ms: u64,
    /// Connections that failed, by cause.
    pub failed: BTreeMap<String, u64>,
    /// The first of them one by one, at most [`MOST_NOTED`].
    pub noted: Vec<Failed>,
}

/// A connection that failed, with what it takes to find its moment in the logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// When it was begun: time of day, UTC, `hh:mm:ss.mmm`.
    pub began: String,
    /// When it failed.
    pub ended: String,
    /// The client's program, if it has a name.
    pub from: String,
    /// Where it went.
    pub to: String,
    /// Why, as in the counts.
    pub cause: String,
}

/// Failed connections that a report tells one by one; those after them are like them.
pub const MOST_NOTED: usize = 200;

/// What `traffic hold` did, as one line of JSON on stdout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Connections that it held.
    pub tried: u64,
    /// Those that lived to the end with every byte right.
    pub kept: u64,
    /// Questions answered, over all connections.
    pub rounds: u64,
    /// Connections lost, by cause.
    pub lost: BTreeMap<String, u64>,
    /// The first of them one by one, at most [`MOST_NOTED`].
    pub noted: Vec<Failed>,
}

impl LoadReport {
    /// Connections that failed, whatever the cause.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Adds what another program did.
    pub fn add(&mut self, other: &LoadReport) {
        self.connections += other.connections;
        self.streams += other.streams;
        self.aborted += other.aborted;
        self.mismatched += other.mismatched;
        self.bytes_up += other.bytes_up;
        self.bytes_down += other.bytes_down;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
        add(&mut self.kinds, &other.kinds);
        add(&mut self.families, &other.families);
        add(&mut self.failed, &other.failed);
        note(&mut self.noted, other.noted.clone());
    }
}

impl HoldReport {
    /// Adds what another program held.
    pub fn add(&mut self, other: &HoldReport) {
        self.tried += other.tried;
        self.kept += other.kept;
        self.rounds += other.rounds;
        add(&mut self.lost, &other.lost);
        note(&mut self.noted, other.noted.clone());
    }
}

/// Adds counts by name.
pub fn add(to: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>) {
    for (name, count) in from {
        *to.entry(name.clone()).or_default() += count;
    }
}

/// Adds failed connections up to [`MOST_NOTED`].
pub fn note(to: &mut Vec<Failed>, more: impl IntoIterator<Item = Failed>) {
    let room = MOST_NOTED.saturating_sub(to.len());
    to.extend(more.into_iter().take(room));
}

/// Why a connection is not as it should be.
#[derive(Debug)]
pub enum Fault {
    /// The socket failed at a step.
    Socket(&'static str, io::Error),
    /// Nothing came within the limit.
    Silent(&'static str),
    /// Other bytes than were sent.
    Mismatch(&'static str),
}

impl Fault {
    /// The note of a connection that it ended now.
    fn of(&self, began: Moment, to: SocketAddr) -> Failed {
        Failed {
            began: began.to_string(),
            ended: Moment::now().to_string(),
            from: String::new(),
            to: to.to_string(),
            cause: self.cause(),
        }
    }

    /// A short text that equal failures share.
    pub fn cause(&self) -> String {
        match self {
            Fault::Socket(step, error) => format!("{step}: {:?}", error.kind()),
            Fault::Silent(step) => format!("{step}: silent"),
            Fault::Mismatch(what) => format!("mismatch: {what}"),
        }
    }
}

/// Connects within the limit.
async fn connect(to: SocketAddr) -> Result<TcpStream, Fault> {
    let stream = within("connect", CONNECT_WITHIN, TcpStream::connect(to)).await?;
    stream
        .set_nodelay(true)
        .map_err(|e| Fault::Socket("connect", e))?;
    Ok(stream)
}

async fn within<T>(
    step: &'static str,
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, Fault> {
    match timeout(limit, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Fault::Socket(step, error)),
        Err(_) => Err(Fault::Silent(step)),
    }
}
