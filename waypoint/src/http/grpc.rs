//! What of gRPC a proxy must know: its content type, its statuses, its timeout.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::site::Reason;

/// `grpc-status`.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// `grpc-message`.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const TYPE: &str = "application/grpc";

const DEADLINE_EXCEEDED: u16 = 4;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;

/// Whether it is a gRPC request; gRPC-Web is ordinary HTTP here.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let rest = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(TYPE.as_bytes()));
    rest.is_some_and(|rest| rest.is_empty() || matches!(rest[0], b'+' | b';' | b' '))
}

/// Status of an answer, in its head or its trailers.
pub fn status(headers: &HeaderMap) -> Option<u16> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// How long the client waits (`grpc-timeout`: at most eight digits and a unit).
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = !digits.is_empty() && digits.len() <= 8;
    if !is_number || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// What stands for an answer of the waypoint's own.
pub fn code(status: StatusCode, reason: Reason) -> u16 {
    match (reason, status.as_u16()) {
        (Reason::TimedOut, _) => DEADLINE_EXCEEDED,
        (_, 404) => UNIMPLEMENTED,
        (_, 400 | 408 | 413 | 414 | 431) => INTERNAL,
        _ => UNAVAILABLE,
    }
}

/// The head of an answer that has no body and no trailers.
pub fn answer(headers: &mut HeaderMap, code: u16, message: &str) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(TYPE));
    headers.insert(STATUS, HeaderValue::from(code));
    // Percent-encoded where it is no visible ASCII; it never is.
    let is_plain = |c: char| c == ' ' || (c.is_ascii_graphic() && c != '%');
    let message: String = message.chars().filter(|c| is_plain(*c)).collect();
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert(MESSAGE, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (text, wanted) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("100000000n", None),
            ("S", None),
            ("+1S", None),
            ("1.5S", None),
            ("1s", None),
            ("1", None),
        ] {
            assert_eq!(timeout(&with(TIMEOUT, text)), wanted, "{text}");
        }
    }

    #[test]
    fn grpc_web_is_not_grpc() {
        for (text, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; a=b", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&with(CONTENT_TYPE, text)), wanted, "{text}");
        }
    }
}
