//! Connections that are only held: what an idle one costs, and one that has carried something.
//!
//! Prints `open` when all are there and `carried` after a SIGUSR1 made each carry its bytes; then
//! it holds them until it is ended.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Opened, or carrying, at the same time: a burst of all would measure the backlogs.
const AT_ONCE: usize = 32;
/// What each carries to the server, and back.
const CARRIED_BYTES: usize = 200 << 10;
/// Longer than any of it takes on a working path.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn run(addresses: &[SocketAddr], connections: usize) -> anyhow::Result<()> {
    let mut carry = signal(SignalKind::user_defined1())?;
    let open = in_turns((0..connections).map(|index| {
        let address = addresses[index % addresses.len()];
        async move { open(address).await }
    }));
    let mut streams = open.await.context("open")?;
    println!("open");
    while carry.recv().await.is_some() {
        streams = in_turns(streams.into_iter().map(carried)).await?;
        println!("carried");
    }
    Ok(())
}

/// One byte there and back: the whole way is there.
async fn open(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"?").await?;
    stream.read_exact(&mut [0]).await?;
    Ok(stream)
}

async fn carried(mut stream: TcpStream) -> anyhow::Result<TcpStream> {
    let (mut read, mut write) = stream.split();
    let send = async {
        write.write_all(&vec![7; CARRIED_BYTES]).await?;
        anyhow::Ok(())
    };
    let receive = async {
        let mut left = CARRIED_BYTES;
        let mut buffer = vec![0; 64 << 10];
        while left > 0 {
            let read = read.read(&mut buffer).await?;
            anyhow::ensure!(read > 0, "closed while carrying");
            left -= read;
        }
        Ok(())
    };
    tokio::try_join!(send, receive)?;
    Ok(stream)
}

/// All of them, a few at the same time.
async fn in_turns<T: 'static>(
    work: impl Iterator<Item = impl Future<Output = anyhow::Result<T>> + 'static>,
) -> anyhow::Result<Vec<T>> {
    let mut work = work.map(|one| tokio::time::timeout(PATIENCE, one));
    let mut running = JoinSet::new();
    for one in work.by_ref().take(AT_ONCE) {
        running.spawn_local(one);
    }
    let mut done = Vec::new();
    while let Some(one) = running.join_next().await {
        done.push(one?.context("it takes too long")??);
        if let Some(next) = work.next() {
            running.spawn_local(next);
        }
    }
    Ok(done)
}
