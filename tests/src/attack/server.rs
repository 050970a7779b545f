//! Servers in attacked pods: one that echoes, one that sends all that is taken.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Connections waiting for accept.
const BACKLOG: i32 = 4096;
/// Send buffer of each pouring connection: the kernel's memory is not what is attacked.
const SEND_BUFFER_BYTES: usize = 16 * 1024;
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(10);

/// Ports that pour: a client of 10,000 streams to one port would run out of source ports.
pub const POUR_PORTS: u16 = 4;

/// What the servers do.
#[derive(Clone, Copy, Debug)]
pub struct Servers {
    /// Echoes here, on all addresses of both families.
    pub echo: u16,
    /// Pours here and on the next [`POUR_PORTS`] - 1 ports.
    pub pour: u16,
    /// Bytes that one connection pours at most.
    pub pour_bytes: usize,
}

/// Serves until it is dropped; prints `listening` when it does.
pub async fn serve(servers: Servers) -> io::Result<()> {
    let mut loops = JoinSet::new();
    let echo = listen(servers.echo)?;
    loops.spawn(accept(echo, send_back));
    for port in servers.pour..servers.pour + POUR_PORTS {
        let pour = move |stream| send_all(stream, servers.pour_bytes);
        loops.spawn(accept(listen(port)?, pour));
    }
    println!("listening");
    loops.join_all().await;
    Ok(())
}

async fn accept<W>(listener: TcpListener, serve: impl Fn(TcpStream) -> W)
where
    W: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream));
            }
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What goes wrong is the client's to count.
async fn send_back(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn send_all(mut stream: TcpStream, most: usize) {
    const CHUNK: [u8; 4096] = [b'~'; 4096];
    let _ = socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES);
    let mut left = most;
    while left > 0 {
        let piece = &CHUNK[..left.min(CHUNK.len())];
        if stream.write_all(piece).await.is_err() {
            return;
        }
        left -= piece.len();
    }
    // Held until the other side lets go.
    let _ = stream.read(&mut [0]).await;
}
