//! One HBONE tunnel on one worker: the sans-I/O connection, its socket, and the tasks that wait
//! on its streams.
//!
//! Knows no policy and no pod: its [`Owner`] is told what happened. Every call into the connection
//! is followed by [`Tunnel::pump`], which hands events on and wakes the writer.

pub mod dial;
pub mod driver;
pub mod key;
pub mod pool;
pub mod stream;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, SystemTime};

use hbone::{ByNumber, CloseReason, ConnectRequest, ErrorCode, Event, Mono, OpenError, StreamId};
use mesh::Identity;
use netio::TcpStream;

use crate::budget::{Budget, Pressure};
use crate::clock::Clock;
use crate::limits::REQUESTS_PER_TURN;
use crate::signal::Signal;
use stream::TunnelStream;

/// Who is told what happens in a tunnel.
pub trait Owner {
    /// Both sides are authenticated.
    fn established(&self, tunnel: &Rc<Tunnel>);

    /// The peer asks for a stream (servers only).
    fn request(&self, stream: Rc<TunnelStream>, request: ConnectRequest);

    /// The tunnel is over; no event follows.
    fn closed(&self, tunnel: &Rc<Tunnel>, reason: &CloseReason);
}

/// A tunnel, from the TCP connection's beginning to its end.
pub struct Tunnel {
    connection: RefCell<hbone::Connection>,
    socket: Rc<TcpStream>,
    clock: Clock,
    owner: Box<dyn Owner>,
    /// Each takes itself out when its last holder lets it go.
    streams: RefCell<ByNumber<StreamId, Weak<TunnelStream>>>,
    /// Since when no stream is open.
    idle_since: Cell<Option<Mono>>,
    /// The driver has something to send, or must look at the time again.
    send: Signal,
    /// When the driver's timer will wake it.
    armed: Cell<Option<Mono>>,
    /// Requests that are still handed on in this turn of the driver.
    requests_left: Cell<u32>,
    /// When the first of the two certificates ends that it was made with, as far as known.
    ends: Cell<Option<SystemTime>>,
    /// When that is to be looked at.
    ends_at: Cell<Option<Mono>>,
    /// How long it may be without a stream.
    idle_limit: Duration,
    close_reason: RefCell<Option<CloseReason>>,
    /// Of all tunnels of the worker.
    budget: Rc<Budget>,
    /// What the budget knows of it, in bytes.
    buffered_bytes: Cell<usize>,
}

/// What a tunnel is given by its worker.
pub struct Setting {
    /// Its time.
    pub clock: Clock,
    /// How long it may be without a stream before it drains.
    pub idle_limit: Duration,
    /// What it and its neighbours may hold.
    pub budget: Rc<Budget>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.budget.leave(self.buffered_bytes.get());
    }
}

impl Tunnel {
    /// A tunnel on a connected socket. [`driver::drive`] moves it.
    pub fn new(
        connection: hbone::Connection,
        socket: Rc<TcpStream>,
        setting: Setting,
        owner: Box<dyn Owner>,
    ) -> Rc<Self> {
        let Setting {
            clock,
            idle_limit,
            budget,
        } = setting;
        budget.join();
        Rc::new(Self {
            connection: RefCell::new(connection),
            socket,
            clock,
            owner,
            streams: RefCell::default(),
            idle_since: Cell::new(Some(clock.now())),
            send: Signal::default(),
            armed: Cell::new(None),
            requests_left: Cell::new(REQUESTS_PER_TURN),
            ends: Cell::new(None),
            ends_at: Cell::new(None),
            idle_limit,
            close_reason: RefCell::new(None),
            budget,
            buffered_bytes: Cell::new(0),
        })
    }

    /// The TCP socket that carries it.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Who the peer proved to be, once established.
    pub fn peer(&self) -> Option<Identity> {
        self.connection
            .borrow()
            .peer()
            .map(|peer| peer.identity().clone())
    }

    /// Whether a stream may be opened now.
    pub fn has_room(&self) -> bool {
        let connection = self.connection.borrow();
        connection.is_established()
            && !connection.is_draining()
            && !connection.is_closed()
            && connection.available_streams() > 0
            && !self.is_outdated()
    }

    /// One of its certificates ends then; the peer's is known without a word. After that it takes
    /// and makes no new streams; those that it has go on.
    pub fn expires(&self, not_after: SystemTime) {
        let first = self.ends.get().map_or(not_after, |end| end.min(not_after));
        self.ends.set(Some(first));
        let left = first.duration_since(SystemTime::now()).unwrap_or_default();
        self.ends_at.set(Some(self.clock.now().plus(left)));
    }

    /// Asked at each use: a clock that jumps tells nobody.
    fn is_outdated(&self) -> bool {
        self.ends.get().is_some_and(|end| end <= SystemTime::now())
    }

    /// Looks whether a certificate has ended.
    fn retire(self: &Rc<Self>) {
        self.ends_at.set(None);
        match self.ends.get() {
            // Its peer will say when the other one ends.
            _ if !self.is_established() => {}
            Some(_) if self.is_outdated() => {
                let streams = self.streams();
                tracing::info!(
                    peer = ?self.peer(), streams,
                    "a certificate of a tunnel has ended: it takes no new streams"
                );
                self.drain();
            }
            // The clock went back.
            Some(end) => self.expires(end),
            None => {}
        }
    }

    /// Whether both sides are authenticated.
    pub fn is_established(&self) -> bool {
        self.connection.borrow().is_established()
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.close_reason.borrow().is_some()
    }

    /// Whether it will never take a stream again.
    pub fn is_spent(&self) -> bool {
        let connection = self.connection.borrow();
        connection.is_draining() || connection.is_closed()
    }

    /// Since when it has been without a stream; None while it has one.
    pub fn idle_since(&self) -> Option<Mono> {
        self.idle_since.get()
    }

    /// The budget's pressure has changed: holds as little, or as much, as is right now.
    pub fn settle(self: &Rc<Self>) {
        self.pump();
    }

    /// Tells the budget what it holds, and holds little while the budget is exceeded.
    fn account(&self) {
        let mut connection = self.connection.borrow_mut();
        let frugal = self.budget.pressure() > Pressure::Calm;
        if connection.is_frugal() != frugal {
            connection.set_frugal(frugal);
        }
        let now = connection.buffered_bytes();
        self.budget.account(self.buffered_bytes.replace(now), now);
    }

    /// Figures of its connection.
    pub fn stats(&self) -> hbone::Stats {
        self.connection.borrow().stats()
    }

    /// How many streams tasks of ours hold.
    pub fn streams(&self) -> usize {
        self.streams.borrow().len()
    }

    /// Asks the peer for a stream.
    ///
    /// # Errors
    /// It cannot be asked; see [`Tunnel::has_room`].
    pub fn open(self: &Rc<Self>, request: &ConnectRequest) -> Result<Rc<TunnelStream>, OpenError> {
        let id = self.connection.borrow_mut().open_stream(request)?;
        let stream = self.adopt(id);
        self.pump();
        Ok(stream)
    }

    /// Takes no new streams; closes when the last one has ended.
    pub fn drain(self: &Rc<Self>) {
        self.connection.borrow_mut().drain(self.clock.now());
        self.pump();
    }

    /// Ends it and all its streams at once.
    pub fn close(self: &Rc<Self>, code: ErrorCode) {
        self.connection.borrow_mut().close(code);
        self.pump();
    }

    /// Why it is over, if it is.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason.borrow().clone()
    }

    /// When it will have been without a stream for too long, unless one is opened.
    fn idle_until(&self) -> Option<Mono> {
        self.idle_since
            .get()
            .map(|since| since.plus(self.idle_limit))
    }

    fn adopt(self: &Rc<Self>, id: StreamId) -> Rc<TunnelStream> {
        let stream = Rc::new(TunnelStream::new(Rc::clone(self), id));
        let kept = Rc::downgrade(&stream);
        self.streams.borrow_mut().insert(id, kept);
        self.idle_since.set(None);
        stream
    }

    /// The last holder of a stream let it go.
    fn release(self: &Rc<Self>, id: StreamId) {
        let was_there = self.streams.borrow_mut().remove(&id).is_some();
        // Sends what was written and finished, resets what was not.
        self.connection.borrow_mut().release(id);
        if was_there && self.streams.borrow().is_empty() {
            self.idle_since.set(Some(self.clock.now()));
            self.send.set();
        }
        self.pump();
    }

    /// Hands on what happened, wakes the writer and the timer.
    fn pump(self: &Rc<Self>) {
        self.account();
        self.hear();
        self.remind();
    }

    /// Hands on what happened; whether that was anything.
    fn hear(self: &Rc<Self>) -> bool {
        let mut any = false;
        loop {
            // Not in the loop's head: the borrow must end before the event is handed on.
            let event = self.next_event();
            let Some(event) = event else { return any };
            self.hand_on(event);
            any = true;
        }
    }

    /// Wakes the driver if it has something to do, unless it knows.
    fn remind(&self) {
        if self.send.is_set() {
            // It looks at all of this before it waits.
            return;
        }
        let connection = self.connection.borrow();
        // A later deadline is seen when the timer wakes for the earlier one.
        let earlier = match (connection.poll_timeout(), self.armed.get()) {
            (Some(next), Some(armed)) => next < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let due = earlier || connection.request_waits();
        if due || connection.wants_transmit() || connection.is_closed() {
            self.send.set();
        }
    }

    fn next_event(&self) -> Option<Event> {
        let mut connection = self.connection.borrow_mut();
        let left = self.requests_left.get();
        let event = match left {
            0 => connection.poll_event_before_request(),
            _ => connection.poll_event(),
        };
        if matches!(event, Some(Event::Request { .. })) {
            self.requests_left.set(left.saturating_sub(1));
        }
        event
    }

    /// A new turn: requests that did not fit into the one before are handed on.
    fn take_requests(self: &Rc<Self>) {
        self.requests_left.set(REQUESTS_PER_TURN);
        if self.connection.borrow().request_waits() {
            self.pump();
        }
    }

    /// The socket is gone: nothing comes and nothing leaves any more.
    fn lost(self: &Rc<Self>) {
        self.connection.borrow_mut().handle_eof(self.clock.now());
        self.pump();
    }

    /// Does what is due.
    fn is_late(self: &Rc<Self>, now: Mono) {
        if self.idle_until().is_some_and(|until| until <= now) {
            // Gracefully: the peer may be asking for a stream right now. Looked at again after
            // another such time, should the drain not have ended by then.
            self.idle_since.set(Some(now));
            self.drain();
        }
        if self.ends_at.get().is_some_and(|at| at <= now) {
            self.retire();
        }
        self.connection.borrow_mut().handle_timeout(now);
        self.pump();
    }

    /// Whether it holds more than its share of an exceeded budget: what is not read stays with the
    /// peer. Its silence ends the tunnel if that lasts.
    fn is_held_back(&self) -> bool {
        self.budget.holds_back(self.buffered_bytes.get())
    }

    fn hand_on(self: &Rc<Self>, event: Event) {
        match event {
            Event::Established { kx, peer } => {
                let end = Duration::from_secs(peer.not_after().as_secs());
                self.expires(SystemTime::UNIX_EPOCH + end);
                tracing::debug!(?kx, peer = ?self.peer(), "tunnel established");
                self.owner.established(self);
            }
            Event::Request { stream, request } => {
                let stream = self.adopt(stream);
                if self.is_outdated() {
                    // Not looked at: the peer may ask again in a tunnel that it makes anew.
                    stream.reset(ErrorCode::REFUSED_STREAM);
                    self.drain();
                } else {
                    self.owner.request(stream, request);
                }
            }
            Event::Response { stream, response } => self.tell(stream, |s| s.answered(response)),
            Event::Readable(stream) => self.tell(stream, TunnelStream::readable),
            Event::Writable(stream) => self.tell(stream, TunnelStream::writable),
            Event::Finished(stream) => self.tell(stream, TunnelStream::finished),
            Event::Reset { stream, code } => self.tell(stream, |s| s.was_reset(code)),
            Event::GoAway { code } => tracing::debug!(%code, "tunnel takes no new streams"),
            Event::Closed(reason) => {
                *self.close_reason.borrow_mut() = Some(reason.clone());
                self.cut_off();
                self.owner.closed(self, &reason);
            }
        }
    }

    fn tell(&self, id: StreamId, what: impl FnOnce(&TunnelStream)) {
        let stream = self.streams.borrow().get(&id).and_then(Weak::upgrade);
        if let Some(stream) = stream {
            what(&stream);
        }
    }

    /// Wakes everybody once more: what has not ended whole was reset before.
    fn cut_off(&self) {
        let streams: Vec<_> = self.streams.borrow().values().cloned().collect();
        for stream in streams.iter().filter_map(Weak::upgrade) {
            stream.wake();
        }
    }
}
