//! Changes of protocol on behalf of a client: `Upgrade` and CONNECT of HTTP/1, CONNECT of HTTP/2
//! (RFC 9113 8.5, RFC 8441). Endpoints are asked in HTTP/1, on a connection of its own; those whose
//! service says HTTP/2 by a stream of theirs, with CONNECT.

use h2::RecvStream;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version, request, response};
use tokio::sync::oneshot;

use super::answer::{AnswerBody, Own, Tunnel};
use super::headers;
use super::log::Log;
use super::site::{Reason, Site};
use super::target::absolute;
use super::upstream::{Lease, Taken};
use super::websocket;

const WEBSOCKET: &str = "websocket";

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
        match head.extensions.remove::<Protocol>() {
            None => Ok(Some(Self::Connect)),
            Some(protocol) if protocol.as_str() == WEBSOCKET => {
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
                let key = websocket::key(site.random(), site.random());
                head.headers.insert(SEC_WEBSOCKET_KEY, key);
                let version = HeaderValue::from_static("13");
                head.headers.entry(SEC_WEBSOCKET_VERSION).or_insert(version);
                HeaderValue::from_static(WEBSOCKET)
            }
            Self::Connect => return,
        };
        let upgrade = HeaderValue::from_static("upgrade");
        head.headers.insert(CONNECTION, upgrade);
        head.headers.insert(UPGRADE, protocol);
    }

    /// The question as a CONNECT of HTTP/2, of the head that [`Self::ask`] has made. None: HTTP/2
    /// has no way to ask; without the question the request stays one (RFC 9110 7.8).
    pub(super) fn connect(&self, head: &request::Parts) -> Option<Request<()>> {
        let mut request = Request::new(());
        let is_websocket = match self {
            Self::Connect => false,
            Self::WebSocket => true,
            Self::Named(protocol) => {
                // Without a key there is nothing to answer the client with.
                let has_key = head.headers.contains_key(SEC_WEBSOCKET_KEY);
                if !has_key || !headers::holds_token(protocol, WEBSOCKET) {
                    return None;
                }
                true
            }
        };
        *request.headers_mut() = head.headers.clone();
        let host = request.headers_mut().remove(HOST);
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_KEY, CONTENT_LENGTH] {
            request.headers_mut().remove(name);
        }
        *request.uri_mut() = head.uri.clone();
        if is_websocket {
            *request.uri_mut() = absolute(&head.uri, host);
            request
                .extensions_mut()
                .insert(Protocol::from_static(WEBSOCKET));
        }
        *request.method_mut() = Method::CONNECT;
        *request.version_mut() = Version::HTTP_2;
        Some(request)
    }

    /// Whether the endpoint agrees, to what it was `asked` for.
    pub(super) fn is_accepted(&self, asked: &HeaderMap, head: &response::Parts) -> bool {
        if head.version == Version::HTTP_2 {
            return head.status.is_success();
        }
        let is_switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let to = head.headers.get(UPGRADE);
        match self {
            Self::Named(asked) => is_switched && to.is_some_and(|to| headers::is_within(to, asked)),
            Self::WebSocket => {
                let wanted = asked.get(SEC_WEBSOCKET_KEY).map(websocket::accept);
                is_switched
                    && to.is_some_and(|to| headers::holds_token(to, WEBSOCKET))
                    && head.headers.get(SEC_WEBSOCKET_ACCEPT) == wanted.as_ref()
            }
            Self::Connect => head.status.is_success(),
        }
    }

    /// Makes the head that agrees one that the client understands, which `asked` in another version
    /// of HTTP than the endpoint answers in. `protocol`: what the endpoint changes to.
    pub(super) fn settle(
        &self,
        head: &mut response::Parts,
        asked: &HeaderMap,
        protocol: Option<HeaderValue>,
    ) {
        // What follows has no length.
        head.headers.remove(CONTENT_LENGTH);
        let protocol = match self {
            Self::Connect => return,
            Self::WebSocket => {
                head.status = StatusCode::OK;
                let names: [HeaderName; 3] = [SEC_WEBSOCKET_ACCEPT, CONNECTION, UPGRADE];
                for name in names {
                    head.headers.remove(name);
                }
                return;
            }
            Self::Named(_) if head.status == StatusCode::SWITCHING_PROTOCOLS => protocol,
            Self::Named(_) => {
                head.status = StatusCode::SWITCHING_PROTOCOLS;
                if let Some(key) = asked.get(SEC_WEBSOCKET_KEY) {
                    head.headers
                        .insert(SEC_WEBSOCKET_ACCEPT, websocket::accept(key));
                }
                Some(HeaderValue::from_static(WEBSOCKET))
            }
        };
        if let Some(protocol) = protocol {
            let connection = HeaderValue::from_static("upgrade");
            head.headers.insert(CONNECTION, connection);
            head.headers.insert(UPGRADE, protocol);
        }
    }
}

/// The answer that changes the protocol; bytes go both ways behind it until they end.
pub(super) fn change(
    head: response::Parts,
    (taken, lease): (oneshot::Receiver<Taken>, Lease),
    (stream, log): (Option<RecvStream>, Box<Log>),
) -> Response<AnswerBody> {
    // The endpoint's connection, or stream, comes through `taken`.
    drop(lease);
    log.pace.on_tunnel();
    let tunnel = Tunnel { taken, stream, log };
    Response::from_parts(head, AnswerBody::tunnel(tunnel))
}
