//! A server that sends back what it gets, on several ports.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::task::TaskTracker;

/// One read; held only while bytes are in flight, so that idle connections cost the server little.
const READ_BYTES: usize = 64 << 10;
/// Connections that wait to be accepted: the memory axis opens them in bursts.
const BACKLOG: u32 = 4096;

/// Serves until the process is ended.
///
/// # Errors
/// When an address cannot be bound.
pub fn serve(addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let tasks = TaskTracker::new();
        for address in addresses {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(*address)?;
            tasks.spawn_local(accept(socket.listen(BACKLOG)?, tasks.clone()));
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    })
}

async fn accept(listener: TcpListener, tasks: TaskTracker) {
    while let Ok((stream, _)) = listener.accept().await {
        tasks.spawn_local(echo(stream));
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        stream.readable().await?;
        let mut buffer = Vec::with_capacity(READ_BYTES);
        match stream.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => stream.write_all(&buffer).await?,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}
