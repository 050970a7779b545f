//! Changes of protocol on behalf of a client: `Upgrade` and CONNECT of HTTP/1, CONNECT of HTTP/2
//! (RFC 9113 8.5, RFC 8441). Endpoints are asked in HTTP/1 always, on a connection of its own.

use std::rc::Rc;

use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Response, StatusCode, Version, request, response};
use hyper::upgrade::OnUpgrade;
use tokio::sync::oneshot;

use super::answer::{AnswerBody, Own};
use super::client::{Client, NextProtocol};
use super::headers;
use super::log::Log;
use super::relay::relay;
use super::site::{Reason, Site};
use super::upstream::{Lease, Taken};

/// A change that a client asked for.
pub(super) enum Upgrade {
    /// To this protocol, by `Upgrade`.
    Named(HeaderValue),
    /// CONNECT of HTTP/1.
    Connect,
    /// CONNECT of HTTP/2, plain, or (true) for WebSocket.
    Stream(OnUpgrade, bool),
}

impl Upgrade {
    /// What the request asks for; None: nothing.
    pub(super) fn of(head: &mut request::Parts) -> Result<Option<Self>, Own> {
        if head.method != Method::CONNECT {
            let named = headers::upgrade(&head.headers, head.version);
            let is_h2c = |name: &HeaderValue| name.as_bytes().eq_ignore_ascii_case(b"h2c");
            return Ok(named.filter(|name| !is_h2c(name)).map(Self::Named));
        }
        let on = head.extensions.remove::<OnUpgrade>();
        let (Version::HTTP_2, Some(on)) = (head.version, on) else {
            return Ok(Some(Self::Connect));
        };
        let protocol = head.extensions.remove::<hyper::ext::Protocol>();
        if protocol
            .as_ref()
            .is_some_and(|one| one.as_str() != "websocket")
        {
            let why = "the protocol of the CONNECT is not known";
            let status = StatusCode::NOT_IMPLEMENTED;
            return Err(Own::error(status, Reason::BadRequest, why));
        }
        Ok(Some(Self::Stream(on, protocol.is_some())))
    }

    /// Puts the question into the head for the endpoint.
    pub(super) fn ask(&self, head: &mut request::Parts, site: &dyn Site) {
        let protocol = match self {
            Self::Named(protocol) => protocol.clone(),
            Self::Stream(_, true) => {
                head.method = Method::GET;
                let key = websocket_key(site.random(), site.random());
                head.headers.insert(SEC_WEBSOCKET_KEY, key);
                let version = HeaderValue::from_static("13");
                head.headers.entry(SEC_WEBSOCKET_VERSION).or_insert(version);
                HeaderValue::from_static("websocket")
            }
            Self::Connect | Self::Stream(_, false) => return,
        };
        let upgrade = HeaderValue::from_static("upgrade");
        head.headers.insert(CONNECTION, upgrade);
        head.headers.insert(UPGRADE, protocol);
    }

    /// The answer that changes the protocol; bytes go both ways behind it until they end.
    pub(super) fn change(
        self,
        mut head: response::Parts,
        (taken, lease): (oneshot::Receiver<Taken>, Lease),
        (client, mut log): (Rc<Client>, Box<Log>),
    ) -> Response<AnswerBody> {
        // The endpoint's connection is over as one of HTTP; it comes through `taken`.
        drop(lease);
        let Self::Stream(on, is_websocket) = self else {
            client.next.replace(Some(NextProtocol::Tunnel(taken, log)));
            return Response::from_parts(head, AnswerBody::none());
        };
        if is_websocket {
            head.status = StatusCode::OK;
            log.status = Some(head.status);
            let names: [HeaderName; 3] = [SEC_WEBSOCKET_ACCEPT, CONNECTION, UPGRADE];
            for name in names {
                head.headers.remove(name);
            }
        }
        let site = client.site().clone();
        site.clone().spawn(Box::pin(async move {
            if let (Ok(stream), Ok(taken)) = (on.await, taken.await) {
                relay(&site, (stream, bytes::Bytes::new()), taken, log).await;
            }
        }));
        Response::from_parts(head, AnswerBody::none())
    }
}

/// Whether the endpoint agrees.
pub(super) fn is_accepted(upgrade: Option<&Upgrade>, head: &response::Parts) -> bool {
    match upgrade {
        Some(Upgrade::Named(_) | Upgrade::Stream(_, true)) => {
            head.status == StatusCode::SWITCHING_PROTOCOLS
        }
        Some(Upgrade::Connect | Upgrade::Stream(_, false)) => head.status.is_success(),
        None => false,
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
