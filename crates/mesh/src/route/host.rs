//! Host names that a route is for: exact, or with a wildcard as the first label.

use std::fmt;
use std::sync::Arc;

/// Longest host name in bytes (RFC 1123).
const HOST_BYTES_MAX: usize = 253;

/// `shop.example.com`, or `*.example.com` for all names below `example.com` at any depth, but not
/// for itself. Always in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This name.
    Exact(Arc<str>),
    /// All names that end in this text, which begins with a dot.
    Below(Arc<str>),
}

/// Why a text is no host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no host name, nor one behind `*.`")]
pub struct HostError(pub String);

impl HostPattern {
    /// Reads `name` or `*.name`.
    ///
    /// # Errors
    /// An address, an empty or overlong name or label, a character that a DNS name cannot have, a
    /// wildcard anywhere else.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let error = || HostError(text.to_owned());
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        let is_name = !name.is_empty()
            && text.len() <= HOST_BYTES_MAX
            && name.split('.').all(is_label)
            && name.parse::<std::net::IpAddr>().is_err();
        if !is_name {
            return Err(error());
        }
        Ok(match lower.strip_prefix('*') {
            Some(suffix) => Self::Below(suffix.into()),
            None => Self::Exact(lower.into()),
        })
    }

    /// Whether it is for `host` (lower case, without port).
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Below(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        }
    }
}

fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// The suffixes of `host` that a wildcard may name, the longest first, each with its dot.
pub(super) fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    // A wildcard stands for at least one character.
    let dots = host.match_indices('.').filter(|(at, _)| *at > 0);
    dots.map(|(at, _)| &host[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_for_names_below_and_not_for_the_name_itself() {
        let pattern = HostPattern::parse("*.Example.com").unwrap();
        for (host, matches) in [
            ("test.example.com", true),
            ("foo.test.example.com", true),
            ("example.com", false),
            (".example.com", false),
            ("badexample.com", false),
        ] {
            assert_eq!(pattern.matches(host), matches, "{host}");
            let by_suffix = suffixes(host).any(|s| pattern == HostPattern::Below(s.into()));
            assert_eq!(by_suffix, matches, "{host} by its suffixes");
        }
        assert_eq!(pattern.to_string(), "*.example.com");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "", "*", "*.", "a..b", "*.*.b", "a.*.b", "10.0.0.1", "a_b.c", "-a.b", "a:80", "[::1]",
        ] {
            assert_eq!(HostPattern::parse(text), Err(HostError(text.to_owned())));
        }
        assert!(HostPattern::parse(&"a.".repeat(130)).is_err());
    }
}
