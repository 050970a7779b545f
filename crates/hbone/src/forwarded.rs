//! The `forwarded` header of a tunnel (RFC 7239): the client's address, and the host name that the
//! application asked for. Told by the peer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Name of the header.
pub const FORWARDED: &str = "forwarded";

/// Longest header that is read, bytes; ours is at most 330.
pub const MAX_FORWARDED_BYTES: usize = 1024;

/// The first hop of a `forwarded` header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// `for`: the client; a port only when it was given.
    pub client: Option<Client>,
    /// `host`: the name that the application asked for.
    pub host: Option<String>,
}

/// The address of a client, with a port when one was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: Option<u16>,
}

impl From<SocketAddr> for Client {
    fn from(address: SocketAddr) -> Self {
        Self {
            ip: address.ip().to_canonical(),
            port: Some(address.port()),
        }
    }
}

impl Forwarded {
    /// Reads the first element of a header value. What cannot be read is left out: an obfuscated or
    /// unknown client is `None`.
    pub fn parse(value: &str) -> Self {
        let mut forwarded = Self::default();
        if value.len() > MAX_FORWARDED_BYTES {
            return forwarded;
        }
        for pair in split(first_element(value), b';') {
            let Some((name, text)) = pair.split_once('=') else {
                continue;
            };
            let Some(text) = unquote(text.trim()) else {
                continue;
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "for" if forwarded.client.is_none() => forwarded.client = node(&text),
                "host" if forwarded.host.is_none() => forwarded.host = Some(text.into_owned()),
                _ => {}
            }
        }
        forwarded
    }
}

/// `for="10.0.0.1:4711"` or `for="[fd00::1]:4711"`, then `;host=name`. A host that is no plain
/// token of a header is left out.
impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(client) = self.client {
            match (client.ip, client.port) {
                (ip, Some(port)) => write!(f, "for=\"{}\"", SocketAddr::new(ip, port))?,
                (IpAddr::V6(ip), None) => write!(f, "for=\"[{ip}]\"")?,
                (IpAddr::V4(ip), None) => write!(f, "for=\"{ip}\"")?,
            }
            separator = ";";
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        match &self.host {
            Some(host) if !host.is_empty() && host.bytes().all(plain) => {
                write!(f, "{separator}host={host}")
            }
            _ => Ok(()),
        }
    }
}

fn first_element(value: &str) -> &str {
    split(value, b',').next().unwrap_or_default()
}

/// Pieces between separators that stand outside of quotes.
fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b if b == separator && !quoted => {
                    rest = Some(&text[at + 1..]);
                    return Some(&text[..at]);
                }
                _ => {}
            }
        }
        rest = None;
        Some(text)
    })
}

/// The text of a token or a quoted string; `None` for a quote that does not end.
fn unquote(text: &str) -> Option<std::borrow::Cow<'_, str>> {
    let Some(inner) = text.strip_prefix('"') else {
        return Some(text.into());
    };
    let inner = inner.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(inner.into());
    }
    let mut escaped = false;
    let plain = inner.chars().filter(|c| {
        let drop = *c == '\\' && !escaped;
        escaped = drop;
        !drop
    });
    Some(plain.collect::<String>().into())
}

/// `ip`, `ip:port`, `[v6]` or `[v6]:port` (RFC 7239 6).
fn node(text: &str) -> Option<Client> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.into());
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    let ip: IpAddr = bare.parse().ok()?;
    Some(Client {
        ip: ip.to_canonical(),
        port: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_and_a_host_read_back() {
        for address in ["10.244.1.5:40112", "[fd00:10:244:1::5]:40112"] {
            let forwarded = Forwarded {
                client: Some(address.parse::<SocketAddr>().unwrap().into()),
                host: Some("web.shop.svc.cluster.local".into()),
            };
            let text = forwarded.to_string();
            assert_eq!(
                text,
                format!("for=\"{address}\";host=web.shop.svc.cluster.local")
            );
            assert_eq!(Forwarded::parse(&text), forwarded);
        }
    }

    #[test]
    fn the_first_hop_counts_and_names_have_no_case() {
        let parsed = Forwarded::parse(r#"For="192.0.2.43" ; proto=http ;HOST="a\.b", for=1.2.3.4"#);
        assert_eq!(
            parsed.client,
            Some(Client {
                ip: "192.0.2.43".parse().unwrap(),
                port: None
            })
        );
        assert_eq!(parsed.host.as_deref(), Some("a.b"));
        assert_eq!(Forwarded::parse("for=\"[::1]\"").client.unwrap().port, None);
    }

    #[test]
    fn what_cannot_be_read_names_nobody() {
        let long = format!("for=1.2.3.4;x={}", "y".repeat(MAX_FORWARDED_BYTES));
        for text in [
            "",
            "for",
            "for=",
            "for=unknown",
            "for=_hidden",
            "for=\"1.2.3.4",
            &long,
        ] {
            assert_eq!(Forwarded::parse(text).client, None, "{text}");
        }
    }

    #[test]
    fn a_host_that_would_forge_a_field_is_not_written() {
        let forged = Forwarded {
            client: None,
            host: Some("a;for=1.2.3.4".into()),
        };
        assert_eq!(forged.to_string(), "");
    }
}
