//! What a connection's first bytes say that it speaks: HTTP, TLS for a name, or something else.
//!
//! Pure. It must not know who asks nor what follows from it.

mod hello;

/// Most bytes that are looked at before a connection counts as something else: a whole ClientHello
/// with post-quantum key shares, or a request line of 8,000 bytes (RFC 9110 4.1) and more.
pub const OPENING_BYTES: usize = 16 * 1_024;

/// What HTTP/2 begins with (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest method that is believed: `BASELINE-CONTROL`, twice over.
const METHOD_BYTES: usize = 32;

/// What it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The bytes so far do not say; never with [`OPENING_BYTES`] or more.
    Unclear,
    /// HTTP/1 or HTTP/2.
    Http,
    /// TLS; the server name in lower case, if the client gave one.
    Tls(Option<String>),
    /// Anything else.
    Other,
}

/// Looks at the first bytes of a connection.
#[must_use]
pub fn look(bytes: &[u8]) -> Opening {
    let opening = match bytes {
        [] => Opening::Unclear,
        [0x16, ..] => hello::look(bytes),
        _ if bytes.starts_with(PREFACE) => Opening::Http,
        _ if PREFACE.starts_with(bytes) => Opening::Unclear,
        _ => look_for_request(bytes),
    };
    match opening {
        Opening::Unclear if bytes.len() >= OPENING_BYTES => Opening::Other,
        opening => opening,
    }
}

/// A request line (RFC 9112 3). The whole line is waited for: `GET key` is Redis.
fn look_for_request(bytes: &[u8]) -> Opening {
    // Empty lines before it are tolerated (RFC 9112 2.2).
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    let Some(bytes) = start.map(|start| &bytes[start..]) else {
        return Opening::Unclear;
    };
    let method = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-')
        .count();
    if method == 0 || method > METHOD_BYTES {
        return Opening::Other;
    }
    match bytes.get(method) {
        None => return Opening::Unclear,
        Some(b' ') => {}
        Some(_) => return Opening::Other,
    }
    let rest = &bytes[method + 1..];
    let end = rest.iter().position(|byte| *byte == b'\n');
    let line = &rest[..end.unwrap_or(rest.len())];
    let line_is_text = line.iter().all(|byte| *byte >= b' ' || *byte == b'\r');
    if !line_is_text {
        return Opening::Other;
    }
    if end.is_none() {
        // A target that is longer than all that is looked at: to be refused as HTTP.
        let is_endless = rest.len() + METHOD_BYTES >= OPENING_BYTES && rest[0] == b'/';
        return match is_endless {
            true => Opening::Http,
            false => Opening::Unclear,
        };
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.rsplit(|byte| *byte == b' ').next();
    let is_http = version.is_some_and(|version| version.starts_with(b"HTTP/"));
    match is_http {
        true => Opening::Http,
        false => Opening::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_known_by_its_first_line() {
        for text in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.0\n",
            "\r\nPOST /x HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "M-SEARCH * HTTP/1.1\r\n",
            "GET http://web/ HTTP/1.1\r\n",
            "CONNECT web:80 HTTP/1.1\r\n",
            "GET / HTTP/9.9\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0",
        ] {
            assert_eq!(look(text.as_bytes()), Opening::Http, "{text:?}");
            let line = text.trim_start().find('\n').unwrap();
            let until = text.len() - text.trim_start().len() + line;
            for part in 0..until {
                let opening = look(&text.as_bytes()[..part]);
                assert_eq!(opening, Opening::Unclear, "{:?}", &text[..part]);
            }
        }
    }

    #[test]
    fn what_only_looks_like_http_is_not() {
        for text in [
            &b"GET key\r\n"[..],
            b"SET key value\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"EHLO mail.example\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"get / HTTP/1.1\r\n",
            b"GET\t/ HTTP/1.1\r\n",
            b"GET /\0 HTTP/1.1",
            b"\0\0\0\x10",
            b"\x15\x03\x01",
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJK",
        ] {
            assert_eq!(look(text), Opening::Other, "{text:?}");
        }
    }

    #[test]
    fn no_more_is_looked_at_than_the_bound() {
        let long_path = [b"GET /", &[b'a'; OPENING_BYTES][..]].concat();
        assert_eq!(look(&long_path), Opening::Http);
        let long_word = [b"GET a", &[b'a'; OPENING_BYTES][..]].concat();
        assert_eq!(look(&long_word), Opening::Other);
        assert_eq!(look(&[b'\n'; OPENING_BYTES]), Opening::Other);
        let mut long_hello = vec![0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb];
        long_hello.resize(OPENING_BYTES - 1, 0);
        long_hello[9..11].copy_from_slice(&[3, 3]);
        assert_ne!(look(&long_hello), Opening::Http);
        long_hello.resize(OPENING_BYTES, 0);
        assert_ne!(look(&long_hello), Opening::Unclear);
    }
}
