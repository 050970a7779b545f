//! The header fields of a CONNECT request as text: baggage, forwarded, traceparent, authority.
//!
//! Pure. Knows no tunnel and no socket; what a peer writes here is telemetry, never identity.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use hbone::Headers;
use hbone::authority::Authority;
use hbone::baggage::{self, BAGGAGE, Baggage};
use hbone::forwarded::{FORWARDED, Forwarded};
use mesh::Workload;
use mesh::address::{OWN_PORTS, canonical};
use mesh::workload::WorkloadKind;

use crate::limits::LOGGED_CHARS;

/// Fields of [`request_fields`], for their memory.
const REQUEST_FIELDS: usize = 3;

/// Characters of a `forwarded` field without its host, at most, for its memory: an IPv6 address
/// with its port, and the words around.
const FORWARDED_CHARS: usize = 64;

/// Characters of a `traceparent`.
const TRACEPARENT_CHARS: usize = 55;

/// The header fields of a CONNECT: who asks, for whom, and a trace.
pub fn request_fields(
    source: Option<&Workload>,
    client: SocketAddr,
    host: Option<&str>,
    entropy: impl FnMut() -> u64,
) -> Headers {
    let mut headers = Headers::with_capacity(REQUEST_FIELDS);
    if let Some(source) = source {
        describe(source, &mut headers);
    }
    let forwarded = Forwarded {
        client: Some(client.into()),
        host: host.map(str::to_owned),
    };
    let mut text = String::with_capacity(FORWARDED_CHARS + host.map_or(0, str::len));
    // A String takes all that is written.
    let _ = write!(text, "{forwarded}");
    headers.push(FORWARDED, text);
    headers.push("traceparent", traceparent(entropy));
    headers
}

/// The header fields of the answer: who took it.
pub fn response_fields(workload: &Workload) -> Headers {
    let mut headers = Headers::with_capacity(1);
    describe(workload, &mut headers);
    headers
}

/// Its baggage, unless there is none to tell: written once for all replicas.
fn describe(workload: &Workload, headers: &mut Headers) {
    let text = workload.described(|workload| baggage(workload).to_string());
    if !text.is_empty() {
        headers.push(BAGGAGE, &**text);
    }
}

/// Empty parts are left out when it is written.
fn baggage(workload: &Workload) -> Baggage {
    let kind = match workload.kind {
        WorkloadKind::Deployment => baggage::WorkloadKind::Deployment,
        WorkloadKind::CronJob => baggage::WorkloadKind::CronJob,
        WorkloadKind::Pod => baggage::WorkloadKind::Pod,
        WorkloadKind::Job => baggage::WorkloadKind::Job,
    };
    let some = |text: &str| Some(text.to_owned());
    Baggage {
        cluster: some(&workload.cluster),
        namespace: some(&workload.namespace),
        workload: Some((kind, workload.workload_name.to_string())),
        service: some(&workload.canonical_name),
        version: some(&workload.canonical_revision),
        region: some(&workload.locality.region),
        zone: some(&workload.locality.zone),
    }
}

/// A fresh W3C `traceparent`, not sampled. `entropy` gives 64 random bits a call.
fn traceparent(mut entropy: impl FnMut() -> u64) -> String {
    let mut text = String::with_capacity(TRACEPARENT_CHARS);
    text.push_str("00-");
    // All-zero ids are invalid (W3C Trace Context, 3.2.2.3): the lowest bit is set.
    push_hex(&mut text, entropy());
    push_hex(&mut text, entropy() | 1);
    text.push('-');
    push_hex(&mut text, entropy() | 1);
    text.push_str("-00");
    text
}

/// Sixteen digits, without the formatter's detours.
fn push_hex(text: &mut String, number: u64) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let digit = |place: u32| DIGITS[(number >> (4 * place) & 15) as usize];
    text.extend((0..16).rev().map(digit));
}

/// Why a CONNECT request is answered 400.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Not `ip:port` nor `[ip]:port`.
    #[error("authority `{0}` is no address and port")]
    Garbage(String),
    /// The stream asks for another address than the connection was made to.
    #[error("authority {asked} is not the address {bound} that the tunnel was made to")]
    OtherAddress {
        /// Address in the authority.
        asked: IpAddr,
        /// Address of the TCP connection.
        bound: IpAddr,
    },
    /// A port of the proxy itself: the connection would come back to it.
    #[error("port {0} belongs to the proxy")]
    OwnPort(u16),
}

/// The port that a CONNECT asks for. The address must be the one that the TCP connection of the
/// tunnel was made to, and the port none of the proxy's own.
///
/// # Errors
/// What the client wrote wrong; it is answered 400.
pub fn requested_port(authority: &str, bound: IpAddr) -> Result<u16, AuthorityError> {
    let garbage = || AuthorityError::Garbage(shortened(authority));
    // A host name makes sense to a waypoint or a gateway; this is neither.
    let asked = authority
        .parse::<Authority>()
        .ok()
        .and_then(|asked| asked.address());
    let asked = asked.ok_or_else(garbage)?;
    let (asked_ip, bound) = (canonical(asked.ip()), canonical(bound));
    if asked_ip != bound {
        return Err(AuthorityError::OtherAddress {
            asked: asked_ip,
            bound,
        });
    }
    if OWN_PORTS.contains(&asked.port()) {
        return Err(AuthorityError::OwnPort(asked.port()));
    }
    Ok(asked.port())
}

/// A peer's text for a log line: bounded, and without control characters.
pub fn shortened(text: &str) -> String {
    text.chars()
        .take(LOGGED_CHARS)
        .flat_map(char::escape_default)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 1, 5));

    #[test]
    fn a_port_of_the_bound_address_is_taken() {
        assert_eq!(requested_port("10.244.1.5:80", POD), Ok(80));
        assert_eq!(
            requested_port("[fd00::5]:8080", "fd00::5".parse().unwrap()),
            Ok(8080)
        );
        assert_eq!(requested_port("[::ffff:10.244.1.5]:80", POD), Ok(80));
    }

    #[test]
    fn garbage_is_no_authority() {
        let long = "x".repeat(70_000);
        for text in [
            "",
            ":",
            "10.244.1.5",
            "10.244.1.5:0",
            "10.244.1.5:65536",
            "10.244.1.5:80/",
            "web.shop:80",
            "[fe80::1%3]:80",
            "http://10.244.1.5:80",
            "10.244.1.5:80,10.244.1.5:81",
            "\u{0}\n",
            &long,
        ] {
            let error = requested_port(text, POD).unwrap_err();
            assert!(
                matches!(error, AuthorityError::Garbage(_)),
                "{text}: {error}"
            );
            assert!(
                error.to_string().len() < 1_024,
                "the log line of {} bytes",
                text.len()
            );
        }
    }

    #[test]
    fn another_address_is_refused() {
        for text in ["10.244.1.6:80", "127.0.0.1:80", "[::1]:80"] {
            let error = requested_port(text, POD).unwrap_err();
            assert!(
                matches!(error, AuthorityError::OtherAddress { .. }),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn the_proxys_own_ports_are_refused() {
        for port in OWN_PORTS {
            let error = requested_port(&format!("10.244.1.5:{port}"), POD).unwrap_err();
            assert_eq!(error, AuthorityError::OwnPort(port));
        }
    }

    #[test]
    fn a_trace_id_is_never_all_zero() {
        assert_eq!(
            traceparent(|| 0),
            "00-00000000000000000000000000000001-0000000000000001-00"
        );
    }

    #[test]
    fn a_trace_id_is_written_in_full() {
        let mut numbers = [0x0123_4567_89ab_cdef, u64::MAX, 0xf0].into_iter();
        assert_eq!(
            traceparent(|| numbers.next().unwrap()),
            "00-0123456789abcdefffffffffffffffff-00000000000000f1-00"
        );
    }

    #[test]
    fn a_request_names_the_client_and_the_service() {
        let client: SocketAddr = "[fd00::1]:4000".parse().unwrap();
        let fields = request_fields(None, client, Some("web.shop"), || 1);
        assert_eq!(
            fields.get("forwarded"),
            Some("for=\"[fd00::1]:4000\";host=web.shop")
        );
        assert!(
            fields
                .get("traceparent")
                .is_some_and(|text| text.len() == 55)
        );
        assert_eq!(fields.get("baggage"), None);
    }
}
