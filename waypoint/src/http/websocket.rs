//! The key of a WebSocket's opening handshake and its answer (RFC 6455 4), which prove that a
//! server has understood the question. Pure; they are no secret and protect nothing else.

use http::HeaderValue;

/// What a server puts behind the key (RFC 6455 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A key of 16 bytes.
pub(super) fn key(high: u64, low: u64) -> HeaderValue {
    let number = u128::from(high) << 64 | u128::from(low);
    base64(&number.to_be_bytes())
}

/// What `Sec-WebSocket-Accept` must say to that key.
#[must_use]
pub fn accept(key: &HeaderValue) -> HeaderValue {
    base64(&sha1(&[key.as_bytes().trim_ascii(), GUID].concat()))
}

/// RFC 4648 4.
fn base64(bytes: &[u8]) -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut whole = [0; 4];
        whole[1..=group.len()].copy_from_slice(group);
        let number = u32::from_be_bytes(whole);
        for at in 0..4 {
            text.push(match at <= group.len() {
                true => DIGITS[(number >> (18 - 6 * at) & 63) as usize],
                false => b'=',
            });
        }
    }
    HeaderValue::from_bytes(&text).expect("base64 is a value")
}

/// FIPS 180-4 6.1. The handshake wants this very function; nothing else may use it.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut padded = [message, &[0x80]].concat();
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    let mut state: [u32; 5] = [
        0x6745_2301,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    for block in padded.chunks_exact(64) {
        mix(&mut state, block);
    }
    let mut hash = [0; 20];
    for (bytes, word) in hash.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    hash
}

fn mix(state: &mut [u32; 5], block: &[u8]) {
    let mut words = [0_u32; 80];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    for at in 16..80 {
        let mixed = words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16];
        words[at] = mixed.rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (at, word) in words.iter().enumerate() {
        let (chosen, constant) = match at / 20 {
            0 => (b & c | !b & d, 0x5a82_7999),
            1 => (b ^ c ^ d, 0x6ed9_eba1),
            2 => (b & c | b & d | c & d, 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6_u32),
        };
        let parts = [chosen, e, constant, *word];
        let next = parts.into_iter().fold(a.rotate_left(5), u32::wrapping_add);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    for (word, more) in state.iter_mut().zip([a, b, c, d, e]) {
        *word = word.wrapping_add(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        // RFC 6455 1.3: the bytes 1 to 16.
        let (high, low) = (0x0102_0304_0506_0708, 0x090a_0b0c_0d0e_0f10);
        assert_eq!(key(high, low), "AQIDBAUGBwgJCgsMDQ4PEA==");
    }

    #[test]
    fn the_answer_to_a_key_is_that_of_the_specification() {
        // RFC 6455 1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_hash_is_that_of_its_specification() {
        let hex = |message: &[u8]| {
            let hash = sha1(message);
            hash.iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!(hex(b""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        // FIPS 180's examples, of one block and of two.
        assert_eq!(hex(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let two = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(hex(two), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
    }
}
