//! The Huffman code of header strings (RFC 7541 5.2, appendix B). The code is canonical: codes of
//! one length are consecutive and ordered by symbol, so the lengths alone say everything.

use super::HpackError;

/// Bits of the code of each byte; the last is the end-of-string symbol.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

const SHORTEST: usize = 5;
const LONGEST: usize = 30;
const END: u16 = 256;

/// The code, derived from its lengths.
struct Code {
    /// Code of each symbol, right-aligned.
    codes: [u32; 257],
    /// Symbols ordered by length, then by value.
    order: [u16; 257],
    /// First code of each length.
    first: [u32; LONGEST + 1],
    /// Number of codes of each length.
    count: [u32; LONGEST + 1],
    /// Where the symbols of each length begin in `order`.
    begin: [u32; LONGEST + 1],
}

static CODE: Code = derive();

const fn derive() -> Code {
    let mut code = Code {
        codes: [0; 257],
        order: [0; 257],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        begin: [0; LONGEST + 1],
    };
    let mut next = 0_u32;
    let mut placed = 0_u32;
    let mut length = 1;
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = next;
        code.begin[length] = placed;
        let mut symbol = 0_u16;
        while symbol < 257 {
            if LENGTHS[symbol as usize] as usize == length {
                code.codes[symbol as usize] = next;
                code.order[placed as usize] = symbol;
                next += 1;
                placed += 1;
            }
            symbol += 1;
        }
        code.count[length] = placed - code.begin[length];
        length += 1;
    }
    code
}

/// Reads a string in this code, of at most `max_bytes` bytes.
pub(super) fn decode(text: &[u8], max_bytes: usize) -> Result<Vec<u8>, HpackError> {
    const BROKEN: HpackError = HpackError::Broken("a Huffman string is broken");
    // The shortest code has five bits.
    let mut out = Vec::with_capacity((text.len() * 8 / SHORTEST).min(max_bytes));
    let (mut code, mut length, mut ones) = (0_u32, 0_usize, true);
    for byte in text {
        for at in (0..8).rev() {
            let bit = u32::from(byte >> at & 1);
            code = code << 1 | bit;
            length += 1;
            ones &= bit == 1;
            if length > LONGEST {
                return Err(BROKEN);
            }
            let offset = code.wrapping_sub(CODE.first[length]);
            if length < SHORTEST || offset >= CODE.count[length] {
                continue;
            }
            let place = CODE.begin[length] + offset;
            let symbol = CODE.order[usize::try_from(place).unwrap_or(usize::MAX)];
            if symbol == END {
                return Err(BROKEN);
            }
            if out.len() == max_bytes {
                return Err(HpackError::ListTooLarge);
            }
            out.push(symbol.to_le_bytes()[0]);
            (code, length, ones) = (0, 0, true);
        }
    }
    // The rest is padding: fewer than eight bits, all ones (RFC 7541 5.2).
    if length > 7 || !ones {
        Err(BROKEN)
    } else {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that `text` takes in this code.
    fn encoded_len(text: &[u8]) -> usize {
        let bits: usize = text
            .iter()
            .map(|b| usize::from(LENGTHS[usize::from(*b)]))
            .sum();
        bits.div_ceil(8)
    }

    /// Writes `text` in this code, padded with ones.
    fn encode(text: &[u8], out: &mut Vec<u8>) {
        let (mut bits, mut held) = (0_u64, 0_u32);
        for byte in text {
            let length = u32::from(LENGTHS[usize::from(*byte)]);
            bits = (bits << length) | u64::from(CODE.codes[usize::from(*byte)]);
            held += length;
            while held >= 8 {
                held -= 8;
                out.push((bits >> held).to_le_bytes()[0]);
            }
        }
        if held > 0 {
            let padded = (bits << (8 - held)) | ((1 << (8 - held)) - 1);
            out.push(padded.to_le_bytes()[0]);
        }
    }

    #[test]
    fn the_examples_of_rfc_7541_c_4_hold() {
        let mut out = Vec::new();
        encode(b"www.example.com", &mut out);
        assert_eq!(
            out,
            [
                0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff
            ]
        );
        assert_eq!(encoded_len(b"www.example.com"), out.len());
        assert_eq!(decode(&out, 100).unwrap(), b"www.example.com");
    }

    #[test]
    fn every_byte_reads_back() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        let mut out = Vec::new();
        encode(&all, &mut out);
        assert_eq!(decode(&out, all.len()).unwrap(), all);
        assert_eq!(decode(&out, all.len() - 1), Err(HpackError::ListTooLarge));
    }

    #[test]
    fn bad_padding_and_the_end_symbol_are_refused() {
        // "a" is 00011; then a zero in the padding, a whole byte of padding, and 30 ones.
        for bytes in [
            &[0b0001_1011][..],
            &[0b0001_1111, 0xff],
            &[0xff, 0xff, 0xff, 0xfc],
        ] {
            assert!(decode(bytes, 100).is_err(), "{bytes:?}");
        }
        assert_eq!(decode(&[0b0001_1111], 100).unwrap(), b"a");
    }
}
