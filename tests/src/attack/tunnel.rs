//! A tunnel made by hand: TCP, TLS by rustls, frames by us. Knows no attack.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::frames::{ACK, Frame, Frames, PREFACE, frame, kind, settings, status};
use super::{End, PATIENCE};

/// Bytes taken from TLS at once.
const READ_BYTES: usize = 16 * 1024;

/// How a tunnel is reached.
#[derive(Clone, Debug)]
pub struct Way {
    /// The tunnel's port of a pod.
    pub to: SocketAddr,
    /// What is shown, and which version is spoken.
    pub tls: Arc<ClientConfig>,
    /// Writes each byte alone, so that each is a segment.
    pub dripping: bool,
}

/// A TCP connection, that may write a byte at a time.
#[derive(Debug)]
pub struct Pipe {
    stream: TcpStream,
    dripping: bool,
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let most = if self.dripping { 1 } else { bytes.len() };
        let some = &bytes[..bytes.len().min(most)];
        Pin::new(&mut self.stream).poll_write(context, some)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Waits for it no longer than [`PATIENCE`].
pub async fn patiently<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, End> {
    match timeout(PATIENCE, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(End::Open),
    }
}

impl Way {
    /// TLS, to its end.
    pub async fn connect(&self) -> Result<TlsStream<Pipe>, End> {
        let stream = patiently(TcpStream::connect(self.to)).await?;
        stream.set_nodelay(true)?;
        let pipe = Pipe {
            stream,
            dripping: self.dripping,
        };
        let name = ServerName::from(self.to.ip());
        patiently(TlsConnector::from(Arc::clone(&self.tls)).connect(name, pipe)).await
    }
}

/// An HTTP/2 connection that may break every rule.
#[derive(Debug)]
pub struct Tunnel {
    /// What carries it.
    pub tls: TlsStream<Pipe>,
    frames: Frames,
    away: Option<u32>,
}

impl Tunnel {
    /// Makes one and sends the preface with these settings.
    pub async fn open(way: &Way, entries: &[(u16, u32)]) -> Result<Self, End> {
        let mut tunnel = Self {
            tls: way.connect().await?,
            frames: Frames::default(),
            away: None,
        };
        tunnel
            .send(&[PREFACE, &settings(entries)].concat())
            .await
            .map_err(End::from)?;
        Ok(tunnel)
    }

    /// Sends bytes, whatever they are.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let send = async {
            self.tls.write_all(bytes).await?;
            self.tls.flush().await
        };
        match timeout(PATIENCE, send).await {
            Ok(sent) => sent,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The next frame, after answering it as an honest peer would.
    pub async fn next(&mut self) -> Result<Frame, End> {
        loop {
            if let Some(frame) = self.frames.pop() {
                self.politely(&frame).await;
                return Ok(frame);
            }
            let mut buffer = vec![0; READ_BYTES];
            match patiently(self.tls.read(&mut buffer)).await {
                Ok(0) => return Err(self.end_of(End::Closed)),
                Ok(count) => self.frames.push(&buffer[..count]),
                Err(end) => return Err(self.end_of(end)),
            }
        }
    }

    /// Waits for the answer to a request: a status, or the code of its reset.
    pub async fn answer(&mut self) -> Result<(u32, Answer), End> {
        loop {
            let frame = self.next().await?;
            if let Some(answer) = Answer::of(&frame) {
                return Ok((frame.stream, answer));
            }
        }
    }

    /// Reads until the far side ends it, no longer than `within`.
    pub async fn end(mut self, within: Duration) -> End {
        let ended = timeout(within, async {
            loop {
                if let Err(end) = self.next().await {
                    return end;
                }
            }
        });
        ended.await.unwrap_or(End::Open)
    }

    async fn politely(&mut self, received: &Frame) {
        let code = |bytes: Option<&[u8]>| {
            let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(u32::MAX, u32::from_be_bytes)
        };
        let answer = match (received.kind, received.flags & ACK) {
            (kind::SETTINGS, 0) => frame(kind::SETTINGS, ACK, 0, &[]),
            (kind::PING, 0) => frame(kind::PING, ACK, 0, &received.payload),
            (kind::GOAWAY, _) => {
                self.away = Some(code(received.payload.get(4..8)));
                return;
            }
            _ => return,
        };
        // Should that fail, the next read says why.
        let _ = self.send(&answer).await;
    }

    fn end_of(&self, end: End) -> End {
        match (self.away, end) {
            (_, End::Open) => End::Open,
            (Some(code), _) => End::GoAway(code),
            (None, end) => end,
        }
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A response.
    Status(u16),
    /// RST_STREAM before one.
    Reset(u32),
}

impl Answer {
    /// What a frame answers, if it does.
    pub fn of(frame: &Frame) -> Option<Self> {
        match frame.kind {
            kind::HEADERS => Some(Answer::Status(status(&frame.payload).unwrap_or(0))),
            kind::RST_STREAM => {
                let code = frame.payload.get(..4)?.try_into().ok()?;
                Some(Answer::Reset(u32::from_be_bytes(code)))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Status(status) => write!(f, "{status}"),
            Answer::Reset(code) => write!(f, "RST_STREAM {}", super::end::code_name(*code)),
        }
    }
}
