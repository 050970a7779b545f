//! Reading ztunnel's access log in its plain format (protocol.md 9).
//!
//! A line is `<time> <level> access: <message> key=value ...`; values that are strings stand in
//! quotes with `\"` and `\\` inside.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// One connection's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `connection complete`, `connection failed` ...
    pub message: String,
    fields: BTreeMap<String, String>,
}

/// All records of a log.
pub fn records(log: &str) -> Vec<Record> {
    log.lines().filter_map(record).collect()
}

impl Record {
    /// A field's value without its quotes; empty when it is absent.
    pub fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }

    /// The address of `src.addr`.
    pub fn source_ip(&self) -> Option<IpAddr> {
        self.get("src.addr")
            .parse::<SocketAddr>()
            .ok()
            .map(|address| address.ip())
    }

    /// Whether it is a record of the source's side (`outbound`) or of the destination's.
    pub fn is_outbound(&self) -> bool {
        self.get("direction") == "outbound"
    }
}

fn record(line: &str) -> Option<Record> {
    let (_, rest) = line.split_once(" access: ")?;
    let first = rest.split_whitespace().find(|word| word.contains('='))?;
    let (message, fields) = rest.split_at(rest.find(first)?);
    Some(Record {
        message: message.trim().to_owned(),
        fields: pairs(fields),
    })
}

fn pairs(text: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = value(after);
        pairs.insert(key.trim().to_owned(), value);
        rest = after.trim_start();
    }
    pairs
}

/// One value and what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_field_by_field() {
        let line = "2026-08-01T10:00:00.1Z  INFO access: connection complete \
                    src.addr=10.244.1.5:40112 src.workload=\"client\" \
                    src.identity=\"spiffe://cluster.local/ns/demo/sa/client\" \
                    direction=\"outbound\" bytes_sent=84 error=\"a \\\"b\\\" c=d\"";
        let records = records(line);
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].message, "connection complete");
        assert_eq!(records[0].source_ip(), "10.244.1.5".parse().ok());
        assert_eq!(
            records[0].get("src.identity"),
            "spiffe://cluster.local/ns/demo/sa/client"
        );
        assert_eq!(records[0].get("bytes_sent"), "84");
        assert_eq!(records[0].get("error"), "a \"b\" c=d");
        assert_eq!(records[0].get("dst.identity"), "");
        assert!(records[0].is_outbound());
    }

    #[test]
    fn lines_of_other_targets_are_no_records() {
        assert_eq!(
            records("2026-08-01T10:00:00Z INFO ztunnel: io back end backend=epoll"),
            []
        );
    }
}
