//! One client's connection: which HTTP it speaks, HTTP/1 behind its guard, and what that becomes.
//! Knows no routes.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{Either, LocalBoxFuture, select};
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::answer::{AnswerBody, Own, Tunnel};
use super::client::{Client, Interims};
use super::guard::Violation;
use super::guarded::{Guarded, Line};
use super::incoming::Incoming;
use super::limits::READ_BUFFER_BYTES;
use super::log::Log;
use super::preface::{self, Rewound};
use super::relay::relay;
use super::site::{Asked, Io, Reason, Site};
use super::watch::{Drain, Due, Watch};
use super::{Proxy, exchange, h2c, http2};

/// Serves a connection until it has ended.
pub(super) async fn serve(proxy: Rc<Proxy>, io: impl Io + 'static, asked: Rc<Asked>) {
    // Each phase has memory of its own: an idle connection keeps none of those before it.
    let begun = Box::pin(begin(proxy.site.clone(), io)).await;
    match begun {
        Some((start, io, true)) => {
            Box::pin(http2::serve(proxy, Rewound::new(start, io), asked)).await;
        }
        Some((start, io, false)) => Box::pin(serve_http1(proxy, (io, start), asked)).await,
        None => {}
    }
}

/// What was read, and whether it is HTTP/2. None: nothing came, or too late. Clients that connect
/// before they have a request may be silent as long as between two requests.
async fn begin<I: Io>(site: Rc<dyn Site>, mut io: I) -> Option<(Vec<u8>, I, bool)> {
    let limits = site.limits();
    let (mut start, mut has_begun) = (Vec::new(), false);
    let silent = site.sleep_until(site.now() + limits.idle_timeout);
    let mut late = select(silent, site.closing()).map(|_| ()).boxed_local();
    loop {
        let read = {
            let read = pin!(preface::read(&mut io, &mut start));
            match select(read, late).await {
                Either::Left(read) => Some(read),
                Either::Right(_) => None,
            }
        };
        match read {
            Some((Ok(true), not_late)) => late = not_late,
            Some(_) => return None,
            None => break,
        }
        if let Some(is_http2) = preface::is_http2(&start) {
            return Some((start, io, is_http2));
        }
        if !has_begun {
            has_begun = true;
            late = site.sleep_until(site.now() + limits.head_timeout);
        }
    }
    // Ended, not broken off.
    let _ = poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx)).await;
    None
}

async fn serve_http1(
    proxy: Rc<Proxy>,
    (io, start): (impl Io + 'static, Vec<u8>),
    asked: Rc<Asked>,
) {
    let line = Rc::<Line>::default();
    let client = Client::new(&proxy, asked.clone());
    let clock = proxy.site.clone();
    let guarded = Guarded::new(io, &start, line.clone(), Box::new(move || clock.now()));
    drop(start);
    let number = Cell::new(0);
    let next = Rc::new(RefCell::new(None));
    let (of_service, its_line, its_next) = (client.clone(), line.clone(), next.clone());
    // Boxed one by one: hyper keeps room for one request in every idle connection.
    let service = service_fn(move |request| -> LocalBoxFuture<'static, Answered> {
        number.set(number.get() + 1);
        let (line, next) = (its_line.clone(), its_next.clone());
        let turn = Turn {
            client: of_service.clone(),
            line,
            number: number.get(),
            next,
        };
        Box::pin(turn.answer(request))
    });
    let mut connection = http1::Builder::new()
        .max_buf_size(READ_BUFFER_BYTES)
        .half_close(true)
        .auto_date_header(false)
        .serve_connection(guarded, service);
    let mut watch = Watch::new(&client);
    let mut ends = false;
    let ended = poll_fn(|cx| {
        loop {
            while let Some(step) = watch.poll_drain(cx) {
                match step {
                    // The next answer says that it is the last.
                    Drain::Begins => client.is_draining.set(true),
                    Drain::Ends => ends = true,
                }
            }
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(ended.is_ok());
            }
            client.has_ended.set(line.has_ended());
            if std::mem::take(&mut ends) {
                // Behind the first look at it: a request that has come is answered.
                Pin::new(&mut connection).graceful_shutdown();
                continue;
            }
            match watch.poll_due(cx, line.head_since()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Due::Head) => line.on_late(),
                Poll::Ready(Due::Idle) => Pin::new(&mut connection).graceful_shutdown(),
                Poll::Ready(Due::Cut) => return Poll::Ready(false),
            }
        }
    })
    .await;
    let next = next.take().filter(|_| ended);
    if let Some(next) = next {
        let parts = connection.into_parts();
        go_on(proxy, (parts.io, parts.read_buf), (next, asked)).await;
    }
}

/// What comes behind an answer with status 101, or 2xx to CONNECT.
enum NextProtocol {
    /// Bytes both ways, with an endpoint.
    Tunnel(Tunnel),
    /// HTTP/2, whose first request is this HEADERS frame (stream 1).
    Http2(Vec<u8>),
}

async fn go_on(
    proxy: Rc<Proxy>,
    (mut io, read): (impl Io + 'static, Bytes),
    (next, asked): (NextProtocol, Rc<Asked>),
) {
    let site = proxy.site.clone();
    match next {
        NextProtocol::Tunnel(tunnel) => {
            if let Ok(taken) = tunnel.taken.await {
                Box::pin(relay(&site, (io, read), taken, tunnel.log)).await;
            }
        }
        NextProtocol::Http2(frame) => {
            let late = site.sleep_until(site.now() + site.limits().head_timeout);
            let joined = {
                let joined = pin!(h2c::join(&mut io, read.to_vec(), &frame));
                match select(joined, late).await {
                    Either::Left((joined, _)) => joined.ok().flatten(),
                    Either::Right(_) => None,
                }
            };
            if let Some(start) = joined {
                Box::pin(http2::serve(proxy, Rewound::new(start, io), asked)).await;
            }
        }
    }
}

type Answered = Result<Response<AnswerBody>, Infallible>;

/// One request of an HTTP/1 connection.
struct Turn {
    client: Rc<Client>,
    line: Rc<Line>,
    /// From 1.
    number: u64,
    /// What the connection becomes when its last answer is written.
    next: Rc<RefCell<Option<NextProtocol>>>,
}

impl Turn {
    async fn answer(self, request: Request<hyper::body::Incoming>) -> Answered {
        let line = &self.line;
        let (head, body) = request.into_parts();
        if let Some(violation) = line.refused(self.number) {
            return Ok(refusal(&self.client, violation, &head));
        }
        if let Some(frame) = h2c::first_frame(&head, !body.is_end_stream()) {
            self.next.replace(Some(NextProtocol::Http2(frame)));
            line.on_upgrade();
            let mut answer = Response::new(AnswerBody::none());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *answer.headers_mut() = h2c::switching();
            return Ok(answer);
        }
        let knows_interims = head.version == Version::HTTP_11;
        line.on_request(self.number);
        let interims = || Interims::Http1(line.interim().clone(), self.number);
        let interims = knows_interims.then(interims);
        let request = Request::from_parts(head, Incoming::Http1(body));
        let mut answer = exchange::answer(self.client.clone(), request, interims).await;
        if let Some(tunnel) = answer.body_mut().take_tunnel() {
            self.next.replace(Some(NextProtocol::Tunnel(tunnel)));
            line.on_upgrade();
            return Ok(answer);
        }
        if self.client.is_draining.get() {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        line.on_answer(self.number);
        Ok(answer)
    }
}

fn refusal(client: &Rc<Client>, violation: Violation, head: &Parts) -> Response<AnswerBody> {
    let log = Box::new(Log::new(client, head));
    let mut own = Own::error(violation.status(), Reason::BadRequest, violation.why());
    own.closes = true;
    own.into_answer(log)
}
