//! From HTTP/1.1 to HTTP/2 on one connection (`Upgrade: h2c`, RFC 7540 3.2). The request that asked
//! becomes stream 1: a HEADERS frame of it is put between the client's first SETTINGS and what
//! follows, so that it is served as any other. It must not know what is done with requests.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use http::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Version};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::headers;

/// Longest payload of a frame that every receiver takes (RFC 9113 4.2).
const FRAME_BYTES_MAX: usize = 16_384;
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
/// END_STREAM and END_HEADERS.
const FLAGS: u8 = 0x5;
const HEADERS: u8 = 0x1;
const SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The HEADERS frame of stream 1 for a request without a body that asks for HTTP/2; None: it does
/// not, or is too large for one frame, and stays HTTP/1.1, which a server may always choose.
pub(super) fn first_frame(head: &Parts, has_body: bool) -> Option<Vec<u8>> {
    let may = !has_body && head.method != Method::CONNECT && head.version == Version::HTTP_11;
    let protocol = headers::upgrade(&head.headers, head.version).filter(|_| may)?;
    if !headers::wants_h2c(&head.headers, &protocol) {
        return None;
    }
    let mut fields = head.headers.clone();
    headers::end_connection(&mut fields);
    fields.remove(SETTINGS);
    let host = fields.remove(HOST);
    let authority = head.uri.authority().map(|one| one.as_str().as_bytes());
    let authority = authority.or(host.as_ref().map(HeaderValue::as_bytes));
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut frame = vec![0; FRAME_HEAD_BYTES];
    put_field(&mut frame, b":method", head.method.as_str().as_bytes());
    put_field(&mut frame, b":scheme", b"http");
    put_field(&mut frame, b":path", path.as_bytes());
    put_field(&mut frame, b":authority", authority?);
    for (name, value) in &fields {
        put_field(&mut frame, name.as_str().as_bytes(), value.as_bytes());
    }
    let length = frame.len() - FRAME_HEAD_BYTES;
    if length > FRAME_BYTES_MAX {
        return None;
    }
    let length = u32::try_from(length).ok()?.to_be_bytes();
    frame[..3].copy_from_slice(&length[1..]);
    frame[3..FRAME_HEAD_BYTES].copy_from_slice(&[HEADERS, FLAGS, 0, 0, 0, 1]);
    Some(frame)
}

/// Fields of the answer that says so.
pub(super) fn switching() -> HeaderMap {
    HeaderMap::from_iter([
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static("h2c")),
    ])
}

/// A literal that no table remembers, without Huffman's code (RFC 7541 6.2.2).
fn put_field(frame: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    frame.push(0);
    for text in [name, value] {
        put_length(frame, text.len());
        frame.extend_from_slice(text);
    }
}

/// An integer with a prefix of 7 bits (RFC 7541 5.1).
fn put_length(frame: &mut Vec<u8>, length: usize) {
    const PREFIX_MAX: usize = 127;
    if length < PREFIX_MAX {
        frame.push(u8::try_from(length).unwrap_or_default());
        return;
    }
    frame.push(127);
    let mut left = length - PREFIX_MAX;
    while left >= 128 {
        frame.push(u8::try_from(left % 128).unwrap_or_default() | 128);
        left /= 128;
    }
    frame.push(u8::try_from(left).unwrap_or_default());
}

/// A connection into which a frame is put behind the client's preface and its first frame.
pub(super) struct Joined<I> {
    io: I,
    /// What came of the beginning and did not go on yet; then the beginning and the frame.
    start: BytesMut,
    frame: Vec<u8>,
    is_complete: bool,
}

impl<I> Joined<I> {
    /// Of which `taken` was read before.
    pub(super) fn new(io: I, taken: &[u8], frame: Vec<u8>) -> Self {
        let mut this = Self {
            io,
            start: taken.into(),
            frame,
            is_complete: false,
        };
        this.join();
        this
    }

    /// Puts the frame in its place, once that has come.
    fn join(&mut self) {
        let Some(head) = self
            .start
            .get(PREFACE_BYTES..PREFACE_BYTES + FRAME_HEAD_BYTES)
        else {
            return;
        };
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let end = PREFACE_BYTES + FRAME_HEAD_BYTES + length.min(FRAME_BYTES_MAX);
        if self.start.len() >= end {
            let rest = self.start.split_off(end);
            self.start.put_slice(&std::mem::take(&mut self.frame));
            self.start.unsplit(rest);
            self.is_complete = true;
        }
    }
}

impl<I: Read + Unpin> Read for Joined<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.is_complete {
            let mut memory = [0; 512];
            let mut read = ReadBuf::new(&mut memory);
            ready!(Pin::new(&mut this.io).poll_read(cx, read.unfilled()))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.start.put_slice(read.filled());
            this.join();
        }
        if this.start.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        }
        let count = this.start.len().min(buffer.remaining());
        buffer.put_slice(&this.start.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<I: Write + Unpin> Write for Joined<I> {
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
