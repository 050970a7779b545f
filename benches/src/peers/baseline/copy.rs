//! Bytes between a TCP socket and a stream of a tunnel, one direction a call.

use std::future::poll_fn;
use std::sync::Arc;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::telemetry::Connection;

/// From so many carried bytes on, one read has that size: small connections stay small.
const STEPS: [(usize, usize); 3] = [(0, 4 << 10), (64 << 10, 16 << 10), (1 << 20, 256 << 10)];

/// From the socket into the tunnel until the socket's end.
pub(super) async fn into_tunnel(
    mut from: OwnedReadHalf,
    mut to: SendStream<Bytes>,
    connection: Arc<Connection>,
) -> anyhow::Result<()> {
    let mut buffer = BytesMut::new();
    let mut carried = 0;
    loop {
        buffer.reserve(read_size(carried));
        let read = from.read_buf(&mut buffer).await?;
        if read == 0 {
            to.send_data(Bytes::new(), true)?;
            return Ok(());
        }
        carried += read;
        connection.sent(read);
        let mut data = buffer.split().freeze();
        while !data.is_empty() {
            to.reserve_capacity(data.len());
            let room = poll_fn(|cx| to.poll_capacity(cx)).await;
            let room = room.context("the stream has ended")??;
            to.send_data(data.split_to(room.min(data.len())), false)?;
        }
    }
}

/// From the tunnel into the socket until the stream's end.
pub(super) async fn from_tunnel(
    mut from: RecvStream,
    mut to: OwnedWriteHalf,
    connection: Arc<Connection>,
) -> anyhow::Result<()> {
    while let Some(data) = from.data().await {
        let data = data?;
        to.write_all(&data).await?;
        connection.received(data.len());
        // Credit only for what the application's socket took.
        from.flow_control().release_capacity(data.len())?;
    }
    to.shutdown().await?;
    Ok(())
}

fn read_size(carried: usize) -> usize {
    let step = STEPS.iter().rev().find(|(from, _)| carried >= *from);
    step.map_or(STEPS[0].1, |(_, bytes)| *bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grow_with_what_a_connection_has_carried() {
        assert_eq!(read_size(0), 4 << 10);
        assert_eq!(read_size(64 << 10), 16 << 10);
        assert_eq!(read_size(usize::MAX), 256 << 10);
    }
}
