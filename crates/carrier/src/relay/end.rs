//! One end of a relayed connection: a TCP socket or a stream of a tunnel, with the same verbs.
//!
//! Knows no counts and no policy.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hbone::{ErrorCode, FRAME_HEADROOM};
use netio::TcpStream;

use super::EndError;
use super::buffer::{Buffers, Size, WorkerPipe};
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

/// Where bytes are on their way.
enum Load {
    Memory(Vec<u8>),
    /// Between two sockets, in the kernel.
    Piped(Box<WorkerPipe>),
}

impl Default for Load {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

/// Bytes on their way.
#[derive(Default)]
pub struct Chunk {
    load: Load,
    /// Bytes at the beginning that are no payload: room for a frame's head.
    headroom: u16,
    /// The socket had no room for the rest at the last call.
    blocked: bool,
    /// Bytes of the payload that were written already.
    written: u32,
}

impl Chunk {
    fn new(buffer: Vec<u8>, headroom: usize) -> Self {
        Self {
            load: Load::Memory(buffer),
            headroom: u16::try_from(headroom).expect("the head of a frame is small"),
            blocked: false,
            written: 0,
        }
    }

    fn piped(pipe: Box<WorkerPipe>) -> Self {
        Self {
            load: Load::Piped(pipe),
            ..Self::default()
        }
    }

    /// Payload in bytes; never 0.
    pub fn bytes(&self) -> usize {
        match &self.load {
            Load::Memory(buffer) => buffer.len() - usize::from(self.headroom),
            Load::Piped(pipe) => self.written as usize + pipe.pipe.held_bytes(),
        }
    }

    /// Its memory. A pipe has none, and goes from a socket to a socket alone.
    fn into_memory(self) -> Vec<u8> {
        match self.load {
            Load::Memory(buffer) => buffer,
            Load::Piped(_) => unreachable!("a stream's end has no pipes"),
        }
    }

    /// Writes what is left of it, as far as the socket has room.
    fn write_to(&mut self, socket: &TcpStream) -> io::Result<usize> {
        match &mut self.load {
            Load::Memory(buffer) => {
                let from = usize::from(self.headroom) + self.written as usize;
                socket.try_write(&buffer[from..])
            }
            Load::Piped(pipe) => socket.try_splice_out(&mut pipe.pipe),
        }
    }

    /// With that much headroom. Only a stream that feeds a stream copies here.
    fn shaped(self, headroom: usize) -> Self {
        if usize::from(self.headroom) == headroom {
            return self;
        }
        let from = usize::from(self.headroom);
        let memory = self.into_memory();
        let payload = &memory[from..];
        let mut buffer = Vec::with_capacity(headroom + payload.len());
        buffer.resize(headroom, 0);
        buffer.extend_from_slice(payload);
        Self::new(buffer, headroom)
    }
}

impl End {
    /// Waits, without a buffer, until [`End::take`] is worth a call.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(socket) => socket.poll_readable(cx),
            Self::Stream(stream) => stream.poll_ready(cx),
        }
    }

    /// Waits until it takes bytes, and says how many at most.
    ///
    /// # Errors
    /// It is broken. A TCP socket shows that at the write.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<usize, EndError>> {
        match self {
            Self::Tcp(_) => Poll::Ready(Ok(BUFFER_LARGE_BYTES)),
            Self::Stream(stream) => stream.poll_room(cx).map_err(EndError::from),
        }
    }

    /// Takes what is there, at most `room` bytes of it from a socket and in a buffer of `size`, and
    /// shapes it for `to`. None after the last byte.
    ///
    /// # Errors
    /// It is broken; or, as a socket's `WouldBlock`, nothing is there after all.
    pub fn take(
        &self,
        to: &Self,
        (size, room): (Size, usize),
        buffers: &Buffers,
    ) -> Result<Option<Chunk>, EndError> {
        match self {
            Self::Tcp(socket) => {
                if size == Size::Large
                    && let Some(chunk) = self.take_piped(to, room, buffers)?
                {
                    return Ok(Some(chunk));
                }
                let mut buffer = to.empty(size, buffers);
                match socket.try_read_at_most(&mut buffer, room) {
                    Ok(1..) => Ok(Some(Chunk::new(buffer, to.headroom()))),
                    outcome => {
                        to.recycle(Chunk::new(buffer, 0), buffers);
                        Ok(outcome.map(|_| None)?)
                    }
                }
            }
            Self::Stream(stream) => match stream.take()? {
                Some(data) => Ok(Some(Chunk::new(data, 0).shaped(to.headroom()))),
                None if stream.is_finished() => Ok(None),
                None => Err(io::Error::from(io::ErrorKind::WouldBlock).into()),
            },
        }
    }

    /// Takes bulk between two sockets into a pipe. None where that cannot be, and at the end.
    fn take_piped(
        &self,
        to: &Self,
        room: usize,
        buffers: &Buffers,
    ) -> Result<Option<Chunk>, EndError> {
        let (Self::Tcp(socket), Self::Tcp(sink)) = (self, to) else {
            return Ok(None);
        };
        if !socket.can_splice() || !sink.can_splice() {
            return Ok(None);
        }
        let Some(mut pipe) = buffers.take_pipe() else {
            return Ok(None);
        };
        match socket.try_splice_in(&mut pipe.pipe, room) {
            Ok(1..) => Ok(Some(Chunk::piped(pipe))),
            outcome => {
                buffers.give_pipe(pipe);
                Ok(outcome.map(|_| None)?)
            }
        }
    }

    /// Hands the bytes of a chunk over and says how many they were: ready when the kernel or the
    /// tunnel has taken them all.
    ///
    /// # Errors
    /// It is broken.
    pub fn poll_write(&self, cx: &Context<'_>, chunk: &mut Chunk) -> Poll<Result<usize, EndError>> {
        let bytes = chunk.bytes();
        match self {
            Self::Tcp(socket) => {
                while (chunk.written as usize) < bytes {
                    if chunk.blocked {
                        ready!(socket.poll_writable(cx));
                        chunk.blocked = false;
                    }
                    match chunk.write_to(socket) {
                        Ok(count) => {
                            chunk.written += u32::try_from(count).unwrap_or(u32::MAX);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            chunk.blocked = true;
                        }
                        Err(error) => return Poll::Ready(Err(error.into())),
                    }
                }
                Poll::Ready(Ok(bytes))
            }
            // It keeps the memory until the bytes are sealed, and then for its own use.
            Self::Stream(stream) => {
                let buffer = std::mem::take(chunk).into_memory();
                Poll::Ready(stream.write(buffer).map(|()| bytes).map_err(EndError::from))
            }
        }
    }

    /// Takes back the memory of what was taken here, if there is any.
    pub fn recycle(&self, chunk: Chunk, buffers: &Buffers) {
        match (self, chunk.load) {
            (_, Load::Memory(buffer)) if buffer.capacity() == 0 => {}
            (Self::Tcp(_), Load::Memory(buffer)) => buffers.give(buffer),
            (Self::Stream(stream), Load::Memory(buffer)) => stream.recycle(buffer),
            (_, Load::Piped(pipe)) => buffers.give_pipe(pipe),
        }
    }

    /// The other end took bytes that were read here.
    pub fn taken(&self, bytes: usize) {
        if let Self::Stream(stream) = self {
            stream.consumed(bytes);
        }
    }

    /// From now on a socket that ends without [`End::finish`] ends with RST, also when the process
    /// is killed: what was cut off must not look whole to a protocol without a length of its own.
    pub fn guard(&self) {
        if let Self::Tcp(socket) = self {
            // Of a socket that is broken already there is nothing to guard.
            let _ = socket.set_reset_on_close();
        }
    }

    /// Half-close: no bytes follow.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn finish(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => {
                // All is written: from here on the kernel sends it, whatever becomes of us.
                socket.clear_reset_on_close()?;
                socket.shutdown_write()
            }
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

    /// Memory for bytes that will be written here, with the headroom.
    fn empty(&self, size: Size, buffers: &Buffers) -> Vec<u8> {
        let mut buffer = match self {
            Self::Stream(stream) => stream.spare_buffer(size),
            Self::Tcp(_) => buffers.take(size),
        };
        buffer.resize(self.headroom(), 0);
        buffer
    }
}

/// Resets a socket now. One that cannot even be reset is gone already.
pub fn abort(socket: &TcpStream) {
    let _ = socket.reset();
}
