//! Integers with a prefix of fewer than eight bits (RFC 7541 5.1).

use super::HpackError;

/// Largest integer that is read: nothing in a header block that we take is longer than that.
const MAX_VALUE: u64 = u32::MAX as u64;

/// Reads an integer whose first byte has `prefix` low bits, and moves `input` behind it.
pub(super) fn read(input: &mut &[u8], prefix: u32) -> Result<usize, HpackError> {
    const CUT: HpackError = HpackError::Broken("a header block ends inside a number");
    let (first, mut rest) = input.split_first().ok_or(CUT)?;
    let mask = (1_u64 << prefix) - 1;
    let mut value = u64::from(*first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (byte, behind) = rest.split_first().ok_or(CUT)?;
            rest = behind;
            // Five bytes carry 35 bits: more are padding or too much.
            if shift > 28 {
                return Err(HpackError::Broken(
                    "a number in a header block is too large",
                ));
            }
            value += u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *input = rest;
    if value > MAX_VALUE {
        return Err(HpackError::Broken(
            "a number in a header block is too large",
        ));
    }
    usize::try_from(value).map_err(|_| HpackError::Broken("a number is too large"))
}

/// Writes an integer; the high bits of its first byte are `high`.
pub(super) fn write(out: &mut Vec<u8>, high: u8, prefix: u32, value: usize) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        out.push(high | value.to_le_bytes()[0]);
        return;
    }
    out.push(high | mask.to_le_bytes()[0]);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_7541_c_1_hold() {
        for (value, prefix, bytes) in [
            (10, 5, &[10][..]),
            (1337, 5, &[31, 154, 10]),
            (42, 8, &[42]),
        ] {
            let mut out = Vec::new();
            write(&mut out, 0, prefix, value);
            assert_eq!(out, bytes);
            let mut input = &out[..];
            assert_eq!(read(&mut input, prefix), Ok(value));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn numbers_that_are_cut_or_too_large_are_refused() {
        for bytes in [
            &[][..],
            &[31],
            &[31, 0x80],
            &[31, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ] {
            assert!(read(&mut &bytes[..], 5).is_err(), "{bytes:?}");
        }
        assert!(read(&mut &[31, 0x80, 0x80, 0x80, 0x80, 0x80, 0][..], 5).is_err());
    }
}
