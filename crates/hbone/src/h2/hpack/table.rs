//! The static table (RFC 7541 appendix A) and the dynamic one.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::Field;

/// Size of the dynamic table until SETTINGS say otherwise, bytes.
pub(super) const DEFAULT_TABLE_BYTES: usize = 4096;

/// The static table; its first entry has index 1.
pub(super) static STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Fields that the peer's encoder put there, newest first, of at most `max` bytes.
#[derive(Debug)]
pub(super) struct DynamicTable {
    entries: VecDeque<Field>,
    size: usize,
    max: usize,
}

impl DynamicTable {
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max: DEFAULT_TABLE_BYTES,
        }
    }

    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.evict(0);
    }

    /// Adds a field; one larger than the table empties it (RFC 7541 4.4).
    pub(super) fn insert(&mut self, field: Field) {
        let size = field.size();
        self.evict(size);
        if size <= self.max {
            self.size += size;
            self.entries.push_front(field);
        }
    }

    /// Makes room for `size` more.
    fn evict(&mut self, size: usize) {
        while self.size + size > self.max
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size();
        }
        if self.entries.is_empty() {
            // A tunnel that is idle holds no table.
            self.entries = VecDeque::new();
        }
    }

    /// The field of an index over both tables.
    pub(super) fn get(&self, index: usize) -> Option<Field> {
        let at = index.checked_sub(1)?;
        if let Some((name, value)) = STATIC.get(at) {
            return Some(Field {
                name: Cow::Borrowed(name.as_bytes()),
                value: Cow::Borrowed(value.as_bytes()),
            });
        }
        self.entries.get(at - STATIC.len()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &'static str, bytes: usize) -> Field {
        Field {
            name: name.as_bytes().into(),
            value: vec![b'x'; bytes].into(),
        }
    }

    #[test]
    fn the_oldest_fields_make_room() {
        let mut table = DynamicTable::new();
        for name in ["a", "b", "c"] {
            table.insert(field(name, 2000));
        }
        assert_eq!(&*table.get(62).unwrap().name, b"c");
        assert_eq!(&*table.get(63).unwrap().name, b"b");
        assert_eq!(table.get(64), None);
        table.insert(field("huge", 5000));
        assert_eq!(table.get(62), None);
        assert_eq!(table.size, 0);
    }

    #[test]
    fn index_zero_and_static_fields() {
        let table = DynamicTable::new();
        assert_eq!(table.get(0), None);
        assert_eq!(&*table.get(8).unwrap().value, b"200");
        assert_eq!(&*table.get(61).unwrap().name, b"www-authenticate");
    }
}
