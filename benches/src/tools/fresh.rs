//! A connection for each request: from `connect` to the server's end of the connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::http_client;
use super::samples::{Samples, Summary};

/// Longer than any connection of a working path takes; then it has failed.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(
    address: SocketAddr,
    connections: usize,
    length: Duration,
) -> anyhow::Result<Summary> {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn_local(client(address, start + length));
    }
    let mut all = Samples::default();
    while let Some(samples) = clients.join_next().await {
        all.merge(samples?);
    }
    all.summary(start.elapsed())
}

async fn client(address: SocketAddr, end: Instant) -> Samples {
    let mut samples = Samples::default();
    let mut buffer = Vec::with_capacity(4 << 10);
    while Instant::now() < end {
        let begun = Instant::now();
        match tokio::time::timeout(PATIENCE, one(address, &mut buffer)).await {
            Ok(Ok(())) => samples.add(begun.elapsed()),
            Ok(Err(_)) | Err(_) => samples.fail(),
        }
    }
    samples
}

async fn one(address: SocketAddr, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    http_client::ask_and_close(&mut stream, buffer).await
}
