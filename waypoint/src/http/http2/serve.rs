//! A client's connection of HTTP/2: one task for it, one for each request.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::{Either, select};
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response, Version};
use hyper_util::rt::TokioIo;

use super::{Duplex, Hints, Pump};
use crate::http::answer::AnswerBody;
use crate::http::client::{Client, Interims};
use crate::http::incoming::{Incoming, Received};
use crate::http::limits::{
    CONNECTION_WINDOW_BYTES, HEAD_BYTES_MAX, SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES, STREAMS_MAX,
};
use crate::http::relay::relay;
use crate::http::site::{Asked, Io};
use crate::http::watch::{Due, Watch};
use crate::http::{Proxy, exchange};

/// Past it the library answers 431 and resets the stream, which clients try again: those that are a
/// little too large get an answer that they believe, see `exchange`.
const DECODED_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;

/// Serves it until it has ended. What was read before is in `io` again.
pub(in crate::http) async fn serve(proxy: Rc<Proxy>, io: impl Io + 'static, asked: Rc<Asked>) {
    let Some(mut connection) = Box::pin(begin(&proxy, io)).await else {
        return;
    };
    let client = Client::new(&proxy, asked);
    let mut watch = Watch::new(&client);
    let ended = poll_fn(|cx| {
        loop {
            while watch.poll_drain(cx).is_some() {
                connection.graceful_shutdown();
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok(accepted))) => {
                    accept(&client, accepted);
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {}
            }
            match watch.poll_due(cx, None) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Due::Idle) => connection.graceful_shutdown(),
                Poll::Ready(_) if client.quiet_since().is_some() => return Poll::Ready(Ok(())),
                // Each request is its own task's to end.
                Poll::Ready(_) => {}
            }
        }
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "a client's connection broke");
    }
}

type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

/// Its preface, and ours. None: it is none, or too late.
async fn begin<I: Io>(proxy: &Rc<Proxy>, io: I) -> Option<Connection<TokioIo<I>, Bytes>> {
    let shaken = Builder::new()
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(DECODED_BYTES_MAX).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .handshake(TokioIo::new(io));
    let site = &proxy.site;
    let late = site.sleep_until(site.now() + site.limits().head_timeout);
    match select(pin!(shaken), late).await {
        Either::Left((Ok(connection), _)) => Some(connection),
        Either::Left((Err(error), _)) => {
            tracing::debug!(%error, "a client's connection broke");
            None
        }
        Either::Right(_) => None,
    }
}

/// Starts a request, or answers it at once where there are too many.
fn accept(client: &Rc<Client>, (request, mut respond): Accepted) {
    let (head, stream) = request.into_parts();
    if client.proxy.is_full() {
        let (head, body) = exchange::overflow(client, &head).into_parts();
        let text = body.own_text();
        let sent = respond.send_response(Response::from_parts(head, ()), text.is_none());
        if let (Ok(mut stream), Some(text)) = (sent, text) {
            // A stream that is over needs no answer.
            let _ = stream.send_data(text, true);
        }
        return;
    }
    let body = Incoming::Http2(Received::new(stream, &head.headers));
    let request = Request::from_parts(head, body);
    let task = Box::pin(one(client.clone(), request, respond));
    client.site().spawn(task);
}

async fn one(client: Rc<Client>, request: Request<Incoming>, respond: SendResponse<Bytes>) {
    let hints = Arc::new(Hints::new(respond));
    let site = client.site().clone();
    let interims = Some(Interims::Http2(hints.clone()));
    let answer = {
        let mut exchange = pin!(exchange::answer(client, request, interims));
        poll_fn(|cx| match exchange.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            // A client that resets the stream takes its request along.
            Poll::Pending => hints.poll_reset(cx).map(|()| None),
        })
        .await
    };
    let Some(answer) = answer else {
        return;
    };
    let (mut head, mut body) = answer.into_parts();
    head.version = Version::HTTP_2;
    let tunnel = body.take_tunnel();
    let is_end = tunnel.is_none() && hyper::body::Body::is_end_stream(&body);
    let stream = match hints.send(Response::from_parts(head, ()), is_end) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "an answer cannot be written");
            return hints.reset(Reason::INTERNAL_ERROR);
        }
    };
    drop(hints);
    if let Some(tunnel) = tunnel {
        if let (Some(receive), Ok(taken)) = (tunnel.stream, tunnel.taken.await) {
            let client = (Duplex::new(stream, receive), Bytes::new());
            Box::pin(relay(&site, client, taken, tunnel.log)).await;
        }
        return;
    }
    if !is_end {
        Sending::new(body, stream).await;
    }
}

/// An answer's body on its way, until it is over or the request's time is.
struct Sending {
    pace: Option<Rc<crate::http::pace::Pace>>,
    pump: Pump<AnswerBody>,
}

impl Sending {
    fn new(body: AnswerBody, stream: h2::SendStream<Bytes>) -> Self {
        Self {
            pace: body.pace(),
            pump: Pump::new(body, stream),
        }
    }
}

impl Future for Sending {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.pump.poll(cx, Reason::INTERNAL_ERROR).is_ready() {
            return Poll::Ready(());
        }
        // A body that waits for its client is not asked, and cannot say so itself.
        let ended = this.pace.as_ref().map(|pace| pace.poll_ended(cx));
        if ended.is_some_and(|ended| ended.is_ready()) {
            this.pump.reset(Reason::CANCEL);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
