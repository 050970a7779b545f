//! A stream of a tunnel, or a TCP socket, as hyper reads and writes it. Knows no HTTP.
//!
//! Bytes are copied once each way: hyper owns its buffers. What came is taken whole (up to 256 KB
//! of a socket) and given out in pieces; the peer gets window credit for what hyper took.

use std::cmp::min;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use carrier::limits::BUFFER_LARGE_BYTES;
use carrier::relay::End;
use carrier::relay::buffer::{Appetite, Buffers, Size};
use carrier::tunnel::stream::{StreamError, TunnelStream};
use hbone::FRAME_HEADROOM;
use hyper::rt::{Read, ReadBufCursor, Write};
use netio::TcpStream;

use crate::places::Place;

/// Both directions of one stream. An idle one holds no buffer. Dropped before both directions have
/// ended, a stream of a tunnel is reset and a socket closed.
pub struct Wire {
    end: End,
    buffers: Rc<Buffers>,
    /// What came and was not given out yet, from `at` on.
    held: Vec<u8>,
    at: usize,
    /// Whether a socket had no room at the last write.
    blocked: bool,
    /// Whether the reader was told that nothing follows.
    is_end_told: bool,
    /// Of the next read of a socket.
    appetite: Appetite,
    /// Free again when this is dropped.
    place: Option<Place>,
}

impl Wire {
    /// On that end; its buffers are the worker's.
    #[must_use]
    pub fn new(end: End, buffers: Rc<Buffers>) -> Self {
        Self {
            end,
            buffers,
            held: Vec::new(),
            at: 0,
            blocked: false,
            is_end_told: false,
            appetite: Appetite::default(),
            place: None,
        }
    }

    /// The same, which takes a place while it lives.
    #[must_use]
    pub fn holding(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// The end, and what came and was not given out.
    #[must_use]
    pub fn into_parts(mut self) -> (End, Vec<u8>) {
        self.held.drain(..self.at);
        (self.end, self.held)
    }

    /// The end.
    #[must_use]
    pub fn end(&self) -> &End {
        &self.end
    }

    /// What came and was not given out.
    #[must_use]
    pub fn held(&self) -> &[u8] {
        &self.held[self.at..]
    }

    /// Waits for bytes behind those that are held; false after the last one. A bound on what is
    /// held is the caller's, and the window's.
    ///
    /// # Errors
    /// The end is broken.
    pub fn poll_more(&mut self, cx: &Context<'_>) -> Poll<io::Result<bool>> {
        let more = match &self.end {
            End::Stream(stream) => fill_from_stream(stream, cx),
            End::Tcp(socket) => fill_from_socket(socket, cx, &mut self.appetite, &self.buffers),
        };
        let Some(data) = ready!(more)? else {
            return Poll::Ready(Ok(false));
        };
        if self.held().is_empty() {
            (self.held, self.at) = (data, 0);
        } else {
            self.held.extend_from_slice(&data);
        }
        Poll::Ready(Ok(true))
    }

    /// Waits for bytes; false after the last one.
    fn poll_fill(&mut self, cx: &Context<'_>) -> Poll<io::Result<bool>> {
        while self.at == self.held.len() {
            let more = match &self.end {
                End::Stream(stream) => fill_from_stream(stream, cx),
                End::Tcp(socket) => fill_from_socket(socket, cx, &mut self.appetite, &self.buffers),
            };
            match ready!(more)? {
                Some(data) => (self.held, self.at) = (data, 0),
                None => return Poll::Ready(Ok(false)),
            }
        }
        Poll::Ready(Ok(true))
    }

    fn recycle(&mut self) {
        let memory = std::mem::take(&mut self.held);
        self.at = 0;
        match &self.end {
            End::Stream(stream) => stream.recycle(memory),
            End::Tcp(_) => self.buffers.give(memory),
        }
    }
}

/// None after the last byte.
fn fill_from_stream(stream: &TunnelStream, cx: &Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
    loop {
        match stream.take() {
            Ok(Some(data)) => return Poll::Ready(Ok(Some(data))),
            Ok(None) if stream.is_finished() => return Poll::Ready(Ok(None)),
            Ok(None) => ready!(stream.poll_ready(cx)),
            Err(error) => return Poll::Ready(Err(broken(error))),
        }
    }
}

/// None after the last byte.
fn fill_from_socket(
    socket: &TcpStream,
    cx: &Context<'_>,
    appetite: &mut Appetite,
    buffers: &Buffers,
) -> Poll<io::Result<Option<Vec<u8>>>> {
    loop {
        ready!(socket.poll_readable(cx));
        let mut buffer = buffers.take(appetite.size());
        let room = buffer.capacity();
        match socket.try_read(&mut buffer) {
            Ok(count) => {
                appetite.note(count, room);
                return Poll::Ready(Ok((count > 0).then_some(buffer)));
            }
            Err(error) => {
                buffers.give(buffer);
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

fn broken(error: StreamError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !ready!(self.poll_fill(cx))? {
            self.is_end_told = true;
            return Poll::Ready(Ok(()));
        }
        let count = min(buffer.remaining(), self.held.len() - self.at);
        buffer.put_slice(&self.held[self.at..self.at + count]);
        self.at += count;
        self.end.taken(count);
        if self.at == self.held.len() {
            self.recycle();
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match &this.end {
            End::Stream(stream) => write_to_stream(stream, cx, pieces),
            End::Tcp(socket) => loop {
                if this.blocked {
                    ready!(socket.poll_writable(cx));
                    this.blocked = false;
                }
                let piece = pieces.iter().find(|piece| !piece.is_empty());
                match socket.try_write(piece.map_or(&[], |piece| &**piece)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => this.blocked = true,
                    outcome => return Poll::Ready(outcome),
                }
            },
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.end, End::Stream(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A tunnel sends what was written after all tasks that are ready now have run. Nobody reads
        // behind the end of a stream, so that it is told here when the other direction breaks.
        if self.is_end_told
            && let End::Stream(stream) = &self.end
            && let Poll::Ready(error) = stream.poll_reset(cx)
        {
            return Poll::Ready(Err(broken(error)));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.end.finish())
    }
}

/// One frame of all pieces, as far as there is room.
fn write_to_stream(
    stream: &TunnelStream,
    cx: &Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let all: usize = pieces.iter().map(|piece| piece.len()).sum();
    if all == 0 {
        return Poll::Ready(Ok(0));
    }
    let room = ready!(stream.poll_room(cx)).map_err(broken)?;
    let bytes = min(all, min(room, BUFFER_LARGE_BYTES - FRAME_HEADROOM));
    let sizes = [Size::Small, Size::Middle];
    let size = sizes.into_iter().find(|size| bytes <= size.bytes());
    let mut frame = stream.spare_buffer(size.unwrap_or(Size::Large));
    frame.resize(FRAME_HEADROOM, 0);
    let mut left = bytes;
    for piece in pieces {
        let part = min(left, piece.len());
        frame.extend_from_slice(&piece[..part]);
        left -= part;
    }
    Poll::Ready(stream.write(frame).map(|()| bytes).map_err(broken))
}
