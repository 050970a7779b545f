//! A tunnel: TLS around the codec, one type for both ends. The driver's whole view of it.
//!
//! The driver reads the socket into a buffer and calls [`Connection::handle_input`], writes what
//! [`Connection::poll_transmit`] gives, calls [`Connection::handle_timeout`] at
//! [`Connection::poll_timeout`], and after each of these (and after its own calls) drains
//! [`Connection::poll_event`] and looks at [`Connection::wants_transmit`].

mod sealer;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use mesh::identity::Identity;

use crate::codec::Codec;
use crate::config::Config;
use crate::error::{CloseReason, ErrorCode, OpenError, RespondError, StreamGone};
use crate::event::{ConnectRequest, ConnectResponse, Event, StreamId};
use crate::time::Mono;
use crate::tls::{
    ClientTls, HandshakeError, KeyExchange, Opened, PeerIdentity, ServerTls, Session, SessionError,
};
use sealer::Sealer;

/// Figures of a connection, for logs and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// KeyUpdates that we asked for.
    pub key_updates: u64,
    /// TLS records of application data that were sealed.
    pub records: u64,
    /// Smallest recent round trip, once one was measured.
    pub rtt: Option<Duration>,
    /// Application bytes of all streams that wait to be sealed.
    pub backlog_bytes: usize,
}

/// One end of a tunnel. Idle it holds about a kilobyte besides its keys.
pub struct Connection {
    session: Session,
    codec: Codec,
    peer: Option<PeerIdentity>,
    /// Told once, before everything that the codec tells.
    established: Option<KeyExchange>,
    handshake_deadline: Mono,
}

impl Connection {
    /// The end that connects: the server must be one of `expected`.
    ///
    /// # Errors
    /// An empty `expected`, which nobody could fulfil; a session that cannot begin.
    pub fn client(
        tls: &ClientTls,
        expected: BTreeSet<Identity>,
        config: &Config,
        now: Mono,
    ) -> Result<Self, HandshakeError> {
        if expected.is_empty() {
            return Err(HandshakeError::NobodyExpected);
        }
        let session = Session::client(tls, expected, config.key_update_records)?;
        Ok(Self::new(session, Codec::client(config, now), config, now))
    }

    /// The end that accepts.
    ///
    /// # Errors
    /// A session that cannot begin.
    pub fn server(tls: &ServerTls, config: &Config, now: Mono) -> Result<Self, HandshakeError> {
        let session = Session::server(tls, config.key_update_records)?;
        Ok(Self::new(session, Codec::server(config, now), config, now))
    }

    fn new(session: Session, codec: Codec, config: &Config, now: Mono) -> Self {
        let handshake_deadline = now.plus(config.handshake_timeout);
        Self {
            session,
            codec,
            peer: None,
            established: None,
            handshake_deadline,
        }
    }

    /// Takes all received bytes, however they are cut; `received` is empty afterwards and keeps its
    /// capacity. Large reads (256 KiB) are best.
    pub fn handle_input(&mut self, now: Mono, received: &mut Vec<u8>) {
        if self.codec.is_closed() {
            return received.clear();
        }
        let (codec, peer, established) = (&mut self.codec, &mut self.peer, &mut self.established);
        let mut ended = false;
        let outcome = self.session.open(received, &mut |opened| match opened {
            Opened::Established(identity, kx) => {
                *peer = Some(identity);
                *established = Some(kx);
                codec.begin(now);
            }
            Opened::Data(data, behind) => codec.receive(now, data, behind),
            Opened::Closed => ended = true,
        });
        if let Err(error) = outcome {
            self.broke(error);
        } else if ended {
            self.codec.receive_eof(now, true);
        }
    }

    /// The transport gave EOF or an error.
    pub fn handle_eof(&mut self, now: Mono) {
        self.session.abandon();
        if self.is_established() {
            self.codec.receive_eof(now, false);
        } else {
            self.codec.break_off(HandshakeError::Closed.into());
        }
    }

    fn broke(&mut self, error: SessionError) {
        self.codec.break_off(match error {
            SessionError::Handshake(error) => error.into(),
            SessionError::Broken(why) => CloseReason::Tls(why),
        });
    }

    /// Appends what may be sent now to `out`, about `max_bytes` of it (a record or the waiting
    /// control frames may come on top); gives how much. Zero: nothing to send.
    pub fn poll_transmit(&mut self, now: Mono, out: &mut Vec<u8>, max_bytes: usize) -> usize {
        let start = out.len();
        if let Err(error) = self.session.take_pending(out) {
            self.broke(error);
        }
        if self.is_established() && self.codec.wants_transmit() {
            let mut sealer = Sealer::new(&mut self.session, out);
            self.codec.transmit(now, &mut sealer, max_bytes);
            if let Err(error) = sealer.finish() {
                self.broke(error);
            }
        }
        if self.owes_goodbye() && !self.codec.wants_transmit() {
            self.session.close(out);
        }
        out.len() - start
    }

    /// Whether [`Self::poll_transmit`] has something to give. Cheap; ask after every call.
    pub fn wants_transmit(&self) -> bool {
        self.session.has_pending()
            || (self.is_established() && self.codec.wants_transmit())
            || self.owes_goodbye()
    }

    fn owes_goodbye(&self) -> bool {
        self.codec.is_closed() && self.session.can_say_goodbye()
    }

    /// What happened; drain it after every call.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(kx) = self.established.take()
            && let Some(peer) = self.peer.clone()
        {
            return Some(Event::Established { peer, kx });
        }
        self.codec.poll_event()
    }

    /// As [`Self::poll_event`], but nothing when a request is next: for a driver that takes no more
    /// of them for now. What stands behind it waits too, at most what the allowed streams told.
    pub fn poll_event_before_request(&mut self) -> Option<Event> {
        if self.established.is_some() {
            return self.poll_event();
        }
        self.codec.poll_event_before_request()
    }

    /// Whether a request is the next event. It may have been taken back by the peer: then it is
    /// never told.
    pub fn request_waits(&self) -> bool {
        self.codec.request_waits()
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing comes before.
    pub fn poll_timeout(&self) -> Option<Mono> {
        if self.is_established() || self.codec.is_closed() {
            return self.codec.poll_timeout();
        }
        Some(self.handshake_deadline)
    }

    /// Whether it has let go of memory that only a busy one needs, and its driver should too:
    /// nothing has come or gone for a second.
    pub fn is_at_rest(&self) -> bool {
        self.codec.is_at_rest()
    }

    /// Does what is due by `now`; calls that come early do nothing.
    pub fn handle_timeout(&mut self, now: Mono) {
        if self.is_established() {
            self.codec.handle_timeout(now);
            if self.codec.is_at_rest() {
                self.session.rest();
            }
        } else if now >= self.handshake_deadline {
            self.codec.break_off(HandshakeError::Timeout.into());
        }
    }

    /// Client: asks for a tunnel; `Response` follows. Allowed before the peer's SETTINGS have come:
    /// a stream beyond its limit then ends with `REFUSED_STREAM`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_stream(&mut self, request: &ConnectRequest) -> Result<StreamId, OpenError> {
        if !self.is_established() && !self.codec.is_closed() {
            return Err(OpenError::NotEstablished);
        }
        self.codec.open_stream(request)
    }

    /// Client: streams that may be opened now.
    pub fn available_streams(&self) -> usize {
        if self.is_established() {
            self.codec.available_streams()
        } else {
            0
        }
    }

    /// Streams that are open, also those whose last data or event is still with the driver.
    pub fn open_streams(&self) -> usize {
        self.codec.open_streams()
    }

    /// Server: answers a request. Another status than 2xx ends the stream, and nothing more is told
    /// of it.
    ///
    /// # Errors
    /// See [`RespondError`].
    pub fn respond(
        &mut self,
        stream: StreamId,
        response: &ConnectResponse,
    ) -> Result<(), RespondError> {
        self.codec.respond(stream, response)
    }

    /// Bytes that may be written now: the least of the windows and the room before them. When it is
    /// zero, `Writable` follows once it is not. One when nothing can ever be written again (a write
    /// fails at once, so nobody waits in vain).
    pub fn writable_bytes(&mut self, stream: StreamId) -> usize {
        self.codec.writable_bytes(stream)
    }

    /// Copies what fits of `data` and gives how much; after a short write `Writable` follows.
    ///
    /// # Errors
    /// The stream is gone, refused, or finished.
    pub fn write(&mut self, stream: StreamId, data: &[u8]) -> Result<usize, StreamGone> {
        self.codec.write(stream, data)
    }

    /// Takes a buffer without copying it. Its first [`crate::FRAME_HEADROOM`] bytes are free for a
    /// frame header, the payload stands behind. All of it is taken: ask [`Self::writable_bytes`]
    /// before.
    ///
    /// # Errors
    /// The stream is gone, refused, or finished.
    pub fn write_buffer(&mut self, stream: StreamId, buffer: Vec<u8>) -> Result<(), StreamGone> {
        self.codec.write_buffer(stream, buffer)
    }

    /// END_STREAM behind all that was written: our half is closed.
    pub fn finish(&mut self, stream: StreamId) {
        self.codec.finish(stream);
    }

    /// Ends a stream in both directions at once; unread data is dropped and no event follows. Of a
    /// stream that both sides had finished it only lets go. Nothing for streams that are gone.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        self.codec.reset(stream, code);
    }

    /// Lets go of a stream whose relay is over, however far it came: what was read counts as used
    /// up and unread data is dropped, so that no slot and no window stay taken; what was written
    /// is still sent. A stream that is not finished in both directions is reset with `CANCEL`.
    pub fn release(&mut self, stream: StreamId) {
        self.codec.release(stream);
    }

    /// Everything that came since the last call, in order; `None` when nothing did.
    pub fn read(&mut self, stream: StreamId) -> Option<Vec<u8>> {
        self.codec.read(stream)
    }

    /// Optional: gives a buffer of `read` back once it is written out, so that bulk needs no new
    /// memory. A few are kept while data flows, none at rest.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.codec.recycle(buffer);
    }

    /// Optional: an empty buffer of at least `bytes` (its head included) for
    /// [`Self::write_buffer`], used before if there is one.
    pub fn spare_buffer(&mut self, bytes: usize) -> Vec<u8> {
        self.codec.spare_buffer(bytes)
    }

    /// The application's socket took `bytes` of what was read: the peer may send as many more.
    pub fn consumed(&mut self, stream: StreamId, bytes: usize) {
        self.codec.consumed(stream, bytes);
    }

    /// Takes no new streams and closes when the last one has ended. A server tells first that an
    /// end is near and names the last stream a round trip later (RFC 9113 6.8).
    pub fn drain(&mut self, now: Mono) {
        self.codec.drain(now);
    }

    /// Ends the connection at once with GOAWAY; every stream is cut off.
    pub fn close(&mut self, code: ErrorCode) {
        if self.is_established() {
            self.codec.close(code);
        } else {
            self.codec.break_off(CloseReason::ByUs { code });
        }
    }

    /// Whether the handshake is finished.
    pub fn is_established(&self) -> bool {
        self.peer.is_some()
    }

    /// Whether no new streams are taken or given.
    pub fn is_draining(&self) -> bool {
        self.codec.is_draining()
    }

    /// Whether the connection is over; last bytes may still wait to be sent.
    pub fn is_closed(&self) -> bool {
        self.codec.is_closed()
    }

    /// Whether the connection is over and nothing is left to send: close the socket.
    pub fn is_finished(&self) -> bool {
        self.is_closed() && !self.wants_transmit()
    }

    /// Who the peer is, once that is proven.
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    /// Application bytes that it holds for whoever does not read: received and not used up, written
    /// and not sealed. Cheap; ask after every call.
    pub fn buffered_bytes(&self) -> usize {
        self.codec.buffered_bytes()
    }

    /// Application bytes of all streams that wait to be sealed. Cheap.
    pub fn backlog_bytes(&self) -> usize {
        self.codec.backlog_bytes()
    }

    /// While memory is short: the peer gets 64 KiB for a stream and 256 KiB for the connection at
    /// once, a stream takes 4 KiB from its application. What is held already stays. Drain the
    /// events afterwards.
    pub fn set_frugal(&mut self, frugal: bool) {
        self.codec.set_frugal(frugal);
    }

    /// Whether it was told to hold little.
    pub fn is_frugal(&self) -> bool {
        self.codec.is_frugal()
    }

    /// Figures for logs and metrics.
    pub fn stats(&self) -> Stats {
        Stats {
            key_updates: self.session.key_updates(),
            records: self.session.sealed(),
            rtt: self.codec.rtt(),
            backlog_bytes: self.codec.backlog_bytes(),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("streams", &self.open_streams())
            .field("draining", &self.is_draining())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
