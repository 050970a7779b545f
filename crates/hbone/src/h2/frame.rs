//! Frame headers, types, flags, and how the frames that we send are written.

use crate::error::ErrorCode;

/// What every HTTP/2 connection of a client begins with (RFC 9113 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 9;

/// Frame size that every peer takes (RFC 9113 4.2).
pub const DEFAULT_MAX_FRAME_BYTES: u32 = 16_384;

/// Largest value that a peer may set for it.
pub const LIMIT_MAX_FRAME_BYTES: u32 = (1 << 24) - 1;

/// Window of a new connection and of a new stream (RFC 9113 6.9.2).
pub const DEFAULT_WINDOW_BYTES: u32 = 65_535;

/// Largest window, and largest stream identifier.
pub const MAX_31_BIT: u32 = (1 << 31) - 1;

/// Frame types (RFC 9113 6).
pub mod kind {
    #![allow(missing_docs)]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags (RFC 9113 6).
pub mod flag {
    #![allow(missing_docs)]
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// The nine bytes in front of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the payload, 24 bits.
    pub length: u32,
    /// Type.
    pub kind: u8,
    /// Flags; unknown ones mean nothing.
    pub flags: u8,
    /// Stream, 31 bits; 0 is the connection.
    pub stream: u32,
}

impl FrameHeader {
    /// Reads one; the reserved bit is ignored.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Self {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = bytes;
        Self {
            length: u32::from_be_bytes([0, l2, l1, l0]),
            kind,
            flags,
            stream: u32::from_be_bytes([s3, s2, s1, s0]) & MAX_31_BIT,
        }
    }

    /// Writes one; `length` must fit 24 bits.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [_, l2, l1, l0] = self.length.to_be_bytes();
        let [s3, s2, s1, s0] = self.stream.to_be_bytes();
        [l2, l1, l0, self.kind, self.flags, s3, s2, s1, s0]
    }

    /// Whether a flag is set.
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The peer's fault in a frame or in what frames mean together; ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {why}")]
pub struct Fault {
    /// What GOAWAY says.
    pub code: ErrorCode,
    /// What the peer did, for a log.
    pub why: &'static str,
}

impl Fault {
    /// A fault.
    pub const fn new(code: ErrorCode, why: &'static str) -> Self {
        Self { code, why }
    }

    /// A broken rule.
    pub const fn protocol(why: &'static str) -> Self {
        Self::new(ErrorCode::PROTOCOL_ERROR, why)
    }

    /// A frame of a wrong size.
    pub const fn size(why: &'static str) -> Self {
        Self::new(ErrorCode::FRAME_SIZE_ERROR, why)
    }

    /// Excessive work.
    pub const fn calm(why: &'static str) -> Self {
        Self::new(ErrorCode::ENHANCE_YOUR_CALM, why)
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("our control frames are small");
    out.extend_from_slice(
        &FrameHeader {
            length,
            kind,
            flags,
            stream,
        }
        .encode(),
    );
    out.extend_from_slice(payload);
}

/// RST_STREAM.
pub fn rst_stream(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    frame(out, kind::RST_STREAM, 0, stream, &code.0.to_be_bytes());
}

/// WINDOW_UPDATE; `increment` is 1 to 2^31-1.
pub fn window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    frame(
        out,
        kind::WINDOW_UPDATE,
        0,
        stream,
        &increment.to_be_bytes(),
    );
}

/// PING, or its acknowledgement.
pub fn ping(out: &mut Vec<u8>, ack: bool, payload: [u8; 8]) {
    frame(
        out,
        kind::PING,
        if ack { flag::ACK } else { 0 },
        0,
        &payload,
    );
}

/// GOAWAY without debug data.
pub fn goaway(out: &mut Vec<u8>, last_stream: u32, code: ErrorCode) {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&last_stream.to_be_bytes());
    payload[4..].copy_from_slice(&code.0.to_be_bytes());
    frame(out, kind::GOAWAY, 0, 0, &payload);
}

/// The acknowledgement of SETTINGS.
pub fn settings_ack(out: &mut Vec<u8>) {
    frame(out, kind::SETTINGS, flag::ACK, 0, &[]);
}

/// SETTINGS with these entries.
pub fn settings(out: &mut Vec<u8>, entries: &[(u16, u32)]) {
    let payload: Vec<u8> = entries
        .iter()
        .flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes()))
        .collect();
    frame(out, kind::SETTINGS, 0, 0, &payload);
}

/// HEADERS and as many CONTINUATION frames as the peer's frame size asks for.
pub fn headers(out: &mut Vec<u8>, stream: u32, end_stream: bool, block: &[u8], max_frame: u32) {
    let size = usize::try_from(max_frame).unwrap_or(usize::MAX).max(1);
    let mut rest = block;
    let mut kind = kind::HEADERS;
    let mut flags = if end_stream { flag::END_STREAM } else { 0 };
    loop {
        let (piece, behind) = rest.split_at(rest.len().min(size));
        if behind.is_empty() {
            flags |= flag::END_HEADERS;
        }
        frame(out, kind, flags, stream, piece);
        if behind.is_empty() {
            return;
        }
        (rest, kind, flags) = (behind, kind::CONTINUATION, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_header_reads_back_without_the_reserved_bit() {
        let header = FrameHeader {
            length: 0x0102_0304 & 0xff_ffff,
            kind: 9,
            flags: 5,
            stream: 7,
        };
        assert_eq!(FrameHeader::decode(header.encode()), header);
        let mut bytes = header.encode();
        bytes[5] |= 0x80;
        assert_eq!(FrameHeader::decode(bytes), header);
    }

    #[test]
    fn a_long_header_block_is_cut_into_continuations() {
        let mut out = Vec::new();
        headers(&mut out, 3, true, &[7; 25], 10);
        let mut seen = Vec::new();
        let mut rest = &out[..];
        while !rest.is_empty() {
            let header = FrameHeader::decode(rest[..HEADER_BYTES].try_into().unwrap());
            seen.push((header.kind, header.length, header.flags));
            rest = &rest[HEADER_BYTES + header.length as usize..];
        }
        assert_eq!(
            seen,
            [
                (1, 10, flag::END_STREAM),
                (9, 10, 0),
                (9, 5, flag::END_HEADERS)
            ]
        );
    }
}
