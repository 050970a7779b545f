//! Fields to header blocks: static table and literals, nothing indexed. So the encoder has no
//! state, and no peer's table size matters to it.
//!
//! Texts are written as they are: Huffman's code would save a third of some 250 bytes in a CONNECT,
//! once per connection, and cost both ends more CPU than anything else in it.

use super::integer;
use super::table::STATIC;

/// Entries of the static table whose names begin with a colon; they stand first.
const PSEUDO: usize = 14;

/// Appends a header block with these fields to `out`. Names are in lower case.
pub fn encode<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>, out: &mut Vec<u8>) {
    for (name, value) in fields {
        match find(name, value) {
            (index, true) => integer::write(out, 0x80, 7, index),
            (index, false) => {
                // RFC 7541 6.2.2: literal without indexing; index 0 says that the name follows.
                integer::write(out, 0, 4, index);
                if index == 0 {
                    string(name.as_bytes(), out);
                }
                string(value.as_bytes(), out);
            }
        }
    }
}

/// Index of the name in the static table (0 for none), and whether the value stands there too.
/// Looked up for pseudo-header fields; those that a tunnel sends besides are not in the table.
fn find(name: &str, value: &str) -> (usize, bool) {
    let mut named = 0;
    if !name.starts_with(':') {
        return (0, false);
    }
    for (at, (n, v)) in STATIC.iter().take(PSEUDO).enumerate() {
        if *n == name {
            if *v == value && !value.is_empty() {
                return (at + 1, true);
            }
            if named == 0 {
                named = at + 1;
            }
        }
    }
    (named, false)
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    integer::write(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;

    #[test]
    fn what_is_encoded_reads_back_and_leaves_no_table() {
        let fields = [
            (":method", "CONNECT"),
            (":authority", "10.0.0.1:80"),
            (":status", "200"),
            ("baggage", "k8s.cluster.name=Kubernetes"),
            ("x", ""),
            ("age", ""),
            ("forwarded", "for=\"[::1]:1\""),
        ];
        let mut block = Vec::new();
        encode(fields, &mut block);
        let mut decoder = Decoder::default();
        decoder.forbid_table();
        let decoded = decoder.decode(&block, 10_000).unwrap();
        let decoded: Vec<_> = decoded
            .iter()
            .map(|f| {
                (
                    std::str::from_utf8(&f.name).unwrap(),
                    std::str::from_utf8(&f.value).unwrap(),
                )
            })
            .collect();
        assert_eq!(decoded, fields);
    }
}
