//! What connections carry: a header that says what comes, content made from a seed, digests.

use std::io;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// First bytes of every connection.
const MAGIC: [u8; 4] = *b"CVT1";
/// Magic, kind, length up, length down, seed.
pub const HEADER_BYTES: usize = 29;
/// Length of a SHA-256.
pub const DIGEST_BYTES: usize = 32;
/// Bytes a question of a held connection has.
pub const QUESTION_BYTES: usize = 64;
/// Bytes moved at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Both directions of a stream have other content.
const DOWN: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Both directions at the same time.
    Both,
    /// The server answers when the client's direction has ended.
    HalfClosed,
    /// Questions and answers until the client ends.
    Hold,
    /// The client resets somewhere on the way.
    Aborted,
}

/// What the client announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the connection does.
    pub kind: Kind,
    /// Bytes from the client.
    pub up: u64,
    /// Bytes from the server.
    pub down: u64,
    /// What the content is made from.
    pub seed: u64,
}

/// SHA-256 of a direction.
pub type Digest = [u8; DIGEST_BYTES];

impl Header {
    /// As it is on the wire.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = match self.kind {
            Kind::Both => 0,
            Kind::HalfClosed => 1,
            Kind::Hold => 2,
            Kind::Aborted => 3,
        };
        bytes[5..13].copy_from_slice(&self.up.to_be_bytes());
        bytes[13..21].copy_from_slice(&self.down.to_be_bytes());
        bytes[21..].copy_from_slice(&self.seed.to_be_bytes());
        bytes
    }

    /// Reads it back; None when it is none of ours.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let number = |at: usize| {
            let word: [u8; 8] = bytes[at..at + 8].try_into().ok()?;
            Some(u64::from_be_bytes(word))
        };
        let kind = match bytes[4] {
            0 => Kind::Both,
            1 => Kind::HalfClosed,
            2 => Kind::Hold,
            3 => Kind::Aborted,
            _ => return None,
        };
        let header = Header {
            kind,
            up: number(5)?,
            down: number(13)?,
            seed: number(21)?,
        };
        (bytes[..4] == MAGIC).then_some(header)
    }

    /// Seed of the client's direction.
    pub fn seed_up(&self) -> u64 {
        self.seed
    }

    /// Seed of the server's direction.
    pub fn seed_down(&self) -> u64 {
        self.seed ^ DOWN
    }
}

/// Endless content from a seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Content(u64);

impl Content {
    /// From its beginning.
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Content(seed | 1)
    }

    /// The next bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Writes `length` bytes of content; the digest of them.
pub async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    seed: u64,
    length: u64,
) -> io::Result<Digest> {
    let mut content = Content::new(seed);
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = length;
    while left > 0 {
        let size = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        content.fill(&mut buffer[..size]);
        context.update(&buffer[..size]);
        to.write_all(&buffer[..size]).await?;
        left -= size as u64;
    }
    Ok(finish(context))
}

/// Reads `length` bytes; the digest of them.
pub async fn receive(from: &mut (impl AsyncRead + Unpin), length: u64) -> io::Result<Digest> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = length;
    while left > 0 {
        let size = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let got = from.read(&mut buffer[..size]).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        context.update(&buffer[..got]);
        left -= got as u64;
    }
    Ok(finish(context))
}

/// Fails when more than the end comes.
pub async fn expect_end(from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    match from.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A running checksum of all that came (FNV-1a).
#[derive(Clone, Copy, Debug)]
pub struct Running(u64);

impl Default for Running {
    fn default() -> Self {
        Running(0xcbf2_9ce4_8422_2325)
    }
}

impl Running {
    /// Takes more bytes in; the sum of all so far.
    pub fn add(&mut self, bytes: &[u8]) -> [u8; 8] {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.0.to_be_bytes()
    }
}

fn finish(context: Context) -> Digest {
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was() {
        for kind in [Kind::Both, Kind::HalfClosed, Kind::Hold, Kind::Aborted] {
            let header = Header {
                kind,
                up: 1,
                down: u64::MAX,
                seed: 77,
            };
            assert_eq!(Header::decode(&header.encode()), Some(header));
        }
        assert_eq!(Header::decode(&[0; HEADER_BYTES]), None);
    }

    #[tokio::test]
    async fn what_is_received_has_the_digest_of_what_was_sent() {
        let mut wire = Vec::new();
        let sent = send(&mut wire, 5, 40_001).await.unwrap();
        assert_eq!(receive(&mut wire.as_slice(), 40_001).await.unwrap(), sent);
        wire[20_000] ^= 1;
        assert_ne!(receive(&mut wire.as_slice(), 40_001).await.unwrap(), sent);
    }
}
