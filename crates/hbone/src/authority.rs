//! The `:authority` of a CONNECT request: where the tunnel shall end. It must not know what exists
//! there.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Longest authority in bytes: a DNS name of 253, a colon and a port of five digits.
pub const MAX_AUTHORITY_BYTES: usize = 253 + 1 + 5;

/// Longest label of a DNS name in bytes (RFC 1035 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// A target with its port. Ports are 1 to 65535.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// `ip:port` or `[v6]:port`; IPv4-mapped IPv6 becomes IPv4.
    Address(SocketAddr),
    /// `host:port`, the name in lower case.
    Host {
        /// A DNS name without a final dot.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Why a text is no authority; the client is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Longer than [`MAX_AUTHORITY_BYTES`].
    #[error("the authority is longer than {MAX_AUTHORITY_BYTES} bytes")]
    Long,
    /// No port, or not 1 to 65535.
    #[error("the authority has no port of 1 to 65535")]
    Port,
    /// Neither an address nor a host name (user information and zones are not allowed).
    #[error("the authority names no host")]
    Host,
}

impl Authority {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }

    /// The address, unless it is a host name.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Host { .. } => None,
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        if text.len() > MAX_AUTHORITY_BYTES {
            return Err(AuthorityError::Long);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::Port)?;
        let port = parse_port(port).ok_or(AuthorityError::Port)?;
        if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            let ip: Ipv6Addr = inner.parse().map_err(|_| AuthorityError::Host)?;
            return Ok(Self::Address(SocketAddr::new(
                IpAddr::V6(ip).to_canonical(),
                port,
            )));
        }
        if let Ok(ip) = host.parse() {
            return Ok(Self::Address(SocketAddr::new(IpAddr::V4(ip), port)));
        }
        let host = host_name(host).ok_or(AuthorityError::Host)?;
        Ok(Self::Host { host, port })
    }
}

/// A port without sign, spaces or leading zeros.
fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A DNS name: labels of letters, digits, `-` and `_` (Kubernetes and SRV names use it). A last
/// label of digits only would be a broken IPv4 address.
fn host_name(text: &str) -> Option<String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL_BYTES
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next()?;
    let numeric = last.bytes().all(|b| b.is_ascii_digit());
    (!numeric && name.split('.').all(label)).then(|| name.to_ascii_lowercase())
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_read_back_what_they_show() {
        for text in [
            "10.0.0.1:80",
            "[fd00::1]:15008",
            "web.shop.svc.cluster.local:9090",
            "a_b:1",
        ] {
            let authority: Authority = text.parse().unwrap();
            assert_eq!(authority.to_string(), text);
        }
    }

    #[test]
    fn other_spellings_of_one_target_become_equal() {
        let one: Authority = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(one, "10.0.0.1:80".parse().unwrap());
        let host: Authority = "Web.Shop.:80".parse().unwrap();
        assert_eq!(host.to_string(), "web.shop:80");
    }

    #[test]
    fn garbage_is_refused_with_what_is_wrong() {
        use AuthorityError::{Host, Long, Port};
        let long = format!("{}:80", "a".repeat(300));
        let label = format!("{}:80", "a".repeat(64));
        let cases = [
            ("", Port),
            ("10.0.0.1", Port),
            ("10.0.0.1:", Port),
            ("10.0.0.1:0", Port),
            ("10.0.0.1:080", Port),
            ("10.0.0.1:+80", Port),
            ("10.0.0.1:65536", Port),
            (":80", Host),
            ("10.0.0.256:80", Host),
            ("10.0.0:80", Host),
            ("fd00::1:80", Host),
            ("[fd00::1%eth0]:80", Host),
            ("[10.0.0.1]:80", Host),
            ("user@host:80", Host),
            ("a..b:80", Host),
            ("-a:80", Host),
            ("a b:80", Host),
            ("a\r\nb:80", Host),
            ("é:80", Host),
            (&label, Host),
            (&long, Long),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Authority>(), Err(error), "{text:?}");
        }
    }
}
