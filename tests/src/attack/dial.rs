//! Plain connections of a pod's application, with whatever socket options it may set.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{End, PATIENCE, Report};

/// Sent after the connect; an echo server sends it back.
const QUESTION: &[u8] = b"who are you?";

/// What is dialled, and how.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Each once.
    pub to: Vec<SocketAddr>,
    /// At the same time.
    pub lanes: usize,
    /// SO_MARK.
    pub mark: Option<u32>,
    /// Bound before the connect, with IP_TRANSPARENT.
    pub from: Option<IpAddr>,
    /// SO_BINDTODEVICE.
    pub device: Option<String>,
    /// An answer must come, or the end, within this.
    pub within: Duration,
}

/// Dials all; `answers` says what came of each: `echoed`, `spoke` (other bytes), or how it ended.
/// Prints `from ADDRESS` for each connection that was made.
pub async fn run(dial: Dial) -> Report {
    let start = Instant::now();
    let queue = Arc::new(std::sync::Mutex::new(VecDeque::from(dial.to.clone())));
    let dial = Arc::new(dial);
    let mut lanes = JoinSet::new();
    for _ in 0..dial.lanes {
        let (dial, queue) = (Arc::clone(&dial), Arc::clone(&queue));
        lanes.spawn(async move {
            let mut report = Report::default();
            loop {
                let next = queue.lock().ok().and_then(|mut queue| queue.pop_front());
                let Some(to) = next else { return report };
                report.connections += 1;
                report.answered(one(&dial, to).await);
            }
        });
    }
    let mut report = Report::default();
    for lane in lanes.join_all().await {
        report.add(lane);
    }
    report.took(start)
}

async fn one(dial: &Dial, to: SocketAddr) -> String {
    let socket = match socket(dial, to) {
        Ok(socket) => socket,
        Err(error) => return format!("no socket: {error}"),
    };
    let stream = match timeout(dial.within.min(PATIENCE), socket.connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return End::from(error).to_string(),
        Err(_) => return "no answer to SYN".to_owned(),
    };
    if let Ok(local) = stream.local_addr() {
        println!("from {local}");
    }
    match timeout(dial.within, exchange(stream)).await {
        Ok(Ok(answer)) if answer == QUESTION => "echoed".to_owned(),
        Ok(Ok(answer)) if answer.is_empty() => End::Closed.to_string(),
        Ok(Ok(_)) => "spoke".to_owned(),
        Ok(Err(error)) => End::from(error).to_string(),
        Err(_) => "silent".to_owned(),
    }
}

async fn exchange(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    // A reset may come before; reading says so too.
    let _ = stream.write_all(QUESTION).await;
    let mut answer = vec![0; 256];
    let count = stream.read(&mut answer).await?;
    answer.truncate(count);
    Ok(answer)
}

fn socket(dial: &Dial, to: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = dial.mark {
        socket.set_mark(mark)?;
    }
    if let Some(device) = &dial.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(from) = dial.from {
        if from.is_ipv4() {
            socket.set_ip_transparent_v4(true)?;
        } else {
            socket.set_ip_transparent_v6(true)?;
        }
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}
