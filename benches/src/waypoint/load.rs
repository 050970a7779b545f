//! Load programs of this bench alone: connections that are only held after a request, and requests
//! that watch for a change of their route. They run in the client's pod.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::manifests::VERSION_HEADER;
use super::push;
use crate::tools::http_client::whole_length;

/// Connections that are opened at the same time.
const AT_ONCE: usize = 32;
/// Longer than any answer of a working way takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Larger than any answer of the bench's server.
const ANSWER_BYTES: usize = 8 << 10;

/// A load.
#[derive(Clone, Debug, Subcommand)]
pub enum Load {
    /// Opens connections, asks one request on each, says `open` and holds them.
    Hold {
        /// Where the HTTP server is reached.
        address: SocketAddr,
        /// How many.
        connections: usize,
    },
    /// Asks without a pause on some connections and notes when each version of the route was first
    /// seen in an answer.
    Watch {
        /// Where the HTTP server is reached.
        address: SocketAddr,
        /// Path of the route.
        path: String,
        /// How many connections.
        connections: usize,
        /// How long.
        seconds: f64,
    },
    /// Feeds a waypoint with routes and measures what they cost it.
    Push {
        /// Its binary.
        waypoint: PathBuf,
        /// Where files go.
        directory: PathBuf,
    },
}

/// What `Watch` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Watched {
    /// Answers with 200.
    pub(super) done: u64,
    /// All others, and connections that broke.
    pub(super) failed: u64,
    /// Versions with the time of the first answer that had them, in seconds since 1970.
    pub(super) seen: Vec<(u64, f64)>,
}

impl Load {
    /// Runs it on this thread.
    ///
    /// # Errors
    /// When connections cannot be made.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            match self {
                Load::Hold {
                    address,
                    connections,
                } => hold(address, connections).await,
                Load::Watch {
                    address,
                    path,
                    connections,
                    seconds,
                } => {
                    let end = Instant::now() + Duration::from_secs_f64(seconds);
                    let watched = watch((address, path), connections, end).await?;
                    println!("{}", serde_json::to_string(&watched)?);
                    Ok(())
                }
                Load::Push {
                    waypoint,
                    directory,
                } => {
                    let figures = push::feed(waypoint, directory).await?;
                    println!("{}", serde_json::to_string(&figures)?);
                    Ok(())
                }
            }
        })
    }
}

async fn hold(address: SocketAddr, connections: usize) -> anyhow::Result<()> {
    let (mut running, mut held) = (JoinSet::new(), Vec::new());
    for index in 0..connections {
        if index >= AT_ONCE {
            held.push(running.join_next().await.context("one runs")???);
        }
        running.spawn_local(async move {
            let opened = Client::open(address, "/");
            let mut client = tokio::time::timeout(PATIENCE, opened).await??;
            tokio::time::timeout(PATIENCE, client.ask()).await??;
            anyhow::Ok(client)
        });
    }
    while let Some(client) = running.join_next().await {
        held.push(client??);
    }
    println!("open");
    std::future::pending::<()>().await;
    Ok(())
}

async fn watch(
    (address, path): (SocketAddr, String),
    connections: usize,
    end: Instant,
) -> anyhow::Result<Watched> {
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn_local(watch_one(address, path.clone(), end));
    }
    let mut all = Watched::default();
    while let Some(one) = clients.join_next().await {
        all.merge(one?);
    }
    anyhow::ensure!(all.done > 0, "nothing succeeded, {} failed", all.failed);
    Ok(all)
}

async fn watch_one(address: SocketAddr, path: String, end: Instant) -> Watched {
    let mut watched = Watched::default();
    let mut client = None;
    while Instant::now() < end {
        match ask(&mut client, address, &path).await {
            Ok(version) => {
                watched.done += 1;
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let known = watched.seen.iter().any(|(seen, _)| Some(*seen) == version);
                if let (Some(version), false, Ok(now)) = (version, known, now) {
                    watched.seen.push((version, now.as_secs_f64()));
                }
            }
            Err(error) => {
                eprintln!("{error:#}");
                watched.failed += 1;
                client = None;
            }
        }
    }
    watched
}

async fn ask(
    client: &mut Option<Client>,
    address: SocketAddr,
    path: &str,
) -> anyhow::Result<Option<u64>> {
    let client = match client {
        Some(client) => client,
        None => client.insert(Client::open(address, path).await?),
    };
    tokio::time::timeout(PATIENCE, client.ask()).await?
}

impl Watched {
    fn merge(&mut self, other: Watched) {
        self.done += other.done;
        self.failed += other.failed;
        for (version, at) in other.seen {
            match self.seen.iter_mut().find(|(known, _)| *known == version) {
                Some((_, first)) => *first = first.min(at),
                None => self.seen.push((version, at)),
            }
        }
    }
}

/// A connection that stays open, and the one request that it asks.
struct Client {
    stream: TcpStream,
    request: String,
    answer: Vec<u8>,
}

impl Client {
    async fn open(address: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream,
            request: format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n"),
            answer: Vec::new(),
        })
    }

    /// Asks, and gives the version that the answer names.
    async fn ask(&mut self) -> anyhow::Result<Option<u64>> {
        self.stream.write_all(self.request.as_bytes()).await?;
        self.answer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.answer).await?;
            anyhow::ensure!(read > 0, "closed before the answer");
            anyhow::ensure!(self.answer.len() < ANSWER_BYTES, "an answer too long");
            let length = whole_length(&self.answer)?;
            if length.is_some_and(|length| self.answer.len() >= length) {
                return Ok(version(&self.answer));
            }
        }
    }
}

fn version(answer: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, _) = text.split_once("\r\n\r\n")?;
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(name, _)| name.eq_ignore_ascii_case(VERSION_HEADER))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_the_head() {
        let answer = b"HTTP/1.1 200 OK\r\nX-Bench-Version: 12\r\n\r\nbody";
        assert_eq!(version(answer), Some(12));
        assert_eq!(version(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n"), None);
    }

    #[test]
    fn of_several_connections_the_first_sight_counts() {
        let seen = |seen: &[(u64, f64)]| Watched {
            done: 1,
            failed: 0,
            seen: seen.to_vec(),
        };
        let mut all = seen(&[(1, 5.0)]);
        all.merge(seen(&[(1, 4.0), (2, 6.0)]));
        assert_eq!((all.done, all.seen), (2, vec![(1, 4.0), (2, 6.0)]));
    }
}
