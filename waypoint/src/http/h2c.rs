//! From HTTP/1.1 to HTTP/2 on one connection (`Upgrade: h2c`, RFC 7540 3.2). The request that asked
//! becomes stream 1: a HEADERS frame of it is put between the client's first SETTINGS and what
//! follows, so that it is served as any other. It must not know what is done with requests.

use std::io;

use http::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Version};
use hyper::rt::Read;

use super::headers;
use super::preface::{self, PREFACE};

/// Longest payload of a frame that every receiver takes (RFC 9113 4.2).
const FRAME_BYTES_MAX: usize = 16_384;
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

/// Reads the client's preface and its first frame behind what was `read`, and puts `frame` there.
/// None: the connection ended before.
pub(super) async fn join(
    io: &mut (impl Read + Unpin),
    mut read: Vec<u8>,
    frame: &[u8],
) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = first_frame_end(&read).filter(|end| *end <= read.len()) {
            read.splice(end..end, frame.iter().copied());
            return Ok(Some(read));
        }
        if !preface::read(io, &mut read).await? {
            return Ok(None);
        }
    }
}

/// None: its head has not come yet. A longer frame than is allowed is refused by who reads it.
fn first_frame_end(start: &[u8]) -> Option<usize> {
    let begin = PREFACE.len();
    let head = start.get(begin..begin + FRAME_HEAD_BYTES)?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    Some(begin + FRAME_HEAD_BYTES + length.min(FRAME_BYTES_MAX))
}
