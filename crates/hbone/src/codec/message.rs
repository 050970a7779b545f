//! Fields to requests and responses and back: what RFC 9113 8 and CONNECT (8.5) allow.

use crate::error::ErrorCode;
use crate::event::{ConnectRequest, ConnectResponse};
use crate::h2::hpack::{FIELD_OVERHEAD_BYTES, Field};
use crate::headers::Headers;

/// How a request is refused without asking the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Sound HTTP, but no plain CONNECT: answered with 400.
    BadRequest,
    /// Malformed (RFC 9113 8.1.1): the stream is reset.
    Malformed,
}

impl Refusal {
    pub(super) const CODE: ErrorCode = ErrorCode::PROTOCOL_ERROR;
}

/// Fields sorted out.
#[derive(Default)]
struct Sorted {
    method: Option<String>,
    authority: Option<String>,
    status: Option<String>,
    /// `:scheme`, `:path` or `:protocol`, which a plain CONNECT has not.
    others: [Option<String>; 3],
    headers: Headers,
}

fn sort(fields: Vec<Field>) -> Option<Sorted> {
    let mut sorted = Sorted::default();
    for field in fields {
        let value = text(field.value.into_owned())?;
        let name = &*field.name;
        if name.first() == Some(&b':') {
            let [scheme, path, protocol] = &mut sorted.others;
            let slot = match name {
                b":method" => &mut sorted.method,
                b":authority" => &mut sorted.authority,
                b":status" => &mut sorted.status,
                b":scheme" => scheme,
                b":path" => path,
                b":protocol" => protocol,
                _ => return None,
            };
            // Once, and before the ordinary fields.
            if slot.replace(value).is_some() || !sorted.headers.is_empty() {
                return None;
            }
            continue;
        }
        if !is_field_name(name) || is_connection_specific(name, &value) {
            return None;
        }
        match field.name {
            std::borrow::Cow::Borrowed(name) => {
                sorted.headers.push(str::from_utf8(name).ok()?, value)
            }
            std::borrow::Cow::Owned(name) => {
                sorted.headers.push(String::from_utf8(name).ok()?, value)
            }
        }
    }
    Some(sorted)
}

/// A value without the bytes that would end it elsewhere (RFC 9113 8.2.1).
fn text(value: Vec<u8>) -> Option<String> {
    if value.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) {
        return None;
    }
    Some(String::from_utf8(value).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into()))
}

/// A token of RFC 9110 5.6.2 in lower case.
fn is_field_name(name: &[u8]) -> bool {
    let token =
        |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(b);
    !name.is_empty() && name.iter().all(token)
}

/// RFC 9113 8.2.2.
fn is_connection_specific(name: &[u8], value: &str) -> bool {
    match name {
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => {
            true
        }
        b"te" => value != "trailers",
        _ => false,
    }
}

/// A request as a server reads it.
pub(super) fn read_request(fields: Vec<Field>) -> Result<ConnectRequest, Refusal> {
    let sorted = sort(fields).ok_or(Refusal::Malformed)?;
    let method = sorted.method.ok_or(Refusal::Malformed)?;
    if sorted.status.is_some() {
        return Err(Refusal::Malformed);
    }
    let plain = method == "CONNECT" && sorted.others.iter().all(Option::is_none);
    match sorted.authority {
        Some(authority) if plain && !authority.is_empty() => Ok(ConnectRequest {
            authority,
            headers: sorted.headers,
        }),
        _ => Err(Refusal::BadRequest),
    }
}

/// A response as a client reads it, also an interim one (1xx).
pub(super) fn read_response(fields: Vec<Field>) -> Result<ConnectResponse, Refusal> {
    let sorted = sort(fields).ok_or(Refusal::Malformed)?;
    let status = sorted
        .status
        .filter(|s| s.len() == 3 && s.bytes().all(|b| b.is_ascii_digit()));
    let status: u16 = status
        .and_then(|s| s.parse().ok())
        .ok_or(Refusal::Malformed)?;
    let request = sorted.method.is_some()
        || sorted.authority.is_some()
        || sorted.others.iter().any(Option::is_some);
    // 101 does not exist in HTTP/2 (RFC 9113 8.6).
    if request || !(100..600).contains(&status) || status == 101 {
        return Err(Refusal::Malformed);
    }
    Ok(ConnectResponse {
        status,
        headers: sorted.headers,
    })
}

/// Why our own message cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsendable {
    TooLarge,
    Invalid,
}

/// A header block with a pseudo-header section and ordinary fields, whose list may count `max`
/// bytes.
pub(super) fn write_block(
    pseudo: &[(&str, &str)],
    headers: &Headers,
    max: u32,
) -> Result<Vec<u8>, Unsendable> {
    let valid = headers.iter().all(|(name, value)| {
        is_field_name(name.as_bytes())
            && !is_connection_specific(name.as_bytes(), value)
            && !value.bytes().any(|b| matches!(b, 0 | b'\r' | b'\n'))
    });
    if !valid {
        return Err(Unsendable::Invalid);
    }
    let fields = || pseudo.iter().copied().chain(headers.iter());
    let size: usize = fields()
        .map(|(n, v)| n.len() + v.len() + FIELD_OVERHEAD_BYTES)
        .sum();
    if size > usize::try_from(max).unwrap_or(usize::MAX) {
        return Err(Unsendable::TooLarge);
    }
    let mut block = Vec::with_capacity(size);
    crate::h2::hpack::encode(fields(), &mut block);
    Ok(block)
}

/// The header block of a request.
pub(super) fn write_request(request: &ConnectRequest, max: u32) -> Result<Vec<u8>, Unsendable> {
    let authority = request.authority.as_str();
    if authority.is_empty() || !authority.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Unsendable::Invalid);
    }
    let pseudo = [(":method", "CONNECT"), (":authority", authority)];
    write_block(&pseudo, &request.headers, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Vec<Field> {
        let owned = |text: &str| text.as_bytes().to_vec().into();
        list.iter()
            .map(|(n, v)| Field {
                name: owned(n),
                value: owned(v),
            })
            .collect()
    }

    const CONNECT: [(&str, &str); 2] = [(":method", "CONNECT"), (":authority", "10.0.0.1:80")];

    fn request_with(more: &[(&str, &str)]) -> Result<ConnectRequest, Refusal> {
        read_request(fields(&[&CONNECT[..], more].concat()))
    }

    #[test]
    fn a_plain_connect_is_read_with_its_fields_in_order() {
        let request = request_with(&[("baggage", "a=b"), ("te", "trailers")]).unwrap();
        assert_eq!(request.authority, "10.0.0.1:80");
        assert_eq!(request.headers.get("baggage"), Some("a=b"));
    }

    #[test]
    fn sound_requests_that_are_no_plain_connect_get_400() {
        let cases: [&[(&str, &str)]; 5] = [
            &[
                (":method", "GET"),
                (":authority", "a:1"),
                (":scheme", "http"),
                (":path", "/"),
            ],
            &[(":method", "CONNECT")],
            &[(":method", "CONNECT"), (":authority", "")],
            &[CONNECT[0], CONNECT[1], (":scheme", "http"), (":path", "/")],
            &[CONNECT[0], CONNECT[1], (":protocol", "websocket")],
        ];
        for case in cases {
            assert_eq!(
                read_request(fields(case)),
                Err(Refusal::BadRequest),
                "{case:?}"
            );
        }
    }

    #[test]
    fn malformed_requests_are_told_apart() {
        let cases: [&[(&str, &str)]; 10] = [
            &[(":authority", "a:1")],
            &[("x", "y"), CONNECT[0], CONNECT[1]],
            &[CONNECT[0], CONNECT[0], CONNECT[1]],
            &[CONNECT[0], CONNECT[1], (":status", "200")],
            &[CONNECT[0], CONNECT[1], (":foo", "bar")],
            &[CONNECT[0], CONNECT[1], ("Upper", "x")],
            &[CONNECT[0], CONNECT[1], ("", "x")],
            &[CONNECT[0], CONNECT[1], ("connection", "close")],
            &[CONNECT[0], CONNECT[1], ("te", "gzip")],
            &[CONNECT[0], CONNECT[1], ("x", "a\r\nb")],
        ];
        for case in cases {
            assert_eq!(
                read_request(fields(case)),
                Err(Refusal::Malformed),
                "{case:?}"
            );
        }
    }

    #[test]
    fn responses_need_one_status_of_three_digits() {
        assert_eq!(
            read_response(fields(&[(":status", "200")])),
            Ok(ConnectResponse::of(200))
        );
        assert_eq!(
            read_response(fields(&[(":status", "103")])).unwrap().status,
            103
        );
        for status in ["", "20", "2000", "099", "600", "101", "+20"] {
            assert!(
                read_response(fields(&[(":status", status)])).is_err(),
                "{status}"
            );
        }
        assert!(read_response(fields(&[])).is_err());
        assert!(read_response(fields(&[(":status", "200"), (":path", "/")])).is_err());
    }

    #[test]
    fn a_value_that_would_break_out_of_its_field_is_not_sent() {
        let request = |authority: &str, name: &'static str, value: &str| ConnectRequest {
            authority: authority.into(),
            headers: Headers::new().with(name, value),
        };
        assert!(write_request(&request("a:1", "baggage", "x=y"), 1000).is_ok());
        let cases = [
            ("", "x", "y"),
            ("a b", "x", "y"),
            ("a:1", "X", "y"),
            ("a:1", "x", "y\n"),
        ];
        for (authority, name, value) in cases {
            let outcome = write_request(&request(authority, name, value), 1000);
            assert_eq!(
                outcome,
                Err(Unsendable::Invalid),
                "{authority} {name} {value}"
            );
        }
        let large = write_request(&request("a:1", "x", "y"), 100);
        assert_eq!(large, Err(Unsendable::TooLarge));
    }
}
