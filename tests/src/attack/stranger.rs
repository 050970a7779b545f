//! Peers without a certificate: they come in numbers and do not finish the handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::tunnel::{Way, patiently};
use super::{End, PATIENCE, Report};
use crate::stranger::tls;

/// Connects in flight: the far side's listener holds more.
const AT_ONCE: usize = 256;
/// Between two bytes of a handshake that drips.
const DRIP: Duration = Duration::from_millis(250);
/// Random bytes instead of a handshake.
const GARBAGE_BYTES: usize = 4096;

/// What a stranger does after TCP's handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Nothing.
    Silent,
    /// Half of a ClientHello, and nothing more.
    Half,
    /// A ClientHello, four bytes in a second.
    Drip,
    /// Random bytes.
    Garbage,
    /// A request in plaintext.
    Http,
    /// TLS 1.2, by the book.
    Tls12,
    /// TLS 1.3 without a certificate, by the book.
    Nobody,
}

/// What is done how often.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// The tunnel's port of a pod.
    pub to: SocketAddr,
    /// What each does.
    pub kind: Kind,
    /// How many there are, all at the same time.
    pub count: u64,
}

/// Connects all, and waits until the far side has ended each.
pub async fn run(crowd: Crowd) -> anyhow::Result<Report> {
    let start = Instant::now();
    let gate = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let configs = [
        tls::client_of(None, &rustls::version::TLS12)?,
        tls::client(None)?,
    ];
    let mut strangers = JoinSet::new();
    for number in 0..crowd.count {
        let (gate, configs) = (Arc::clone(&gate), configs.clone());
        strangers.spawn(async move {
            // Never closed.
            let permit = gate.acquire_owned().await.ok();
            let stream = patiently(TcpStream::connect(crowd.to)).await;
            drop(permit);
            match stream {
                Ok(stream) => one(crowd, stream, number, &configs).await,
                Err(end) => (0, end),
            }
        });
    }
    let mut report = Report {
        connections: crowd.count,
        ..Report::default()
    };
    for (sent, end) in strangers.join_all().await {
        report.sent += sent;
        report.ended(&end);
    }
    Ok(report.took(start))
}

async fn one(
    crowd: Crowd,
    mut stream: TcpStream,
    number: u64,
    configs: &[Arc<ClientConfig>; 2],
) -> (u64, End) {
    let [old, new] = configs;
    let hello = hello();
    let bytes = match crowd.kind {
        Kind::Silent | Kind::Drip => Vec::new(),
        Kind::Half => hello[..hello.len() / 2].to_vec(),
        Kind::Garbage => {
            let mut bytes = vec![0; GARBAGE_BYTES];
            SmallRng::seed_from_u64(number).fill_bytes(&mut bytes);
            bytes
        }
        Kind::Http => b"GET / HTTP/1.1\r\nhost: pod\r\n\r\n".to_vec(),
        Kind::Tls12 => return (1, by_the_book(crowd.to, old).await),
        Kind::Nobody => return (1, by_the_book(crowd.to, new).await),
    };
    // Should it fail, reading says how it ended.
    let _ = stream.write_all(&bytes).await;
    if crowd.kind == Kind::Drip {
        return drip(stream, &hello).await;
    }
    (bytes.len() as u64, end_of(&mut stream, PATIENCE).await)
}

/// A handshake to its end; how it ends after that, should it come through.
async fn by_the_book(to: SocketAddr, config: &Arc<ClientConfig>) -> End {
    let way = Way {
        to,
        tls: Arc::clone(config),
        dripping: false,
    };
    match super::tunnel::Tunnel::open(&way, &[]).await {
        // A client of TLS 1.3 is done before the server has looked at its certificate.
        Ok(tunnel) => tunnel.end(PATIENCE).await,
        Err(end) => end,
    }
}

async fn drip(mut stream: TcpStream, hello: &[u8]) -> (u64, End) {
    let start = Instant::now();
    let mut sent = 0;
    for byte in hello {
        if start.elapsed() > PATIENCE || stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        sent += 1;
        match end_of(&mut stream, DRIP).await {
            End::Open => {}
            end => return (sent, end),
        }
    }
    (sent, end_of(&mut stream, Duration::ZERO).await)
}

async fn end_of(stream: &mut TcpStream, within: Duration) -> End {
    let ended = timeout(within, async {
        let mut buffer = [0; 1024];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => return End::Closed,
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
    });
    ended.await.unwrap_or(End::Open)
}

/// A ClientHello of TLS 1.3 in its record.
pub fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    let name = ServerName::try_from("pod").map(|name| name.to_owned());
    let client = tls::client(None)
        .ok()
        .zip(name.ok())
        .and_then(|(config, name)| ClientConnection::new(config, name).ok());
    if let Some(mut client) = client {
        // Into memory: never fails.
        let _ = client.write_tls(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_one_whole_handshake_record() {
        let bytes = hello();
        let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        assert_eq!((bytes[0], length + 5), (22, bytes.len()));
    }
}
