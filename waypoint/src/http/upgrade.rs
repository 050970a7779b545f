//! Changes of protocol on behalf of a client: `Upgrade` and CONNECT of HTTP/1, CONNECT of HTTP/2
//! (RFC 9113 8.5, RFC 8441). Endpoints are asked in HTTP/1 always, on a connection of its own.

use h2::RecvStream;
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Response, StatusCode, request, response};
use tokio::sync::oneshot;

use super::answer::{AnswerBody, Own, Tunnel};
use super::headers;
use super::log::Log;
use super::site::{Reason, Site};
use super::upstream::{Lease, Taken};

/// A change that a client asked for.
pub(super) enum Upgrade {
    /// To one of these protocols, by `Upgrade`.
    Named(HeaderValue),
    /// CONNECT.
    Connect,
    /// CONNECT of HTTP/2 for WebSocket.
    WebSocket,
}

impl Upgrade {
    /// What the request asks for; None: nothing. A WebSocket is asked for with GET from here on,
    /// whichever version of HTTP it came by.
    pub(super) fn of(head: &mut request::Parts) -> Result<Option<Self>, Own> {
        if head.method != Method::CONNECT {
            let named = headers::upgrade(&head.headers, head.version);
            // Behind h2c no request could be seen. Where the waypoint itself does not change to it,
            // the client stays with HTTP/1.1, which a server may always choose.
            let hides = |name: &HeaderValue| headers::holds_token(name, "h2c");
            return Ok(named.filter(|name| !hides(name)).map(Self::Named));
        }
        match head.extensions.remove::<h2::ext::Protocol>() {
            None => Ok(Some(Self::Connect)),
            Some(protocol) if protocol.as_str() == "websocket" => {
                head.method = Method::GET;
                Ok(Some(Self::WebSocket))
            }
            Some(_) => {
                let why = "the protocol of the CONNECT is not known";
                let status = StatusCode::NOT_IMPLEMENTED;
                Err(Own::error(status, Reason::BadRequest, why))
            }
        }
    }

    /// Puts the question into the head for the endpoint.
    pub(super) fn ask(&self, head: &mut request::Parts, site: &dyn Site) {
        let protocol = match self {
            Self::Named(protocol) => protocol.clone(),
            Self::WebSocket => {
                let key = websocket_key(site.random(), site.random());
                head.headers.insert(SEC_WEBSOCKET_KEY, key);
                let version = HeaderValue::from_static("13");
                head.headers.entry(SEC_WEBSOCKET_VERSION).or_insert(version);
                HeaderValue::from_static("websocket")
            }
            Self::Connect => return,
        };
        let upgrade = HeaderValue::from_static("upgrade");
        head.headers.insert(CONNECTION, upgrade);
        head.headers.insert(UPGRADE, protocol);
    }

    /// Whether the endpoint agrees, to what it was asked for.
    pub(super) fn is_accepted(&self, head: &response::Parts) -> bool {
        let is_switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let to = head.headers.get(UPGRADE);
        match self {
            Self::Named(asked) => is_switched && to.is_some_and(|to| headers::is_within(to, asked)),
            Self::WebSocket => {
                is_switched && to.is_some_and(|to| headers::holds_token(to, "websocket"))
            }
            Self::Connect => head.status.is_success(),
        }
    }

    /// The answer that changes the protocol; bytes go both ways behind it until they end.
    pub(super) fn change(
        self,
        mut head: response::Parts,
        (taken, lease): (oneshot::Receiver<Taken>, Lease),
        (stream, mut log): (Option<RecvStream>, Box<Log>),
    ) -> Response<AnswerBody> {
        // The endpoint's connection is over as one of HTTP; it comes through `taken`.
        drop(lease);
        log.pace.on_tunnel();
        if matches!(self, Self::WebSocket) {
            head.status = StatusCode::OK;
            log.status = Some(head.status);
            let names: [HeaderName; 3] = [SEC_WEBSOCKET_ACCEPT, CONNECTION, UPGRADE];
            for name in names {
                head.headers.remove(name);
            }
        }
        let tunnel = Tunnel { taken, stream, log };
        Response::from_parts(head, AnswerBody::tunnel(tunnel))
    }
}

/// 16 bytes in base64 (RFC 6455 4.1).
fn websocket_key(high: u64, low: u64) -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let number = u128::from(high) << 64 | u128::from(low);
    let mut text = [b'='; 24];
    // 21 whole digits, and 2 bits with 4 zero bits behind them.
    for (at, digit) in text.iter_mut().take(21).enumerate() {
        *digit = DIGITS[(number >> (122 - 6 * at) & 63) as usize];
    }
    text[21] = DIGITS[((number & 3) << 4) as usize];
    HeaderValue::from_bytes(&text).expect("base64 is a value")
}

#[cfg(test)]
mod tests {
    use super::websocket_key;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        // RFC 6455 1.3: the bytes 1 to 16.
        let (high, low) = (0x0102_0304_0506_0708, 0x090a_0b0c_0d0e_0f10);
        assert_eq!(websocket_key(high, low), "AQIDBAUGBwgJCgsMDQ4PEA==");
    }
}
