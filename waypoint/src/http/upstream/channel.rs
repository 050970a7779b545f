//! One connection of HTTP/2 to an endpoint, shared by requests. Knows no routes.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::select;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Reason, SendStream};
use http::{Request, Response};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use crate::http::client::Interims;
use crate::http::http2::{Duplex, Pump};
use crate::http::incoming::{Incoming, Received};
use crate::http::limits::{CONNECTION_WINDOW_BYTES, SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES};
use crate::http::sent::SentBody;
use crate::http::site::{ConnectError, Io, Site};

use super::Unanswered;

/// What h2 says of the peer's bound on streams before the peer has said it: no peer can.
const UNTOLD: usize = usize::MAX - 1;
/// How long the peer's first SETTINGS are waited for before another connection is opened: they are
/// the first that a server sends.
const SETTLE: Duration = Duration::from_secs(1);

pub(super) struct Channel {
    sender: RefCell<SendRequest<Bytes>>,
    streams: Cell<usize>,
    /// When a request was given to it last.
    used: Cell<Instant>,
    /// Who wait for the peer's SETTINGS: one who will open another connection otherwise, and those
    /// who want a stream of bytes.
    settled: RefCell<Vec<Waker>>,
    /// Tells the connection's task that nobody sends any more. Behind `sender`, as it is dropped.
    _held: oneshot::Sender<Infallible>,
}

/// Whether a channel can take a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    Full,
    /// One request is on it, and the peer has not said yet how many it takes.
    Untold,
    /// It is closed, or closing.
    Closed,
}

/// A stream that is counted until it is dropped.
pub(super) struct Counted(Rc<Channel>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

impl Channel {
    /// On that connection.
    pub(super) async fn open(
        site: &Rc<dyn Site>,
        io: impl Io + 'static,
    ) -> Result<Rc<Self>, ConnectError> {
        let shaken = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(UNTOLD)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .handshake(TokioIo::new(io))
            .await;
        let (sender, connection) = shaken.map_err(|error| super::broken(&error))?;
        let (held, let_go) = oneshot::channel();
        let channel = Rc::new(Self {
            sender: RefCell::new(sender),
            streams: Cell::new(0),
            used: Cell::new(site.now()),
            settled: RefCell::default(),
            _held: held,
        });
        let task = drive(connection, let_go, Rc::downgrade(&channel));
        match site.spawn(Box::pin(task)) {
            true => Ok(channel),
            false => Err(super::too_many()),
        }
    }

    /// Whether there is room, of `most` streams at once.
    pub(super) fn room(&self, most: usize) -> Room {
        let mut sender = self.sender.borrow_mut();
        let mut nobody = Context::from_waker(Waker::noop());
        match sender.poll_ready(&mut nobody) {
            Poll::Ready(Err(_)) => return Room::Closed,
            Poll::Pending => return Room::Full,
            Poll::Ready(Ok(())) => {}
        }
        match (self.streams.get(), sender.current_max_send_streams()) {
            (0, UNTOLD) => Room::Free,
            (_, UNTOLD) => Room::Untold,
            (streams, told) if streams < most.min(told) => Room::Free,
            _ => Room::Full,
        }
    }

    /// Waits until the peer has said how many streams it takes, or has had the time to.
    pub(super) async fn settled(&self, site: &Rc<dyn Site>) {
        let told = poll_fn(|cx| {
            if self.room(usize::MAX) != Room::Untold {
                return Poll::Ready(());
            }
            let mut settled = self.settled.borrow_mut();
            if !settled.iter().any(|one| one.will_wake(cx.waker())) {
                settled.push(cx.waker().clone());
            }
            Poll::Pending
        });
        select(pin!(told), site.sleep_until(site.now() + SETTLE)).await;
    }

    fn wake_settled(&self) {
        for waker in self.settled.take() {
            waker.wake();
        }
    }

    /// Counts one stream more.
    pub(super) fn enter(self: &Rc<Self>, now: Instant) -> Counted {
        self.streams.set(self.streams.get() + 1);
        self.used.set(now);
        Counted(self.clone())
    }

    /// Whether nothing was sent on it for that long, and nothing is.
    pub(super) fn is_idle(&self, now: Instant, keep: Duration) -> bool {
        self.streams.get() == 0 && self.used.get() + keep <= now
    }
}

impl Counted {
    /// Sends a request and waits for the head of its answer. Dropped before, the stream is reset.
    /// The body is sent until [`Upload`] is dropped.
    pub(super) async fn send(
        self: &Rc<Self>,
        site: &Rc<dyn Site>,
        request: Request<SentBody>,
        interims: Option<&Interims>,
    ) -> Result<(Response<Incoming>, Option<Upload>), Unanswered> {
        let (head, body) = request.into_parts();
        let is_end = body.is_end_stream();
        let request = Request::from_parts(head, ());
        let sent = self.0.sender.borrow_mut().send_request(request, is_end);
        let (mut answer, stream) = sent.map_err(|error| Unanswered::new(error, true))?;
        let upload = match is_end {
            true => None,
            false => Upload::start(site, body, stream, self).await?,
        };
        let answer = poll_fn(|cx| {
            if let Some(interims) = interims {
                while let Poll::Ready(Some(Ok(one))) = answer.poll_informational(cx) {
                    interims.answer(one.status(), one.headers());
                }
            }
            Pin::new(&mut answer).poll(cx)
        });
        let answer = answer
            .await
            .map_err(|error| Unanswered::new(error, false))?;
        let (head, stream) = answer.into_parts();
        let body = Incoming::Http2(Received::new(stream, &head.headers));
        Ok((Response::from_parts(head, body), upload))
    }
}

impl Counted {
    /// Whether the peer takes CONNECT for another protocol (RFC 8441 3), which its SETTINGS say.
    pub(super) async fn takes_protocols(&self, site: &Rc<dyn Site>) -> bool {
        self.0.settled(site).await;
        self.0
            .sender
            .borrow()
            .is_extended_connect_protocol_enabled()
    }

    /// Asks for a stream of bytes with CONNECT. None: the answer is no, and is one as any other.
    pub(super) async fn connect(
        self: &Rc<Self>,
        request: Request<()>,
    ) -> Result<(Response<Incoming>, Option<Duplex>), Unanswered> {
        let sent = self.0.sender.borrow_mut().send_request(request, false);
        let (answer, mut stream) = sent.map_err(|error| Unanswered::new(error, true))?;
        let answer = answer.await;
        let answer = answer.map_err(|error| Unanswered::new(error, false))?;
        let (head, receive) = answer.into_parts();
        if head.status.is_success() {
            let duplex = Duplex::new(stream, receive).holding(self.clone());
            return Ok((Response::from_parts(head, Incoming::Empty), Some(duplex)));
        }
        // It fails for a stream that is over.
        let _ = stream.send_data(Bytes::new(), true);
        let body = Incoming::Http2(Received::new(receive, &head.headers));
        Ok((Response::from_parts(head, body), None))
    }
}

/// The body of a request that is still being sent. Dropped, it breaks off.
pub(super) struct Upload(oneshot::Sender<()>);

impl Upload {
    /// None: all of it is with h2. An error: nobody can send the rest, and the stream is over.
    async fn start(
        site: &Rc<dyn Site>,
        body: SentBody,
        stream: SendStream<Bytes>,
        counted: &Rc<Counted>,
    ) -> Result<Option<Self>, Unanswered> {
        let mut pump = Pump::new(body, stream);
        let is_over = poll_fn(|cx| Poll::Ready(pump.poll(cx, Reason::CANCEL).is_ready())).await;
        if is_over {
            return Ok(None);
        }
        let (go_on, mut goes_on) = oneshot::channel();
        let counted = counted.clone();
        let mut is_free = false;
        let spawned = site.spawn(Box::pin(async move {
            poll_fn(|cx| {
                if !is_free && let Poll::Ready(told) = Pin::new(&mut goes_on).poll(cx) {
                    is_free = true;
                    if told.is_err() {
                        pump.reset(Reason::CANCEL);
                        return Poll::Ready(());
                    }
                }
                pump.poll(cx, Reason::CANCEL).map(|_| ())
            })
            .await;
            drop(counted);
        }));
        match spawned {
            true => Ok(Some(Self(go_on))),
            false => Err(Unanswered::too_many()),
        }
    }

    /// Lets it go on by itself, since the answer is over.
    pub(super) fn leave(self) {
        // It is over already, if nobody hears it.
        let _ = self.0.send(());
    }
}

/// The task of a connection.
async fn drive<I: Io>(
    connection: Connection<TokioIo<I>, Bytes>,
    let_go: oneshot::Receiver<Infallible>,
    channel: Weak<Channel>,
) {
    let mut connection = pin!(connection);
    let mut let_go = Some(let_go);
    let mut is_told = false;
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            if !is_told && let Some(channel) = channel.upgrade() {
                is_told = channel.sender.borrow().current_max_send_streams() != UNTOLD;
                if is_told {
                    channel.wake_settled();
                }
            }
            let is_let_go = let_go
                .as_mut()
                .is_some_and(|one| Pin::new(one).poll(cx).is_ready());
            if !is_let_go {
                return Poll::Pending;
            }
            // h2 notices that nobody can send any more when it is asked again.
            let_go = None;
        }
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "a connection to an endpoint broke");
    }
    // Who waits finds it closed.
    if let Some(channel) = channel.upgrade() {
        channel.wake_settled();
    }
}
