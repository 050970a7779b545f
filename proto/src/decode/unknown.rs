//! Finds fields of rules that this version does not know. The generated code drops them without
//! a word, and a condition dropped from an ALLOW would let more in.
//!
//! Knows the shape of an `Authorization` down to its matches, and of protobuf the tags only.

/// Number of `Authorization.rules`.
const RULES: u64 = 5;
/// Number of `Rule.clauses`.
const CLAUSES: u64 = 1;
/// Number of `Clause.matches`.
const MATCHES: u64 = 2;
/// Last number of a field of `Match`.
const LAST_OF_MATCH: u64 = 13;

/// For each rule, in order, whether it has a field that is not known, or cannot be read.
///
/// `bytes` were read as an `Authorization` before. What cannot be read here counts as unknown.
pub(super) fn rules_with_unknown_fields(bytes: &[u8]) -> Vec<bool> {
    let rules = Fields(bytes).filter(|field| field.number == RULES);
    rules.map(|rule| !rule_is_known(rule.content)).collect()
}

fn rule_is_known(bytes: &[u8]) -> bool {
    Fields(bytes).all(|f| f.number == CLAUSES && clause_is_known(f.content))
}

fn clause_is_known(bytes: &[u8]) -> bool {
    Fields(bytes).all(|f| f.number == MATCHES && match_is_known(f.content))
}

fn match_is_known(bytes: &[u8]) -> bool {
    Fields(bytes).all(|f| (1..=LAST_OF_MATCH).contains(&f.number))
}

/// A field of a message; the content of a number is empty.
struct Field<'a> {
    number: u64,
    content: &'a [u8],
}

/// The fields of a message in order. What cannot be read is a field of number 0, which no
/// message has, and ends it.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.unwrap_or(Field {
            number: 0,
            content: &[],
        }))
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Option<Field<'a>> {
        let tag = self.varint()?;
        let content = match tag & 7 {
            0 => {
                self.varint()?;
                &[]
            }
            1 => self.take(8)?,
            2 => {
                let length = self.varint()?;
                self.take(usize::try_from(length).ok()?)?
            }
            5 => self.take(4)?,
            // Groups (3, 4) are no part of proto3.
            _ => return None,
        };
        Some(Field {
            number: tag >> 3,
            content,
        })
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (content, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}
