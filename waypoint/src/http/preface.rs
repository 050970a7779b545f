//! Which HTTP a client speaks: its first bytes say it (RFC 9113 3.4).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

/// What a client of HTTP/2 begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a connection that begins so is one of HTTP/2; None: more must come.
pub(super) fn is_http2(start: &[u8]) -> Option<bool> {
    let count = start.len().min(PREFACE.len());
    if start[..count] != PREFACE[..count] {
        return Some(false);
    }
    (count == PREFACE.len()).then_some(true)
}

/// Reads what comes next behind what came before. False: the end.
pub(super) async fn read(io: &mut (impl Read + Unpin), start: &mut Vec<u8>) -> io::Result<bool> {
    poll_fn(|cx| {
        let mut memory = [0; 512];
        let mut read = ReadBuf::new(&mut memory);
        let polled = Pin::new(&mut *io).poll_read(cx, read.unfilled());
        polled.map_ok(|()| {
            start.extend_from_slice(read.filled());
            !read.filled().is_empty()
        })
    })
    .await
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
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
