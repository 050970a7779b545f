//! Small messages there and back: what a bulk stream beside them does to their latency.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::MESSAGE_BYTES;
use super::samples::{Samples, Summary};

pub(super) async fn run(
    address: SocketAddr,
    flows: usize,
    length: Duration,
) -> anyhow::Result<Summary> {
    let mut streams = Vec::new();
    for _ in 0..flows {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for stream in streams {
        clients.spawn_local(client(stream, start + length));
    }
    let mut all = Samples::default();
    while let Some(samples) = clients.join_next().await {
        all.merge(samples?);
    }
    all.summary(start.elapsed())
}

async fn client(mut stream: TcpStream, end: Instant) -> Samples {
    let mut samples = Samples::default();
    let mut message = [7; MESSAGE_BYTES];
    while Instant::now() < end {
        let begun = Instant::now();
        let sent = stream.write_all(&message).await;
        if sent.is_err() || stream.read_exact(&mut message).await.is_err() {
            samples.fail();
            break;
        }
        samples.add(begun.elapsed());
    }
    samples
}
