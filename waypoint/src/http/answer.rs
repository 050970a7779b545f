//! What clients get: an endpoint's answer on its way, or one of the waypoint's own.

use std::borrow::Cow;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use mesh::route::cors::AnswerHeaders;
use tokio::sync::oneshot;

use super::incoming::Incoming;
use super::log::Log;
use super::pace::Pace;
use super::sent::BoxError;
use super::site::Reason;
use super::upstream::{Lease, Taken};
use super::{grpc, headers};

/// An answer of the waypoint's own.
#[derive(Debug)]
pub struct Own {
    pub status: StatusCode,
    pub reason: Reason,
    /// A sentence for the client.
    pub why: Cow<'static, str>,
    pub headers: AnswerHeaders,
    /// Whether the connection ends with it.
    pub closes: bool,
}

impl Own {
    /// An error.
    pub fn error(status: StatusCode, reason: Reason, why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            reason,
            why: why.into(),
            headers: Vec::new(),
            closes: false,
        }
    }

    /// What the route says, without a body.
    pub fn by_route(status: StatusCode, headers: AnswerHeaders) -> Self {
        Self {
            headers,
            ..Self::error(status, Reason::Route, "")
        }
    }

    /// As the client of this request understands it.
    pub fn into_answer(self, mut log: Box<Log>) -> Response<AnswerBody> {
        log.reason = Some(self.reason);
        let is_grpc = log.is_grpc && self.reason != Reason::Route;
        let status = match is_grpc {
            true => StatusCode::OK,
            false => self.status,
        };
        log.status = Some(status);
        let mut own = HeaderMap::new();
        let mut text = None;
        if is_grpc {
            let code = grpc::code(self.status, self.reason);
            log.grpc_status = Some(code);
            grpc::answer(&mut own, code, &self.why);
        } else if !self.why.is_empty() {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            own.insert(header::CONTENT_TYPE, plain);
            let whole = Bytes::from(format!("{}\n", self.why));
            own.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
            text = Some(whole).filter(|_| !log.is_head());
        }
        headers::share(&mut own, self.headers);
        if self.closes && log.version() != http::Version::HTTP_2 {
            own.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        log.answer_bytes = text.as_ref().map_or(0, |text| text.len() as u64);
        let mut answer = Response::new(AnswerBody {
            kind: Kind::Own(text),
            log: Some(log),
        });
        *answer.status_mut() = status;
        *answer.headers_mut() = own;
        answer
    }
}

/// The body of an answer. The request is over when it is dropped.
pub struct AnswerBody {
    kind: Kind,
    /// None: it goes on behind the answer.
    log: Option<Box<Log>>,
}

enum Kind {
    Own(Option<Bytes>),
    Passed(Box<Passed>),
    Tunnel(Box<Tunnel>),
    /// It has broken off for this reason, which is told at the next turn.
    Broken(Reason),
    Over,
}

struct Passed {
    incoming: Incoming,
    lease: Option<Lease>,
}

/// What comes behind an answer that changes the protocol.
pub struct Tunnel {
    /// The endpoint's connection.
    pub taken: oneshot::Receiver<Taken>,
    /// The client's half of a stream, when it came by HTTP/2.
    pub stream: Option<RecvStream>,
    /// The request, which is over when the tunnel is.
    pub log: Box<Log>,
}

impl AnswerBody {
    /// What an endpoint answers.
    pub fn passed(incoming: Incoming, lease: Lease, log: Box<Log>) -> Self {
        let passed = Passed {
            incoming,
            lease: Some(lease),
        };
        Self {
            kind: Kind::Passed(Box::new(passed)),
            log: Some(log),
        }
    }

    /// None; another protocol follows.
    pub fn none() -> Self {
        Self {
            kind: Kind::Over,
            log: None,
        }
    }

    /// None; bytes both ways follow.
    pub fn tunnel(tunnel: Tunnel) -> Self {
        Self {
            kind: Kind::Tunnel(Box::new(tunnel)),
            log: None,
        }
    }

    /// What follows, if anything does; once.
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        match std::mem::replace(&mut self.kind, Kind::Over) {
            Kind::Tunnel(tunnel) => Some(*tunnel),
            kind => {
                self.kind = kind;
                None
            }
        }
    }

    /// The text of the waypoint's own answer.
    pub fn own_text(&self) -> Option<Bytes> {
        match &self.kind {
            Kind::Own(text) => text.clone(),
            _ => None,
        }
    }

    /// How the request that it answers gets on.
    pub fn pace(&self) -> Option<Rc<Pace>> {
        self.log.as_ref().map(|log| log.pace.clone())
    }

    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reason>>> {
        let (Kind::Passed(passed), Some(log)) = (&mut self.kind, &mut self.log) else {
            return Poll::Ready(None);
        };
        let frame = match Pin::new(&mut passed.incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                log.pace.on_read();
                let reason = ready!(log.pace.poll_ended(cx));
                return Poll::Ready(Some(Err(reason)));
            }
        };
        match &frame {
            Some(Ok(frame)) => {
                log.pace.on_answer();
                if let Some(data) = frame.data_ref() {
                    log.answer_bytes += data.len() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    log.grpc_status = grpc::status(trailers);
                }
            }
            Some(Err(_)) => return Poll::Ready(Some(Err(Reason::Broken))),
            None => {
                log.pace.on_read();
                self.end();
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|_| Reason::Broken)))
    }

    /// The whole answer has come. Its connection serves others, if the request went out whole, too.
    fn end(&mut self) {
        if let (Kind::Passed(passed), Some(log)) = (&mut self.kind, &self.log)
            && let Some(lease) = passed.lease.take()
        {
            let sent = log.source.as_ref();
            if sent.is_none_or(|source| source.borrow().is_done()) {
                lease.give_back(log.client.site());
            }
        }
    }

    /// A broken answer: gRPC has a way to say so behind the head. Otherwise the client's
    /// connection, or stream, ends with what is not written yet, the head too: that has a turn to
    /// go first.
    fn broken(&mut self, cx: &Context<'_>, reason: Reason) -> Poll<Option<Piece>> {
        self.kind = Kind::Over;
        let Some(log) = &mut self.log else {
            return Poll::Ready(None);
        };
        log.reason = Some(reason);
        if !log.is_grpc {
            self.kind = Kind::Broken(reason);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let code = grpc::code(StatusCode::BAD_GATEWAY, reason);
        log.grpc_status = Some(code);
        let mut trailers = HeaderMap::new();
        trailers.insert(grpc::STATUS, HeaderValue::from(code));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

type Piece = Result<Frame<Bytes>, BoxError>;

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match &mut this.kind {
            Kind::Own(text) => {
                return Poll::Ready(text.take().map(|text| Ok(Frame::data(text))));
            }
            Kind::Broken(reason) => return Poll::Ready(Some(Err(reason.as_str().into()))),
            _ => {}
        }
        match ready!(this.poll_passed(cx)) {
            Some(Err(reason)) => this.broken(cx, reason),
            frame => Poll::Ready(frame.map(|frame| frame.map_err(|reason| reason.as_str().into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(text) => text.is_none(),
            Kind::Passed(passed) => passed.incoming.is_end_stream(),
            Kind::Broken(_) => false,
            Kind::Tunnel(_) | Kind::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Passed(passed) => passed.incoming.size_hint(),
            Kind::Broken(_) => SizeHint::default(),
            Kind::Tunnel(_) | Kind::Over => SizeHint::with_exact(0),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        let (Kind::Passed(passed), Some(log)) = (&self.kind, &mut self.log) else {
            return;
        };
        if passed.incoming.is_end_stream() {
            self.end();
        } else if passed.lease.is_some() {
            log.reason.get_or_insert(Reason::ClientGone);
        }
    }
}
