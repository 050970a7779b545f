//! Header blocks to fields, within a bound on the whole list.

use super::table::{DEFAULT_TABLE_BYTES, DynamicTable};
use super::{Field, huffman, integer};

/// Why a header block cannot be read. Both end the connection: after them the table is out of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// It breaks RFC 7541.
    #[error("{0}")]
    Broken(&'static str),
    /// The list is larger than was allowed.
    #[error("a header list is larger than allowed")]
    ListTooLarge,
}

/// The receiving side of one connection's header compression. Holds at most 4096 bytes of table.
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable,
    /// Largest table that the peer may ask for.
    limit: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: DynamicTable::new(),
            limit: DEFAULT_TABLE_BYTES,
        }
    }
}

impl Decoder {
    /// The peer has acknowledged a table of size zero.
    pub fn forbid_table(&mut self) {
        self.limit = 0;
        self.table.resize(0);
    }

    /// The fields of a whole header block, whose list may count `max_list_bytes`.
    ///
    /// # Errors
    /// A block that is broken, or a list that is too large.
    pub fn decode(
        &mut self,
        block: &[u8],
        max_list_bytes: usize,
    ) -> Result<Vec<Field>, HpackError> {
        let mut input = block;
        let mut fields = Vec::new();
        let mut left = max_list_bytes;
        while let Some(first) = input.first() {
            // RFC 7541 6: the first bits say what follows.
            let field = match first.leading_zeros() {
                0 => self.indexed(&mut input)?,
                1 => self.literal(&mut input, 6, left)?,
                2 => {
                    self.resize(&mut input, fields.is_empty())?;
                    continue;
                }
                _ => self.literal(&mut input, 4, left)?,
            };
            if first.leading_zeros() == 1 {
                self.table.insert(field.clone());
            }
            left = left
                .checked_sub(field.size())
                .ok_or(HpackError::ListTooLarge)?;
            fields.push(field);
        }
        Ok(fields)
    }

    fn indexed(&self, input: &mut &[u8]) -> Result<Field, HpackError> {
        let index = integer::read(input, 7)?;
        self.table
            .get(index)
            .ok_or(HpackError::Broken("an index names no field"))
    }

    fn literal(&self, input: &mut &[u8], prefix: u32, max: usize) -> Result<Field, HpackError> {
        let name = match integer::read(input, prefix)? {
            0 => string(input, max)?.into(),
            index => {
                let named = self.table.get(index);
                named
                    .ok_or(HpackError::Broken("an index names no field"))?
                    .name
            }
        };
        Ok(Field {
            name,
            value: string(input, max)?.into(),
        })
    }

    fn resize(&mut self, input: &mut &[u8], at_start: bool) -> Result<(), HpackError> {
        let size = integer::read(input, 5)?;
        if !at_start || size > self.limit {
            return Err(HpackError::Broken("a table size that was not allowed"));
        }
        self.table.resize(size);
        Ok(())
    }
}

fn string(input: &mut &[u8], max: usize) -> Result<Vec<u8>, HpackError> {
    let huffman = input.first().is_some_and(|b| b & 0x80 != 0);
    let length = integer::read(input, 7)?;
    let (text, rest) = input
        .split_at_checked(length)
        .ok_or(HpackError::Broken("a header block ends inside a string"))?;
    *input = rest;
    if huffman {
        return huffman::decode(text, max);
    }
    if length > max {
        return Err(HpackError::ListTooLarge);
    }
    Ok(text.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(fields: &[Field]) -> Vec<(String, String)> {
        let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
        fields
            .iter()
            .map(|f| (text(&f.name), text(&f.value)))
            .collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect()
    }

    /// RFC 7541 C.4: three requests with Huffman strings over one table.
    #[test]
    fn the_examples_of_rfc_7541_c_4_hold() {
        let mut decoder = Decoder::default();
        let first = [
            0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab,
            0x90, 0xf4, 0xff,
        ];
        let base = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
        ];
        assert_eq!(text(&decoder.decode(&first, 1000).unwrap()), pairs(&base));
        let second = [
            0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf,
        ];
        let mut expected = base.to_vec();
        expected.push(("cache-control", "no-cache"));
        assert_eq!(
            text(&decoder.decode(&second, 1000).unwrap()),
            pairs(&expected)
        );
    }

    #[test]
    fn after_the_acknowledgement_the_table_is_gone() {
        let mut decoder = Decoder::default();
        let insert = [0x40, 1, b'a', 1, b'b'];
        decoder.decode(&insert, 1000).unwrap();
        assert_eq!(
            text(&decoder.decode(&[0xbe], 1000).unwrap()),
            pairs(&[("a", "b")])
        );
        decoder.forbid_table();
        assert!(decoder.decode(&[0xbe], 1000).is_err());
        assert!(
            decoder.decode(&[0x3f, 0x00], 1000).is_err(),
            "a table of 31 bytes"
        );
        // Inserting stays legal, and holds nothing.
        assert_eq!(
            text(&decoder.decode(&insert, 1000).unwrap()),
            pairs(&[("a", "b")])
        );
        assert!(decoder.decode(&[0xbe], 1000).is_err());
        assert!(decoder.decode(&[0x20, 0x88], 1000).is_ok());
        assert!(
            decoder.decode(&[0x88, 0x20], 1000).is_err(),
            "a resize behind a field"
        );
    }

    #[test]
    fn a_bomb_of_indexed_fields_stops_at_the_bound() {
        let mut decoder = Decoder::default();
        let value = vec![b'x'; 4000];
        let mut block = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
        block.extend_from_slice(&value);
        block.extend(std::iter::repeat_n(0xbe, 1000));
        assert_eq!(
            decoder.decode(&block, 64 << 10),
            Err(HpackError::ListTooLarge)
        );
    }

    #[test]
    fn broken_blocks_are_refused() {
        for block in [
            &[0x80][..],
            &[0xc6],
            &[0x40],
            &[0x40, 5, b'a'],
            &[0x0f, 0x80],
            &[0x40, 1],
        ] {
            assert!(Decoder::default().decode(block, 1000).is_err(), "{block:?}");
        }
    }
}
