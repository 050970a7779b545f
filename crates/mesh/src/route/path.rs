//! Paths: prefixes by whole segments, and their replacement. Paths are compared as they were sent,
//! with case and percent signs (Gateway API, `HTTPPathMatch`).

/// Longest path of a match or a replacement in bytes (Gateway API).
pub const PATH_BYTES_MAX: usize = 1_024;

/// Why a text is no path of a match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` is no path to match: {why}")]
pub struct PathError {
    /// What was given.
    pub path: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Checks an exact path or a prefix.
///
/// # Errors
/// Not absolute, too long, `//`, dot segments, an encoded slash, `#`, or a character that a path
/// cannot have (RFC 3986 3.3).
pub fn check(path: &str) -> Result<(), PathError> {
    let last = path.rsplit('/').next().unwrap_or_default();
    let why = if !path.starts_with('/') {
        "it must begin with /"
    } else if path.len() > PATH_BYTES_MAX {
        "it is longer than 1024 bytes"
    } else if path.contains("//") {
        "it must not contain //"
    } else if path.contains("/./") || path.contains("/../") || matches!(last, "." | "..") {
        "it must not contain the segments . and .."
    } else if path.to_ascii_lowercase().contains("%2f") {
        "it must not contain an encoded slash"
    } else if !path.bytes().all(is_path_byte) || !percents_are_whole(path) {
        "it contains a character that a path cannot have"
    } else {
        return Ok(());
    };
    Err(PathError {
        path: path.to_owned(),
        why,
    })
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte)
}

fn percents_are_whole(path: &str) -> bool {
    path.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    })
}

/// A prefix as it is compared: without its trailing slash, which says nothing. The prefix of every
/// path is the empty text.
#[must_use]
pub fn normal_prefix(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// Whether `path` is `prefix` (normal form) or lies below it; everything lies below the empty one,
/// also `*` (OPTIONS of a whole server).
#[must_use]
pub fn has_prefix(path: &str, prefix: &str) -> bool {
    if prefix.is_empty() {
        return true;
    }
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The normal prefixes of a path, the longest first; the last is the empty one.
pub fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let mut next = Some(path);
    std::iter::from_fn(move || {
        let this = next?;
        next = this.rfind('/').map(|slash| &this[..slash]);
        Some(this)
    })
}

/// `path`, with the `prefix` (normal form) that it has replaced.
#[must_use]
pub fn replace_prefix(path: &str, prefix: &str, replacement: &str) -> String {
    let rest = path.strip_prefix(prefix).unwrap_or(path);
    let replacement = normal_prefix(replacement);
    if replacement.is_empty() && rest.is_empty() {
        return "/".to_owned();
    }
    format!("{replacement}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_a_segment_ends() {
        for (path, prefix, has) in [
            ("/abc", "/abc", true),
            ("/abc/", "/abc", true),
            ("/abc/def", "/abc/", true),
            ("/abcd", "/abc", false),
            ("/Abc", "/abc", false),
            ("/anything", "/", true),
            ("*", "/", true),
        ] {
            assert_eq!(has_prefix(path, normal_prefix(prefix)), has, "{path}");
        }
    }

    #[test]
    fn the_prefixes_of_a_path_are_those_that_it_has() {
        let all: Vec<_> = prefixes("/a/bc/").collect();
        assert_eq!(all, ["/a/bc/", "/a/bc", "/a", ""]);
        assert!(all.iter().all(|prefix| has_prefix("/a/bc/", prefix)));
        assert_eq!(prefixes("/").collect::<Vec<_>>(), ["/", ""]);
        assert_eq!(prefixes("*").collect::<Vec<_>>(), ["*"]);
    }

    /// The table of the specification (`HTTPPathModifier.replacePrefixMatch`).
    #[test]
    fn a_prefix_is_replaced_as_the_specification_lists() {
        for (path, prefix, replacement, modified) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
        ] {
            let got = replace_prefix(path, normal_prefix(prefix), replacement);
            assert_eq!(got, modified, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn paths_that_no_request_should_be_matched_by_are_refused() {
        for path in [
            "", "abc", "/a//b", "/a/./b", "/a/../b", "/a/..", "/.", "/a%2Fb", "/a%2fb", "/a#b",
            "/a b", "/a%g0", "/a%2", "/ä",
        ] {
            assert!(check(path).is_err(), "{path}");
        }
        for path in ["/", "/a", "/a/", "/a.b/..c/%20", "/a:b@c;d=e,f"] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
        assert!(check(&format!("/{}", "a".repeat(PATH_BYTES_MAX))).is_err());
    }
}
