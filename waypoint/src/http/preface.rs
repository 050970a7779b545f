//! Which HTTP a client speaks: its first bytes say it (RFC 9113 3.4).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is known. None: the connection ended before a byte came. True: HTTP/2.
pub(super) async fn read(io: &mut (impl Read + Unpin)) -> io::Result<Option<(Vec<u8>, bool)>> {
    let mut start = Vec::new();
    loop {
        let mut memory = [0; 512];
        let mut read = ReadBuf::new(&mut memory);
        poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, read.unfilled())).await?;
        let is_end = read.filled().is_empty();
        start.extend_from_slice(read.filled());
        let count = start.len().min(PREFACE.len());
        if start[..count] != PREFACE[..count] {
            return Ok(Some((start, false)));
        }
        if count == PREFACE.len() {
            return Ok(Some((start, true)));
        }
        if is_end {
            return Ok(None);
        }
    }
}

/// A connection of which the beginning was read before.
pub(super) struct Rewound<I> {
    start: Bytes,
    io: I,
}

impl<I> Rewound<I> {
    pub(super) fn new(start: Vec<u8>, io: I) -> Self {
        let start = start.into();
        Self { start, io }
    }
}

impl<I: Read + Unpin> Read for Rewound<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        }
        let count = this.start.len().min(buffer.remaining());
        buffer.put_slice(&this.start[..count]);
        this.start.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<I: Write + Unpin> Write for Rewound<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
