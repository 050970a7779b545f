//! One end of a relayed connection: a TCP socket or a stream of a tunnel, with the same verbs.
//!
//! Knows no counts and no policy.

use std::io;
use std::rc::Rc;

use hbone::{ErrorCode, FRAME_HEADROOM};
use netio::TcpStream;

use super::EndError;
use super::buffer::{Buffers, Size};
use crate::limits::BUFFER_LARGE_BYTES;
use crate::tunnel::stream::TunnelStream;

/// One end. Clones are the same end.
#[derive(Clone)]
pub enum End {
    /// An application, or a plain TCP peer.
    Tcp(Rc<TcpStream>),
    /// A stream of a tunnel.
    Stream(Rc<TunnelStream>),
}

/// Bytes on their way, with what stands before them.
pub struct Chunk {
    buffer: Vec<u8>,
    /// Bytes at the beginning that are no payload: room for a frame's head.
    headroom: usize,
}

impl Chunk {
    /// Payload in bytes; never 0.
    pub fn bytes(&self) -> usize {
        self.buffer.len() - self.headroom
    }
}

impl End {
    /// Waits, without a buffer, until a socket has something to read. A stream's bytes are in its
    /// tunnel's memory already.
    ///
    /// # Errors
    /// It is broken.
    pub async fn ready(&self) -> Result<(), EndError> {
        match self {
            Self::Tcp(socket) => Ok(socket.readable().await?),
            Self::Stream(_) => Ok(()),
        }
    }

    /// Waits until it takes bytes, and says how many at most.
    ///
    /// # Errors
    /// It is broken. A TCP socket shows that at the write.
    pub async fn room(&self) -> Result<usize, EndError> {
        match self {
            Self::Tcp(_) => Ok(BUFFER_LARGE_BYTES),
            Self::Stream(stream) => Ok(stream.room().await?),
        }
    }

    /// Waits for bytes, about `size` of them from a socket, and shapes them for `to`. None after
    /// the last one.
    ///
    /// # Errors
    /// It is broken.
    pub async fn read(
        &self,
        to: &Self,
        size: Size,
        buffers: &Buffers,
    ) -> Result<Option<Chunk>, EndError> {
        match self {
            Self::Tcp(socket) => {
                let (outcome, chunk) = read_tcp(socket, to.empty(size, buffers)).await;
                match outcome {
                    Ok(1..) => Ok(Some(chunk)),
                    outcome => {
                        buffers.give(chunk.buffer);
                        Ok(outcome.map(|_| None)?)
                    }
                }
            }
            Self::Stream(stream) => {
                let data = stream.read().await?;
                let chunk = |buffer| {
                    Chunk {
                        buffer,
                        headroom: 0,
                    }
                    .shaped(to.headroom())
                };
                Ok(data.map(chunk))
            }
        }
    }

    /// Hands bytes over, and says what memory they came in; back when the kernel or the tunnel has
    /// taken them all.
    ///
    /// # Errors
    /// It is broken.
    pub async fn write(&self, chunk: Chunk) -> Result<Option<Vec<u8>>, EndError> {
        match self {
            Self::Tcp(socket) => {
                let (outcome, buffer) = socket.write_all(chunk.buffer).await;
                outcome?;
                Ok(Some(buffer))
            }
            // It keeps the memory until the bytes are sealed, and then for its own use.
            Self::Stream(stream) => {
                stream.write(chunk.buffer)?;
                Ok(None)
            }
        }
    }

    /// Takes back the memory of what was read here.
    pub fn recycle(&self, buffer: Vec<u8>, buffers: &Buffers) {
        match self {
            Self::Tcp(_) => buffers.give(buffer),
            Self::Stream(stream) => stream.recycle(buffer),
        }
    }

    /// The other end took bytes that were read here.
    pub fn taken(&self, bytes: usize) {
        if let Self::Stream(stream) = self {
            stream.consumed(bytes);
        }
    }

    /// Half-close: no bytes follow.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn finish(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.shutdown_write(),
            Self::Stream(stream) => {
                stream.finish();
                Ok(())
            }
        }
    }

    /// Ends both directions now and says so to the peer; whoever waits on it comes back.
    pub fn reset(&self) {
        match self {
            Self::Tcp(socket) => abort(socket),
            Self::Stream(stream) => stream.reset(ErrorCode::CANCEL),
        }
    }

    fn headroom(&self) -> usize {
        match self {
            Self::Tcp(_) => 0,
            Self::Stream(_) => FRAME_HEADROOM,
        }
    }

    /// Memory for bytes that will be written here.
    fn empty(&self, size: Size, buffers: &Buffers) -> Chunk {
        let mut buffer = match self {
            Self::Stream(stream) if size == Size::Large => stream.spare_buffer(size),
            _ => buffers.take(size),
        };
        buffer.resize(self.headroom(), 0);
        Chunk {
            buffer,
            headroom: self.headroom(),
        }
    }
}

impl Chunk {
    /// With that much headroom. Only a stream that feeds a stream copies here.
    fn shaped(self, headroom: usize) -> Self {
        if self.headroom == headroom {
            return self;
        }
        let payload = &self.buffer[self.headroom..];
        let mut buffer = Vec::with_capacity(headroom + payload.len());
        buffer.resize(headroom, 0);
        buffer.extend_from_slice(payload);
        Self { buffer, headroom }
    }
}

/// Resets a socket now. One that cannot even be reset is gone already.
pub fn abort(socket: &TcpStream) {
    let _ = socket.reset();
}

async fn read_tcp(socket: &TcpStream, chunk: Chunk) -> (io::Result<usize>, Chunk) {
    let headroom = chunk.headroom;
    let (outcome, buffer) = socket.read(chunk.buffer).await;
    (outcome, Chunk { buffer, headroom })
}
