//! Which texts Kubernetes takes as names. Knows nothing of objects.

/// Longest name of an object in bytes (RFC 1123 subdomain, as the API server checks it).
const MAX_NAME_BYTES: usize = 253;

/// Longest DNS label in bytes (RFC 1035, 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// Whether `text` is a name of an object: labels of `a-z`, `0-9` and `-`, with dots between.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && text.split('.').all(is_label)
}

/// Whether `text` is a name of a namespace or service: one DNS label.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= MAX_LABEL_BYTES
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_subdomains() {
        for good in ["a", "web-v1", "10-0-0-1", "a.b.c"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "A",
            "a_b",
            "a/b",
            &"a".repeat(64),
        ] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(!is_label("a.b"));
    }
}
