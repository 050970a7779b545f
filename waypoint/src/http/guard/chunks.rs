//! A body in chunks, byte by byte where it is framing and by length where it is data.

use super::super::limits::CHUNK_LINE_BYTES_MAX;
use super::head::{field, refuse};
use super::{Lines, Violation};

/// How far a body passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// So many bytes; it goes on behind all that are there.
    More(usize),
    /// So many bytes; there it ends.
    End(usize),
    /// So many bytes, and no more ever.
    Broken(usize, Violation),
}

#[derive(Debug)]
enum State {
    /// The size and the extensions of a chunk.
    Size(SizeLine),
    /// The line feed behind them; then so many bytes of data.
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// What follows the last chunk: fields, an empty line.
    Trailers(Lines),
}

#[derive(Debug, Default)]
struct SizeLine {
    value: u64,
    digits: usize,
    bytes: usize,
    in_extension: bool,
}

/// Follows one body.
#[derive(Debug)]
pub(super) struct Chunks(State);

impl Default for Chunks {
    fn default() -> Self {
        Self(State::Size(SizeLine::default()))
    }
}

/// 15 digits of hexadecimal fit into 60 bits; no body is that long.
const SIZE_DIGITS_MAX: usize = 15;

impl Chunks {
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Next {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.0 {
                State::Data(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= count as u64;
                    at += count;
                    if *left == 0 {
                        self.0 = State::DataCr;
                    }
                }
                State::Trailers(lines) => {
                    return match trailers(lines, rest) {
                        Ok(Some(end)) => Next::End(at + end),
                        Ok(None) => Next::More(at),
                        Err(violation) => Next::Broken(at, violation),
                    };
                }
                _ => match self.byte(rest[0]) {
                    Ok(()) => at += 1,
                    Err(violation) => return Next::Broken(at, violation),
                },
            }
        }
        Next::More(at)
    }

    fn byte(&mut self, byte: u8) -> Result<(), Violation> {
        self.0 = match (&mut self.0, byte) {
            (State::Size(line), b'\r') if line.digits > 0 => State::SizeEnd(line.value),
            (State::Size(line), _) => return line.add(byte),
            (State::SizeEnd(0), b'\n') => State::Trailers(Lines::default()),
            (State::SizeEnd(size), b'\n') => State::Data(*size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(SizeLine::default()),
            _ => return refuse("a chunk does not end where its size says"),
        };
        Ok(())
    }
}

impl SizeLine {
    fn add(&mut self, byte: u8) -> Result<(), Violation> {
        self.bytes += 1;
        if self.bytes > CHUNK_LINE_BYTES_MAX {
            return refuse("the size line of a chunk is longer than 256 bytes");
        }
        let digit = char::from(byte).to_digit(16);
        match (digit, byte) {
            _ if self.in_extension && (byte == b'\t' || (b' '..0x7f).contains(&byte)) => {}
            (Some(digit), _) if !self.in_extension && self.digits < SIZE_DIGITS_MAX => {
                self.digits += 1;
                self.value = self.value << 4 | u64::from(digit);
            }
            (None, b';') if self.digits > 0 => self.in_extension = true,
            _ => return refuse("the size of a chunk is no hexadecimal number"),
        }
        Ok(())
    }
}

/// Where the trailers end. They pass whole, as heads do.
fn trailers(lines: &mut Lines, bytes: &[u8]) -> Result<Option<usize>, Violation> {
    let Some(end) = lines.end(bytes, false)? else {
        return Ok(None);
    };
    for line in bytes[..end].split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let (name, _) = field(line)?;
        let frames = [&b"content-length"[..], b"transfer-encoding", b"host"];
        if frames.iter().any(|one| name.eq_ignore_ascii_case(one)) {
            return refuse("a trailer frames the message");
        }
    }
    Ok(Some(end))
}
