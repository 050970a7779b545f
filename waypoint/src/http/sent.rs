//! The body of a request on its way to endpoints: read once from the client, kept for another try
//! while it is small, copied to mirrors. It must not know why a request is tried again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use futures::task::AtomicWaker;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use super::incoming::Incoming;
use super::limits::{MIRROR_LAG_BYTES_MAX, REPLAY_BYTES_MAX};
use super::pace::{Pace, Side};

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request's body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SentError {
    /// The client broke off, or sent what is no body.
    #[error("the client's body broke off")]
    Client,
    /// A newer try took the body over.
    #[error("another try has the body")]
    Superseded,
    /// A mirror could not keep up.
    #[error("the copy lagged behind the request")]
    Lagged,
}

/// The body of one request.
pub struct Source {
    incoming: Incoming,
    /// What was read, while it may be wanted again.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    state: State,
    /// Whether everything that was read is still there.
    is_replayable: bool,
    /// Bytes that the client sent.
    bytes: u64,
    /// The try that has the body.
    current: u32,
    mirrors: Vec<Weak<RefCell<Copy>>>,
    pace: Rc<Pace>,
    /// Whether the client said how much it sends.
    has_length: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Done,
    Broken,
}

impl Source {
    /// Of that body, whose head tells its length or not.
    pub fn new(incoming: Incoming, pace: Rc<Pace>, has_length: bool) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            state: State::Reading,
            is_replayable: true,
            bytes: 0,
            current: 0,
            mirrors: Vec::new(),
            pace,
            has_length,
        }))
    }

    /// Whether another try can have the whole body.
    pub fn is_replayable(&self) -> bool {
        self.is_replayable && self.state != State::Broken
    }

    /// Whether the client broke off.
    pub fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Whether all of it was read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes that the client sent.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// There is no other try: nothing is kept any longer. The try that has the body reads on.
    pub fn commit(&mut self) {
        self.is_replayable = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SentError>>> {
        match self.state {
            State::Reading => {}
            State::Done => return Poll::Ready(None),
            State::Broken => return Poll::Ready(Some(Err(SentError::Client))),
        }
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if polled.is_pending() {
            // A client that told no length may be silent: streams are.
            let owing = self.has_length.then_some(Side::Client);
            self.pace.upload_is_owed(owing);
        }
        let frame = match ready!(polled) {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => {
                self.state = State::Broken;
                self.pace.upload_is_owed(None);
                self.copy(|copy| copy.fail(SentError::Client));
                return Poll::Ready(Some(Err(SentError::Client)));
            }
            None => {
                self.finish();
                return Poll::Ready(None);
            }
        };
        self.pace.on_upload();
        if let Some(data) = frame.data_ref() {
            let data = data.clone();
            self.bytes += data.len() as u64;
            self.copy(|copy| copy.push(&data));
            self.keep(data);
        } else if let Some(trailers) = frame.trailers_ref() {
            if self.is_replayable {
                self.trailers = Some(trailers.clone());
            }
            self.finish();
        }
        if self.state == State::Reading && self.incoming.is_end_stream() {
            self.finish();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Tries until now get no more of it; the number of the next one.
    pub fn supersede(&mut self) -> u32 {
        self.current += 1;
        self.current
    }

    fn finish(&mut self) {
        self.state = State::Done;
        // What is left is the endpoint's to answer.
        self.pace.upload_is_owed(None);
        self.copy(|copy| copy.finish());
    }

    fn keep(&mut self, data: Bytes) {
        if !self.is_replayable {
            return;
        }
        self.kept_bytes += data.len();
        if self.kept_bytes > REPLAY_BYTES_MAX {
            self.is_replayable = false;
            // The try that reads is past all of it: nobody else may read any more.
            self.kept = Vec::new();
            return;
        }
        self.kept.push(data);
    }

    fn copy(&mut self, act: impl Fn(&mut Copy)) {
        self.mirrors.retain(|copy| {
            let copy = copy.upgrade();
            if let Some(copy) = &copy {
                act(&mut copy.borrow_mut());
            }
            copy.is_some()
        });
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // Nobody will read the rest: its copies wait for nothing.
        if self.state == State::Reading {
            self.copy(|copy| copy.fail(SentError::Client));
        }
    }
}

/// A gate that a body waits at until the endpoint wants it (`Expect: 100-continue`).
pub struct Gate {
    is_open: AtomicBool,
    waker: AtomicWaker,
    /// Whether the endpoint lets such clients wait in vain.
    is_ignored: Arc<AtomicBool>,
}

impl Gate {
    /// For an endpoint, of which it is remembered whether it ever says so (RFC 9110 10.1.1: past
    /// interaction): where it does not, nobody waits again.
    pub fn new(is_ignored: &Arc<AtomicBool>) -> Self {
        Self {
            is_open: AtomicBool::new(is_ignored.load(Ordering::Acquire)),
            waker: AtomicWaker::new(),
            is_ignored: is_ignored.clone(),
        }
    }

    /// Lets the body through.
    pub fn open(&self) {
        self.is_ignored.store(false, Ordering::Release);
        self.is_open.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// The body of one try, or of a copy.
pub struct SentBody(Kind);

enum Kind {
    Empty,
    Try(Try),
    Mirror(Rc<RefCell<Copy>>),
}

struct Try {
    source: Rc<RefCell<Source>>,
    number: u32,
    /// Pieces of [`Source::kept`] that this try has had.
    at: usize,
    is_ended: bool,
    gate: Option<(Arc<Gate>, LocalBoxFuture<'static, ()>)>,
}

impl SentBody {
    /// No body.
    pub fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// The body of another try; the ones before get no more of it.
    pub fn of(source: &Rc<RefCell<Source>>) -> Self {
        let number = source.borrow_mut().supersede();
        Self(Kind::Try(Try {
            source: source.clone(),
            number,
            at: 0,
            is_ended: false,
            gate: None,
        }))
    }

    /// Waits until `gate` opens or `late` ends, before it asks the client for a byte.
    #[must_use]
    pub fn behind(mut self, gate: Arc<Gate>, late: LocalBoxFuture<'static, ()>) -> Self {
        if let Kind::Try(this) = &mut self.0 {
            this.gate = Some((gate, late));
        }
        self
    }

    /// A copy of what the tries read; it begins where the body begins.
    pub fn mirror(source: &Rc<RefCell<Source>>) -> Self {
        let copy = Rc::new(RefCell::new(Copy::default()));
        source.borrow_mut().mirrors.push(Rc::downgrade(&copy));
        Self(Kind::Mirror(copy))
    }
}

impl Try {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SentError>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        if let Some((gate, late)) = &mut self.gate {
            gate.waker.register(cx.waker());
            if !gate.is_open.load(Ordering::Acquire) {
                ready!(late.as_mut().poll(cx));
                gate.is_ignored.store(true, Ordering::Release);
            }
            self.gate = None;
        }
        let mut source = self.source.borrow_mut();
        if source.current != self.number {
            return Poll::Ready(Some(Err(SentError::Superseded)));
        }
        if let Some(data) = source.kept.get(self.at) {
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if source.state == State::Done {
            self.is_ended = true;
            let trailers = source.trailers.clone();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(source.poll(cx));
        // What was kept just now is what this try has in hand.
        self.at = source.kept.len();
        if !source.is_replayable && !source.kept.is_empty() && self.at == source.kept.len() {
            source.kept = Vec::new();
            self.at = 0;
        }
        let is_data = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        // Told with the last piece, so that HTTP/2 needs no empty frame behind it.
        self.is_ended = !is_data || (source.state == State::Done && source.trailers.is_none());
        Poll::Ready(frame)
    }
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = SentError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SentError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Try(this) => this.poll(cx),
            Kind::Mirror(copy) => copy.borrow_mut().poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Try(this) => this.is_ended,
            Kind::Mirror(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            // `Content-Length` goes on as it came.
            _ => SizeHint::default(),
        }
    }
}

/// What a mirror has not taken yet.
#[derive(Default)]
struct Copy {
    queue: VecDeque<Bytes>,
    bytes: usize,
    is_done: bool,
    error: Option<SentError>,
    waker: Option<Waker>,
}

impl Copy {
    fn push(&mut self, data: &Bytes) {
        self.bytes += data.len();
        if self.bytes > MIRROR_LAG_BYTES_MAX {
            return self.fail(SentError::Lagged);
        }
        self.queue.push_back(data.clone());
        self.wake();
    }

    fn fail(&mut self, error: SentError) {
        self.queue = VecDeque::new();
        self.error = Some(error);
        self.wake();
    }

    fn finish(&mut self) {
        self.is_done = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SentError>>> {
        if let Some(error) = self.error {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(data) = self.queue.pop_front() {
            self.bytes -= data.len();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.is_done {
            return Poll::Ready(None);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
