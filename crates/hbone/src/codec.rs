//! CONNECT-only HTTP/2 over plaintext bytes, both roles: streams, windows, bounds, keep-alive,
//! drain. It must not know TLS or identities: `connection` puts those around it, tests run it bare.

mod application;
mod backlog;
mod flood;
mod heartbeat;
mod message;
mod receive;
mod requests;
mod shutdown;
mod spares;
mod stream;
mod streams;
mod transmit;
mod window;

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Config;
use crate::event::{Event, StreamId};
use crate::h2::frame::{self, DEFAULT_WINDOW_BYTES, Fault, PREFACE};
use crate::h2::hpack::Decoder;
use crate::h2::parser::{Parser, ParserLimits};
use crate::h2::settings::{PeerSettings, id};
use crate::time::Mono;
use flood::Guard;
use heartbeat::{Due, Heartbeat};
use receive::Incoming;
use shutdown::Shutdown;
use spares::Spares;
use streams::Streams;
use window::RecvWindow;

pub use backlog::FRAME_HEADROOM;
pub use transmit::Outlet;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens streams.
    Client,
    /// Answers them.
    Server,
}

/// Silence after which memory is let go that only a busy connection needs: the next message makes
/// it anew, and a connection that nobody uses holds none.
const QUIET: Duration = Duration::from_secs(1);

/// Room over the header list bound for a compressed block: size updates and length prefixes.
const BLOCK_SLACK_BYTES: usize = 1024;

/// One end of an HTTP/2 connection. What its methods mean is told at [`crate::Connection`].
#[derive(Debug)]
pub struct Codec {
    role: Role,
    config: Config,
    now: Mono,
    started: Mono,
    /// Gone once the connection is over.
    parser: Option<Parser>,
    decoder: Decoder,
    /// The peer has acknowledged our SETTINGS.
    acknowledged: bool,
    peer: PeerSettings,
    /// The peer's first SETTINGS have come.
    peer_spoke: bool,
    streams: Streams,
    /// What the peer may send, over all streams.
    window: RecvWindow,
    /// What we may send, over all streams.
    send_window: i64,
    /// The DATA frame that is coming in.
    incoming: Option<Incoming>,
    /// The stream that received data last, and since when it alone did.
    bulk: (u32, Mono),
    /// Frames other than DATA, in order.
    control: Vec<u8>,
    events: VecDeque<Event>,
    guard: Guard,
    heart: Heartbeat,
    shutdown: Shutdown,
    spares: Spares,
    /// When something last came or went, if memory for that may still be held.
    busy: Option<Mono>,
    /// Memory is short: small windows, small backlogs.
    frugal: bool,
}

impl Codec {
    /// The end that opens streams.
    pub fn client(config: &Config, now: Mono) -> Self {
        Self::new(Role::Client, config, now)
    }

    /// The end that answers them.
    pub fn server(config: &Config, now: Mono) -> Self {
        Self::new(Role::Server, config, now)
    }

    fn new(role: Role, config: &Config, now: Mono) -> Self {
        let mut codec = Self {
            role,
            now,
            started: now,
            parser: Some(Parser::new(
                parser_limits(role, config),
                role == Role::Server,
            )),
            decoder: Decoder::default(),
            acknowledged: false,
            peer: PeerSettings::default(),
            peer_spoke: false,
            streams: Streams::default(),
            window: RecvWindow::new(
                config.connection_window_bytes,
                config.connection_window_bytes,
            ),
            send_window: i64::from(DEFAULT_WINDOW_BYTES),
            incoming: None,
            bulk: (0, now),
            control: Vec::new(),
            events: VecDeque::new(),
            guard: Guard::new(&config.floods, now),
            heart: Heartbeat::new(config, now),
            shutdown: Shutdown::default(),
            spares: Spares::default(),
            busy: None,
            frugal: false,
            config: config.clone(),
        };
        codec.greet();
        codec
    }

    /// The preface of a client, our SETTINGS, and the connection's window.
    fn greet(&mut self) {
        if self.role == Role::Client {
            self.control.extend_from_slice(PREFACE);
        }
        let mut settings = vec![
            (id::HEADER_TABLE_SIZE, 0),
            (id::INITIAL_WINDOW_SIZE, self.config.stream_window_bytes),
            (id::MAX_FRAME_SIZE, self.config.max_frame_bytes),
            (
                id::MAX_HEADER_LIST_SIZE,
                header_list_bytes(self.role, &self.config),
            ),
        ];
        match self.role {
            Role::Client => settings.push((id::ENABLE_PUSH, 0)),
            Role::Server => {
                settings.push((id::MAX_CONCURRENT_STREAMS, self.config.server_max_streams));
            }
        }
        frame::settings(&mut self.control, &settings);
        let more = self
            .config
            .connection_window_bytes
            .saturating_sub(DEFAULT_WINDOW_BYTES);
        if more > 0 {
            frame::window_update(&mut self.control, 0, more);
        }
    }

    /// Takes received bytes, however they are cut. `behind` is how many more have come already (a
    /// hint for the size of buffers).
    pub fn receive(&mut self, now: Mono, bytes: &[u8], behind: usize) {
        self.advance(now);
        let Some(mut parser) = self.parser.take() else {
            return;
        };
        self.heart.input(now);
        self.spares.trim(now);
        self.busy = Some(now);
        let mut input = bytes;
        let outcome = loop {
            match parser.next(&mut input) {
                Ok(None) => break Ok(()),
                Ok(Some(token)) => {
                    if let Err(fault) = self.token(token, behind) {
                        break Err(fault);
                    }
                }
                Err(fault) => break Err(fault),
            }
            if self.is_closed() {
                return;
            }
        };
        let outcome = outcome.and_then(|()| {
            if self.control.len() <= self.config.floods.control_backlog_bytes {
                return Ok(());
            }
            Err(Fault::calm("the peer does not read our answers"))
        });
        match outcome {
            Ok(()) => self.parser = Some(parser),
            Err(fault) => self.fault(fault),
        }
    }

    /// The transport is ready: silence counts from here.
    pub(crate) fn begin(&mut self, now: Mono) {
        self.advance(now);
        self.heart.input(now);
    }

    fn advance(&mut self, now: Mono) {
        self.now = self.now.max(now);
    }

    /// What happened; drain it after every call that may have caused something.
    pub fn poll_event(&mut self) -> Option<Event> {
        loop {
            let event = self.events.pop_front()?;
            let Some(stream) = stream_of(&event) else {
                return Some(event);
            };
            // Of a stream that we reset meanwhile nobody wants to hear.
            let Some(known) = self.streams.get_mut(stream.0) else {
                continue;
            };
            known.events = known.events.saturating_sub(1);
            if matches!(event, Event::Request { .. }) && !known.reset {
                known.untold = false;
            }
            // Nor of a request that the peer took back before anybody looked at it.
            let untold = known.untold;
            self.sweep(stream.0);
            if !untold {
                return Some(event);
            }
        }
    }

    /// As [`Self::poll_event`], but nothing when a request is next.
    pub fn poll_event_before_request(&mut self) -> Option<Event> {
        while self.request_waits() {
            let stream = self.events.front().and_then(stream_of)?.0;
            if self.streams.get(stream).is_some_and(|known| !known.reset) {
                return None;
            }
            self.events.pop_front();
            if let Some(known) = self.streams.get_mut(stream) {
                known.events = known.events.saturating_sub(1);
                self.sweep(stream);
            }
        }
        self.poll_event()
    }

    /// Whether a request is the next event.
    pub fn request_waits(&self) -> bool {
        matches!(self.events.front(), Some(Event::Request { .. }))
    }

    fn tell(&mut self, stream: u32, event: Event) {
        if let Some(known) = self.streams.get_mut(stream) {
            known.events += 1;
            self.events.push_back(event);
        }
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing comes before.
    pub fn poll_timeout(&self) -> Option<Mono> {
        if self.is_closed() {
            return None;
        }
        let first = (!self.peer_spoke).then(|| self.started.plus(self.config.handshake_timeout));
        let deadlines = [
            Some(self.heart.deadline()),
            self.shutdown.deadline(),
            self.rest_at(),
            first,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// When memory is let go that only a busy connection needs.
    fn rest_at(&self) -> Option<Mono> {
        self.busy.map(|last| last.plus(QUIET))
    }

    /// Whether nothing has come or gone for a while, so that what is around the codec may let go of
    /// memory too.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.busy.is_none()
    }

    /// Does what is due by `now`; calls that come early do nothing.
    pub fn handle_timeout(&mut self, now: Mono) {
        self.advance(now);
        if self.is_closed() {
            return;
        }
        if self.rest_at().is_some_and(|at| now >= at) {
            self.rest();
        }
        if !self.peer_spoke && now >= self.started.plus(self.config.handshake_timeout) {
            return self.never_began();
        }
        if self
            .shutdown
            .deadline()
            .is_some_and(|deadline| now >= deadline)
        {
            self.name_last_stream();
        }
        match self.heart.due(now) {
            Due::Nothing => {}
            Due::Ping(payload) => {
                frame::ping(&mut self.control, false, payload);
            }
            Due::Dead => self.died(),
        }
    }

    /// Lets go of memory that only a busy connection needs.
    fn rest(&mut self) {
        self.busy = None;
        self.spares.clear();
        self.streams.rest();
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
        if self.control.is_empty() {
            self.control = Vec::new();
        }
    }

    /// Smallest recent round trip, once one was measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.heart.rtt()
    }

    /// Application bytes that wait to be sent.
    pub fn backlog_bytes(&self) -> usize {
        self.streams.backlog()
    }

    /// Streams that are open, also those whose last data or event is still with the driver.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Forgets a stream that is over.
    fn sweep(&mut self, stream: u32) {
        if self
            .streams
            .get(stream)
            .is_some_and(stream::Stream::is_over)
        {
            self.streams.remove(stream);
            if self.streams.is_empty() {
                self.spares.clear_large();
            }
            self.close_if_drained();
        }
    }
}

fn header_list_bytes(role: Role, config: &Config) -> u32 {
    match role {
        Role::Client => config.client_header_list_bytes,
        Role::Server => config.server_header_list_bytes,
    }
}

fn parser_limits(role: Role, config: &Config) -> ParserLimits {
    let list = usize::try_from(header_list_bytes(role, config)).unwrap_or(usize::MAX);
    ParserLimits {
        frame_bytes: config.max_frame_bytes,
        block_bytes: list.saturating_add(BLOCK_SLACK_BYTES),
        continuations: config.floods.continuations,
        settings_entries: config.floods.settings_entries,
    }
}

fn stream_of(event: &Event) -> Option<StreamId> {
    match event {
        Event::Request { stream, .. }
        | Event::Response { stream, .. }
        | Event::Readable(stream)
        | Event::Writable(stream)
        | Event::Finished(stream)
        | Event::Reset { stream, .. } => Some(*stream),
        Event::Established { .. } | Event::GoAway { .. } | Event::Closed(_) => None,
    }
}
