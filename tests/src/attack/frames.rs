//! HTTP/2 frames by hand (RFC 9113, 4 and 6; RFC 7541 for the few header fields). Knows no socket.

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// PRIORITY.
    pub const PRIORITY: u8 = 2;
    /// RST_STREAM.
    pub const RST_STREAM: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// WINDOW_UPDATE.
    pub const WINDOW_UPDATE: u8 = 8;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// ACK of SETTINGS and PING.
pub const ACK: u8 = 1;
/// The last frame of a stream.
pub const END_STREAM: u8 = 1;
/// The last frame of a header block.
pub const END_HEADERS: u8 = 4;
/// The setting SETTINGS_INITIAL_WINDOW_SIZE.
pub const INITIAL_WINDOW_SIZE: u16 = 4;
/// The largest window.
pub const WINDOW_MAX: u32 = (1 << 31) - 1;
/// What both windows are before anybody says something.
pub const WINDOW_DEFAULT: u32 = 65_535;

/// Length, type, flags and stream.
const HEAD_BYTES: usize = 9;

/// One frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Type.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream, 0 for the connection.
    pub stream: u32,
    /// Payload.
    pub payload: Vec<u8>,
}

/// Bytes of one frame. `payload` is shorter than 16 MiB.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// SETTINGS with these entries.
pub fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = entries
        .iter()
        .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// More window for a stream, or for the connection when it is 0.
pub fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// RST_STREAM with CANCEL.
pub fn cancel(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// CONNECT to an authority, without END_STREAM.
pub fn connect(stream: u32, authority: &str) -> Vec<u8> {
    frame(
        kind::HEADERS,
        END_HEADERS,
        stream,
        &connect_block(authority),
    )
}

/// The header block of a CONNECT: literals with names of the static table.
pub fn connect_block(authority: &str) -> Vec<u8> {
    // 2 is `:method`, 1 is `:authority`; without indexing.
    let mut block = vec![0x02, 7];
    block.extend_from_slice(b"CONNECT");
    block.push(0x01);
    integer(authority.len(), &mut block);
    block.extend_from_slice(authority.as_bytes());
    block
}

/// A GET of `/`, which no tunnel serves.
pub fn get(stream: u32) -> Vec<u8> {
    // `:method GET`, `:path /`, `:scheme http` of the static table.
    let flags = END_HEADERS | END_STREAM;
    frame(kind::HEADERS, flags, stream, &[0x82, 0x84, 0x86])
}

/// An integer with a prefix of seven bits, the eighth being 0 (RFC 7541, 5.1).
fn integer(value: usize, out: &mut Vec<u8>) {
    const MOST: usize = 127;
    let Some(mut rest) = value.checked_sub(MOST) else {
        out.push(u8::try_from(value).unwrap_or(u8::MAX));
        return;
    };
    out.push(MOST as u8);
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// Received bytes, cut into frames.
#[derive(Debug, Default)]
pub struct Frames(Vec<u8>);

impl Frames {
    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub fn pop(&mut self) -> Option<Frame> {
        let head = self.0.get(..HEAD_BYTES)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let end = HEAD_BYTES + usize::try_from(length).ok()?;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & WINDOW_MAX;
        let payload = self.0.get(HEAD_BYTES..end)?.to_vec();
        self.0.drain(..end);
        Some(Frame {
            kind,
            flags,
            stream,
            payload,
        })
    }
}

/// The status at the beginning of a header block: an index of the static table, or three digits
/// behind the name's index, plain or in Huffman's code.
pub fn status(block: &[u8]) -> Option<u16> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let (first, rest) = block.split_first()?;
    if let Some(index) = first.checked_sub(0x88) {
        return INDEXED.get(usize::from(index)).copied();
    }
    let named = matches!(first, 0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e);
    let (length, value) = rest.split_first().filter(|_| named)?;
    let value = value.get(..usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return std::str::from_utf8(value).ok()?.parse().ok();
    }
    digits(value)
}

/// Three digits in the code of RFC 7541, appendix B: 0 to 2 in five bits, 3 to 9 in six.
fn digits(packed: &[u8]) -> Option<u16> {
    let mut bits = packed
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let mut code = 0;
        for _ in 0..5 {
            code = code << 1 | bits.next()?;
        }
        let digit = match code {
            0..=2 => code,
            _ => (code << 1 | bits.next()?).checked_sub(0b01_1001)? + 3,
        };
        number = number * 10 + digit;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_whatever_the_pieces() {
        let bytes = [connect(1, "10.0.0.1:80"), settings(&[(4, 7)]), cancel(3)].concat();
        let mut frames = Frames::default();
        let mut found = Vec::new();
        for byte in bytes {
            frames.push(&[byte]);
            found.extend(frames.pop());
        }
        let heads: Vec<_> = found.iter().map(|f| (f.kind, f.flags, f.stream)).collect();
        assert_eq!(heads, [(1, 4, 1), (4, 0, 0), (3, 0, 3)]);
        assert_eq!(found[1].payload, [0, 4, 0, 0, 0, 7]);
    }

    #[test]
    fn a_status_is_read_in_each_of_its_three_forms() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x8c, 0x00]), Some(400));
        assert_eq!(status(&[0x08, 3, b'5', b'0', b'3']), Some(503));
        // 503: 011011 00000 011001 and padding.
        assert_eq!(
            status(&[0x08, 0x83, 0b0110_1100, 0b0000_1100, 0b1111_1111]),
            Some(503)
        );
        assert_eq!(status(&[0x40, 1, b'x']), None);
        assert_eq!(status(&[]), None);
    }

    #[test]
    fn a_long_authority_has_a_long_length() {
        let block = connect_block(&"a".repeat(300));
        assert_eq!(block[9..13], [0x01, 127, 0xad, 0x01]);
    }
}
