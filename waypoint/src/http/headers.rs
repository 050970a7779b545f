//! What a proxy does to header fields on the way: those of the connection end here (RFC 9110
//! 7.6.1), those that tell of the client begin here, those that a route changes are changed.

use bytes::{BufMut, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, StatusCode, Version};
use mesh::route::cors::AnswerHeaders;
use mesh::route::filter::HeaderChanges;

use super::limits::TOKEN_BYTES_MAX;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `x-request-id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `tracestate`.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// `traceparent`.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The fields of a request as routes look at them.
pub struct Fields<'a>(pub &'a HeaderMap);

impl mesh::route::Headers for Fields<'_> {
    fn value(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
        let mut values = self.0.get_all(name).iter();
        let first = text(values.next()?);
        Some(values.fold(first, |all, next| format!("{all},{}", text(next)).into()))
    }
}

fn text(value: &HeaderValue) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

/// Takes away the fields that `Connection` names: they were for this waypoint, and no route may go
/// by them.
pub fn end_named(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for named in named_by_connection(headers) {
            headers.remove(named);
        }
    }
}

/// Takes away what belongs to the connection that it came on. `TE: trailers` stays.
pub fn end_connection(headers: &mut HeaderMap) {
    end_named(headers);
    headers.remove(CONNECTION);
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let wants_trailers = has_token(headers, &TE, "trailers");
        headers.remove(TE);
        if wants_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Takes away what trailers must not hold (RFC 9110 6.5.1): what belongs to a connection, with
/// which nothing can be sent on over HTTP/2, and what would frame or address the message again.
pub fn end_trailers(trailers: &mut HeaderMap) {
    end_connection(trailers);
    for name in [CONTENT_LENGTH, HOST, TE] {
        trailers.remove(name);
    }
}

/// Names that `Connection` lists. Never those that the message cannot do without, nor TE, which is
/// always listed and is dealt with by itself.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let tokens = tokens.map(<[u8]>::trim_ascii);
    // The usual ones name no field that is left.
    let usual = [&b"keep-alive"[..], b"close", b"upgrade"];
    let is_usual = |token: &&[u8]| usual.iter().any(|one| token.eq_ignore_ascii_case(one));
    let tokens = tokens.filter(|token| !is_usual(token));
    let names = tokens.filter_map(|token| HeaderName::from_bytes(token).ok());
    names
        .filter(|name| ![HOST, CONTENT_LENGTH, TE].contains(name))
        .collect()
}

/// Whether a list field holds a token; parameters say nothing, case neither.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut values = headers.get_all(name).iter();
    values.any(|value| holds_token(value, token))
}

/// The same of one value.
pub fn holds_token(value: &HeaderValue, token: &str) -> bool {
    tokens(value).any(|one| one.eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether each token of a list, and there is one, is among those of another.
pub fn is_within(value: &HeaderValue, others: &HeaderValue) -> bool {
    let is_there = |one: &[u8]| tokens(others).any(|other| other.eq_ignore_ascii_case(one));
    let mut own = tokens(value).filter(|one| !one.is_empty()).peekable();
    own.peek().is_some() && own.all(is_there)
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let parts = value.as_bytes().split(|byte| *byte == b',');
    parts.map(|one| {
        let one = one.split(|byte| *byte == b';').next().unwrap_or_default();
        one.trim_ascii()
    })
}

/// Protocols of which the client asks to change to one; None: it does not, or not properly, which
/// is by one field.
pub fn upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let is_asked = version == Version::HTTP_11 && has_token(headers, &CONNECTION, "upgrade");
    let mut fields = headers.get_all(UPGRADE).iter().filter(|_| is_asked);
    let first = fields.next()?;
    fields.next().is_none().then(|| first.clone())
}

/// Whether the client asks to go on with HTTP/2 (RFC 7540 3.2), which takes one HTTP2-Settings.
pub fn wants_h2c(headers: &HeaderMap, protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"h2c")
        && headers.get_all(HTTP2_SETTINGS).iter().count() == 1
        && has_token(headers, &CONNECTION, "http2-settings")
}

/// Whether a request of HTTP/2 has no length, or one that can be written to HTTP/1: two of them, or
/// one without a body, would be read in two ways there.
pub fn has_one_length(headers: &HeaderMap, has_body: bool) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(length), second) = (lengths.next(), lengths.next()) else {
        return true;
    };
    let length = length.as_bytes();
    let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    let is_zero = length.iter().all(|digit| *digit == b'0');
    second.is_none() && is_number && (has_body || is_zero)
}

/// Whether an answer is coded in no other way than in chunks, which end here: what codes its bytes
/// would be lost with them, and nobody has asked for it (`TE`). Old servers say `identity`.
pub fn is_plain(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_known = |coding: &HeaderValue| {
        let known = [&b"chunked"[..], b"identity"];
        known
            .iter()
            .any(|one| coding.as_bytes().eq_ignore_ascii_case(one))
    };
    codings.next().is_none_or(is_known) && codings.next().is_none()
}

/// Makes one field of cookies that came in several, which HTTP/2 may send so and HTTP/1 must not
/// have (RFC 9113 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let pieces = headers.get_all(COOKIE);
    if pieces.iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<_> = pieces.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// Leaves an answer the one length that hyper has read it by: none beside chunks or where there can
/// be no body, and equal ones once.
pub fn settle_length(status: StatusCode, headers: &mut HeaderMap) {
    if status == StatusCode::NO_CONTENT || headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    } else if let Some(length) = headers.get(CONTENT_LENGTH).cloned() {
        headers.insert(CONTENT_LENGTH, length);
    }
}

/// Whether the client waits for `100 Continue`.
pub fn expects_continue(headers: &HeaderMap) -> bool {
    let value = headers.get(EXPECT);
    value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Tells of the client: `client` is its address as text.
pub fn tell_of_client(headers: &mut HeaderMap, client: &HeaderValue) {
    let value = match headers.get(FORWARDED_FOR) {
        None => client.clone(),
        Some(_) => joined(headers, client),
    };
    headers.insert(FORWARDED_FOR, value);
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// One line: some applications read no second one.
fn joined(headers: &HeaderMap, client: &HeaderValue) -> HeaderValue {
    let mut all = BytesMut::new();
    for value in headers.get_all(FORWARDED_FOR) {
        all.put_slice(value.as_bytes());
        all.put_slice(b", ");
    }
    all.put_slice(client.as_bytes());
    HeaderValue::from_maybe_shared(all.freeze()).unwrap_or_else(|_| client.clone())
}

/// Makes `x-request-id` and `traceparent` where they are missing or no good; `random` is drawn for
/// each 64 bits. Returns the request's id.
pub fn name_request(headers: &mut HeaderMap, random: &dyn Fn() -> u64) -> HeaderValue {
    let is_good = |value: &&HeaderValue| !value.is_empty() && value.len() <= TOKEN_BYTES_MAX;
    let id = match headers.get(REQUEST_ID).filter(is_good) {
        Some(id) => id.clone(),
        None => {
            let id = request_id(random(), random());
            headers.insert(REQUEST_ID, id.clone());
            id
        }
    };
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let is_kept = match (parents.next(), parents.next()) {
        (Some(parent), None) => is_traceparent(parent.as_bytes()),
        _ => false,
    };
    if !is_kept {
        let made = traceparent([random(), random(), random()]);
        headers.insert(TRACEPARENT, made);
        headers.remove(TRACESTATE);
    }
    id
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The first digits of a number of sixteen.
pub fn put_hex(text: &mut [u8], value: u64) {
    for (at, byte) in text.iter_mut().enumerate() {
        *byte = HEX[(value >> (60 - 4 * (at % 16)) & 15) as usize];
    }
}

/// A UUID of version 4 (RFC 9562).
fn request_id(high: u64, low: u64) -> HeaderValue {
    let high = high & !0xf000 | 0x4000;
    let low = low & !(3 << 62) | 1 << 63;
    let mut digits = [0; 32];
    put_hex(&mut digits[..16], high);
    put_hex(&mut digits[16..], low);
    let mut text = [b'-'; 36];
    for (to, from) in [
        (0..8, 0),
        (9..13, 8),
        (14..18, 12),
        (19..23, 16),
        (24..36, 20),
    ] {
        let count = to.len();
        text[to].copy_from_slice(&digits[from..from + count]);
    }
    visible(&text)
}

/// W3C Trace Context, version 00. Not sampled: that flag says that its maker may have recorded
/// the trace, and of a request that is sampled [`super::trace`] tells.
fn traceparent(random: [u64; 3]) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    put_hex(&mut text[3..19], random[0] | 1);
    put_hex(&mut text[19..35], random[1]);
    put_hex(&mut text[36..52], random[2] | 1);
    visible(&text)
}

fn visible(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("digits and dashes are a value")
}

/// Whether it is valid (W3C Trace Context 3.2).
pub fn is_traceparent(text: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    // Later versions may add fields behind another dash.
    let is_long_enough = text.len() == 55 || (text.len() > 55 && text[55] == b'-');
    is_long_enough
        && text.len() <= TOKEN_BYTES_MAX
        && is_hex(&text[..2])
        && &text[..2] != b"ff"
        && (text.len() == 55 || &text[..2] != b"00")
        && [text[2], text[35], text[52]] == *b"---"
        && is_hex(&text[3..35])
        && !is_zero(&text[3..35])
        && is_hex(&text[36..52])
        && !is_zero(&text[36..52])
        && is_hex(&text[53..55])
}

/// Changes fields as a filter says: set, add, remove.
pub fn change(headers: &mut HeaderMap, changes: &HeaderChanges) {
    for (name, value) in &changes.set {
        if let Some((name, value)) = field(name, value) {
            headers.insert(name, value);
        }
    }
    for (name, value) in &changes.add {
        if let Some((name, value)) = field(name, value) {
            headers.append(name, value);
        }
    }
    for name in &changes.remove {
        headers.remove(&**name);
    }
}

/// Sets what a cross-origin answer carries, instead of what the backend said of it.
pub fn share(headers: &mut HeaderMap, shared: AnswerHeaders) {
    for (name, value) in shared {
        if let Some((name, value)) = field(name, &value) {
            match name == http::header::VARY {
                true => headers.append(name, value),
                false => headers.insert(name, value).is_some(),
            };
        }
    }
}

/// None: it is no field (what routes are made of has been checked before).
fn field(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    Some((name, HeaderValue::from_str(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name, value);
        }
        map
    }

    #[test]
    fn what_belongs_to_the_connection_ends_here() {
        let mut headers = map(&[
            ("connection", "close, X-Mine , te, host"),
            ("connection", "keep-alive"),
            ("x-mine", "1"),
            ("host", "a"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("te", "gzip, trailers;q=1"),
            ("x-other", "2"),
        ]);
        end_connection(&mut headers);
        let left = map(&[("host", "a"), ("x-other", "2"), ("te", "trailers")]);
        assert_eq!(headers, left);
        let mut headers = map(&[("te", "gzip")]);
        end_connection(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn a_length_that_could_be_read_in_two_ways_is_none() {
        let one = |value| map(&[("content-length", value)]);
        for (headers, has_body, fine) in [
            (map(&[]), true, true),
            (one("5"), true, true),
            (one("0"), false, true),
            (one("5"), false, false),
            (one("+5"), true, false),
            (one(""), true, false),
            (
                map(&[("content-length", "5"), ("content-length", "5")]),
                true,
                false,
            ),
        ] {
            assert_eq!(has_one_length(&headers, has_body), fine, "{headers:?}");
        }
        let mut both = map(&[("content-length", "5"), ("transfer-encoding", "chunked")]);
        settle_length(StatusCode::OK, &mut both);
        assert!(!both.contains_key(CONTENT_LENGTH));
        let mut twice = map(&[("content-length", "5"), ("content-length", "5")]);
        settle_length(StatusCode::OK, &mut twice);
        assert_eq!(twice, one("5"));
    }

    #[test]
    fn the_client_is_added_behind_those_before_it() {
        let mut headers = map(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("host", "shop"),
        ]);
        tell_of_client(&mut headers, &HeaderValue::from_static("3.3.3.3"));
        let told = |name| headers.get(name).unwrap().to_str().unwrap();
        assert_eq!(told("x-forwarded-for"), "1.1.1.1, 2.2.2.2, 3.3.3.3");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(told("x-forwarded-proto"), "https");
        assert_eq!(told("x-forwarded-host"), "shop");
    }

    #[test]
    fn a_trace_is_kept_when_it_is_one_and_made_otherwise() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        for (text, kept) in [
            (good, true),
            (
                "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-x",
                true,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-x",
                false,
            ),
            (
                "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
                false,
            ),
            (
                "00-00000000000000000000000000000000-00f067aa0ba902b7-00",
                false,
            ),
            (
                "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-00",
                false,
            ),
            ("garbage", false),
        ] {
            let mut headers = map(&[("traceparent", text)]);
            name_request(&mut headers, &|| 0x0123_4567_89ab_cdef);
            let now = headers.get("traceparent").unwrap().as_bytes();
            assert_eq!(now == text.as_bytes(), kept, "{text}");
            assert!(is_traceparent(now));
            assert!(kept || now.ends_with(b"-00"), "nobody has sampled it");
        }
    }

    #[test]
    fn a_request_id_is_kept_or_made() {
        let mut headers = map(&[("x-request-id", "mine")]);
        assert_eq!(name_request(&mut headers, &|| 7), "mine");
        let mut headers = HeaderMap::new();
        let id = name_request(&mut headers, &|| 0x0123_4567_89ab_cdef);
        assert_eq!(id, "01234567-89ab-4def-8123-456789abcdef");
    }
}
