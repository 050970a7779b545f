//! What an endpoint is asked in one try, and how. It must not know what becomes of it.

use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Request, StatusCode, Version};
use mesh::service::AppProtocol;

use crate::http::client::Interims;
use crate::http::exchange::{Exchange, is_bare};
use crate::http::headers::expects_continue;
use crate::http::sent::{Gate, SentBody};
use crate::http::target::{absolute, relative};
use crate::http::upstream::{Lease, Speak};

/// How an endpoint is asked.
pub(super) enum Way {
    Request(Speak),
    /// For another protocol, on a connection of its own.
    Upgrade,
    /// For another protocol, in a stream of its HTTP/2.
    Connect(Box<Request<()>>),
}

/// How this one is, by what its service says.
pub(super) fn way(protocol: AppProtocol, exchange: &Exchange) -> Way {
    let Some(upgrade) = &exchange.upgrade else {
        return Way::Request(speak(protocol, exchange));
    };
    if !matches!(protocol, AppProtocol::Http2 | AppProtocol::Grpc) {
        return Way::Upgrade;
    }
    match upgrade.connect(&exchange.head) {
        Some(request) => Way::Connect(Box::new(request)),
        None => Way::Request(Speak::Http2),
    }
}

/// What is spoken with an endpoint: what its service says, else what the client speaks.
fn speak(protocol: AppProtocol, exchange: &Exchange) -> Speak {
    let is_http2 = match protocol {
        _ if exchange.log.is_grpc => true,
        AppProtocol::Http2 | AppProtocol::Grpc => true,
        AppProtocol::Http11 => false,
        _ => exchange.log.version() == Version::HTTP_2,
    };
    if is_http2 { Speak::Http2 } else { Speak::Http1 }
}

/// The request of one try.
pub(super) fn request(exchange: &Exchange, lease: &Lease) -> Request<SentBody> {
    let is_http2 = lease.is_http2();
    let head = &exchange.head;
    let mut body = match &exchange.source {
        Some(source) => SentBody::of(source),
        None => SentBody::empty(),
    };
    let mut headers = head.headers.clone();
    if let Some(trace) = &exchange.log.trace {
        trace.tell(&mut headers);
    }
    if is_http2 {
        // The question for a protocol that HTTP/2 has no way to ask for.
        for name in [CONNECTION, UPGRADE] {
            headers.remove(name);
        }
    }
    let uri = match is_http2 {
        true => absolute(&head.uri, headers.remove(HOST)),
        false => relative(&head.method, &head.uri),
    };
    if !is_http2 && headers.contains_key(TRAILER) {
        // HTTP/1 has room for trailers behind chunks alone (RFC 9112 6.5).
        headers.remove(CONTENT_LENGTH);
    }
    let has_length = headers.contains_key(CONTENT_LENGTH);
    if !is_http2 && exchange.source.is_some() && !has_length && !is_bare(&head.method) {
        // Of its own, hyper leaves out the body of a GET whose length is not known.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let mut gate = None;
    if expects_continue(&headers) {
        if is_http2 {
            // Few servers of HTTP/2 tell: the client gets ours, when the body is read.
            headers.remove(EXPECT);
        } else {
            let opened = Arc::new(Gate::new(lease.ignores_expect()));
            let site = exchange.client.site();
            let late = site.sleep_until(site.now() + site.limits().continue_timeout);
            body = body.behind(opened.clone(), late);
            gate = Some(opened);
        }
    }
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    if is_http2 {
        *request.version_mut() = Version::HTTP_2;
    } else {
        listen(&mut request, gate, exchange.interims.clone());
    }
    request
}

/// Passes interim answers on: 100 opens the gate, the others go to the client (RFC 9110 15.2).
fn listen(request: &mut Request<SentBody>, gate: Option<Arc<Gate>>, to: Option<Interims>) {
    if gate.is_none() && to.is_none() {
        return;
    }
    hyper::ext::on_informational(request, move |answer| match (answer.status(), &gate, &to) {
        (StatusCode::CONTINUE, Some(gate), _) => gate.open(),
        (StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS, ..) => {}
        (status, _, Some(to)) => to.answer(status, answer.headers()),
        _ => {}
    });
}
