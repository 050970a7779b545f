//! One client's connection: HTTP/1 behind its guard, HTTP/2, and what HTTP/1 becomes. Knows times
//! of connections, not of requests.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::future::{Either, LocalBoxFuture, select};
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;

use super::answer::{AnswerBody, Own};
use super::client::{Client, NextProtocol};
use super::exec::Exec;
use super::guard::Violation;
use super::guarded::{Guarded, Line};
use super::limits::{
    CONNECTION_WINDOW_BYTES, HEAD_BYTES_MAX, READ_BUFFER_BYTES, SEND_BUFFER_BYTES,
    STREAM_WINDOW_BYTES, STREAMS_MAX,
};
use super::log::Log;
use super::preface::{self, Rewound};
use super::relay::relay;
use super::site::{Asked, Io, Reason, Site};
use super::{Proxy, exchange, h2c};

/// Serves a connection until it has ended.
pub(super) async fn serve(proxy: Rc<Proxy>, io: impl Io + 'static, asked: Rc<Asked>) {
    // Each phase has memory of its own: an idle connection keeps none of those before it.
    let begun = Box::pin(begin(proxy.site.clone(), io)).await;
    match begun {
        Some((start, io, true)) => {
            Box::pin(serve_http2(proxy, Rewound::new(start, io), asked)).await;
        }
        Some((start, io, false)) => Box::pin(serve_http1(proxy, (io, start), asked)).await,
        None => {}
    }
}

/// What was read, and whether it is HTTP/2. None: nothing came, or too late.
async fn begin<I: Io>(site: Rc<dyn Site>, mut io: I) -> Option<(Vec<u8>, I, bool)> {
    let late = site.sleep_until(site.now() + site.limits().head_timeout);
    let first = {
        let first = std::pin::pin!(preface::read(&mut io));
        match select(first, late).await {
            Either::Left((first, _)) => first,
            Either::Right(_) => return None,
        }
    };
    let (start, is_http2) = first.ok()??;
    Some((start, io, is_http2))
}

async fn serve_http1(
    proxy: Rc<Proxy>,
    (io, start): (impl Io + 'static, Vec<u8>),
    asked: Rc<Asked>,
) {
    let line = Rc::<Line>::default();
    let client = Client::new(&proxy, asked.clone(), Some(line.interim().clone()));
    let clock = proxy.site.clone();
    let guarded = Guarded::new(io, &start, line.clone(), Box::new(move || clock.now()));
    drop(start);
    let number = Rc::new(Cell::new(0));
    let (of_service, its_line) = (client.clone(), line.clone());
    // Boxed one by one: hyper keeps room for one request in every idle connection.
    let service = service_fn(move |request| -> LocalBoxFuture<'static, Answered> {
        number.set(number.get() + 1);
        let (client, line) = (of_service.clone(), its_line.clone());
        Box::pin(one_http1(client, line, number.get(), request))
    });
    let mut connection = http1::Builder::new()
        .max_buf_size(READ_BUFFER_BYTES)
        .auto_date_header(false)
        .serve_connection(guarded, service);
    let mut watch = Watch::new(&client);
    let ended = poll_fn(|cx| {
        loop {
            while let Some(step) = watch.poll_drain(cx) {
                match step {
                    // The next answer says that it is the last.
                    Drain::Begins => client.is_draining.set(true),
                    Drain::Ends => Pin::new(&mut connection).graceful_shutdown(),
                }
            }
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(ended);
            }
            match watch.poll_due(cx, line.head_since()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Due::Head) => line.on_late(),
                Poll::Ready(Due::Idle) => Pin::new(&mut connection).graceful_shutdown(),
            }
        }
    })
    .await;
    let next = client.next.take();
    let (Ok(()), Some(next)) = (ended, next) else {
        return;
    };
    let parts = connection.into_parts();
    match next {
        NextProtocol::Tunnel(taken, log) => {
            if let Ok(taken) = taken.await {
                let client = (parts.io, parts.read_buf);
                Box::pin(relay(&proxy.site, client, taken, log)).await;
            }
        }
        NextProtocol::Http2(frame) => {
            let io = h2c::Joined::new(parts.io, &parts.read_buf, frame);
            Box::pin(serve_http2(proxy, io, asked)).await;
        }
    }
}

type Answered = Result<Response<AnswerBody>, Infallible>;

async fn one_http1(
    client: Rc<Client>,
    line: Rc<Line>,
    number: u64,
    request: Request<Incoming>,
) -> Answered {
    if let Some(violation) = line.refused(number) {
        return Ok(refusal(&client, violation, request));
    }
    let (head, body) = request.into_parts();
    if let Some(frame) = h2c::first_frame(&head, !body.is_end_stream()) {
        client.next.replace(Some(NextProtocol::Http2(frame)));
        line.on_upgrade();
        let mut answer = Response::new(AnswerBody::none());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = h2c::switching();
        return Ok(answer);
    }
    let mut answer = exchange::answer(client.clone(), Request::from_parts(head, body)).await;
    if client.next.borrow().is_some() {
        line.on_upgrade();
        return Ok(answer);
    }
    if client.is_draining.get() {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    line.on_answer(number);
    Ok(answer)
}

fn refusal(
    client: &Rc<Client>,
    violation: Violation,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let (head, _) = request.into_parts();
    let log = Box::new(Log::new(client, &head));
    let mut own = Own::error(violation.status(), Reason::BadRequest, violation.why());
    own.closes = true;
    own.into_answer(log)
}

async fn serve_http2(proxy: Rc<Proxy>, io: impl Io + 'static, asked: Rc<Asked>) {
    let client = Client::new(&proxy, asked, None);
    let of_service = client.clone();
    let service = service_fn(move |request| -> LocalBoxFuture<'static, Answered> {
        let client = of_service.clone();
        // Boxed here, since hyper moves it several times on its way to a task.
        Box::pin(async move { Ok(exchange::answer(client, request).await) })
    });
    let mut connection = http2::Builder::new(Exec::new(&proxy.site))
        .auto_date_header(false)
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .serve_connection(io, service);
    let mut watch = Watch::new(&client);
    let ended = poll_fn(|cx| {
        loop {
            while watch.poll_drain(cx).is_some() {
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(ended);
            }
            match watch.poll_due(cx, None) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(_) => Pin::new(&mut connection).graceful_shutdown(),
            }
        }
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection broke");
    }
}

/// What a connection has waited for long enough.
enum Due {
    /// The head that has begun.
    Head,
    /// The next request.
    Idle,
}

/// How far the worker's drain is.
enum Drain {
    /// No connection takes more than one request.
    Begins,
    /// Idle connections are closed.
    Ends,
}

/// The times of a connection. One timer at most, and none is touched by a request.
struct Watch {
    client: Rc<Client>,
    draining: Option<LocalBoxFuture<'static, ()>>,
    closing: Option<LocalBoxFuture<'static, ()>>,
    timer: Option<(Instant, LocalBoxFuture<'static, ()>)>,
    is_over: bool,
}

impl Watch {
    fn new(client: &Rc<Client>) -> Self {
        Self {
            client: client.clone(),
            draining: Some(client.site().draining()),
            closing: None,
            timer: None,
            is_over: false,
        }
    }

    /// Each step once.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Option<Drain> {
        let is_over = |wait: &mut Option<LocalBoxFuture<'static, ()>>, cx: &mut Context<'_>| {
            let is_over = wait
                .as_mut()
                .is_some_and(|one| one.as_mut().poll(cx).is_ready());
            if is_over {
                *wait = None;
            }
            is_over
        };
        if is_over(&mut self.draining, cx) {
            self.closing = Some(self.client.site().closing());
            return Some(Drain::Begins);
        }
        is_over(&mut self.closing, cx).then_some(Drain::Ends)
    }

    /// Ready when something is due; the timer of an earlier wish is kept and looked at again.
    fn poll_due(&mut self, cx: &mut Context<'_>, head_since: Option<Instant>) -> Poll<Due> {
        let site = self.client.site();
        loop {
            let limits = site.limits();
            let head = head_since.map(|since| (since + limits.head_timeout, Due::Head));
            let idle = self.client.quiet_since().filter(|_| !self.is_over);
            let idle = idle.map(|since| (since + limits.idle_timeout, Due::Idle));
            let Some((at, due)) = head.or(idle) else {
                return Poll::Pending;
            };
            if self.timer.as_ref().is_none_or(|(set, _)| *set > at) {
                self.timer = Some((at, site.sleep_until(at)));
            }
            if let Some((_, timer)) = &mut self.timer
                && timer.as_mut().poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            self.timer = None;
            if at <= site.now() {
                self.is_over |= matches!(due, Due::Idle);
                return Poll::Ready(due);
            }
        }
    }
}
