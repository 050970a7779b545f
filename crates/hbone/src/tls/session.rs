//! One TLS session over byte buffers: opens what came in, seals what goes out. It must not know
//! what the plaintext means.

mod turn;

use std::collections::BTreeSet;

use mesh::identity::Identity;
use rustls::CommonState;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;

use super::client::ClientTls;
use super::credentials::ALPN;
use super::exchange::KeyExchange;
use super::failure::HandshakeError;
use super::identity::PeerIdentity;
use super::server::ServerTls;
use super::validity::not_after;
use super::verify::{IdentityMismatch, identity_of};
use turn::{Outgoing, Turn, seal_into, take_turn};

/// Most bytes of one TLS record's plaintext (RFC 8446 5.1).
pub(crate) const RECORD_BYTES: usize = 16_384;

/// What a record adds to its plaintext: header 5, content type 1, tag 16.
pub(crate) const RECORD_OVERHEAD: usize = 22;

/// Header of a record.
const HEADER_BYTES: usize = 5;

/// Received bytes that wait for the rest of a record or of a handshake message. A record needs 16
/// KiB; a handshake message at most 64 KiB (rustls' own limit), which tiny records blow up.
const MAX_WAITING_BYTES: usize = 128 << 10;

enum Engine {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

impl Engine {
    fn common(&self) -> &CommonState {
        match self {
            Self::Client(c) => c,
            Self::Server(s) => s,
        }
    }
}

/// Something that came out of [`Session::open`].
pub(crate) enum Opened<'a> {
    /// The handshake is finished. Once, before any data.
    Established(PeerIdentity, KeyExchange),
    /// Plaintext of one record, and the number of received bytes that lie behind it.
    Data(&'a [u8], usize),
    /// The peer sent close_notify; nothing follows.
    Closed,
}

/// What takes the things that come out, in order.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(Opened<'_>);

/// Why a session is dead. The alert for the peer, if any, waits to be sent.
#[derive(Clone, Debug)]
pub(crate) enum SessionError {
    /// Before the handshake was finished.
    Handshake(HandshakeError),
    /// After it.
    Broken(String),
}

/// The session. Idle, it holds the received bytes of at most one partial record.
pub(crate) struct Session {
    engine: Engine,
    /// Received bytes that make up no whole record or handshake message yet.
    waiting: Vec<u8>,
    /// How many of them the engine has seen.
    seen: usize,
    /// Handshake bytes and alerts to send before anything else.
    pending: Vec<u8>,
    established: bool,
    closed: bool,
    failed: bool,
    said_goodbye: bool,
    /// Records sealed under the present key.
    sealed: u64,
    /// Records sealed before it.
    sealed_before: u64,
    records_per_key: u64,
    key_updates: u64,
}

impl Session {
    /// A client's session; its first flight waits to be sent.
    pub(crate) fn client(
        tls: &ClientTls,
        expected: BTreeSet<Identity>,
        records_per_key: u64,
    ) -> Result<Self, HandshakeError> {
        let engine = tls.start(expected).map_err(|e| HandshakeError::of(&e))?;
        let mut session = Self::new(Engine::Client(Box::new(engine)), records_per_key);
        match session.process(&mut [], &mut |_| {}) {
            Ok(_) => Ok(session),
            Err(SessionError::Handshake(e)) => Err(e),
            Err(SessionError::Broken(why)) => Err(HandshakeError::Broken(why)),
        }
    }

    /// A server's session; it waits for the client.
    pub(crate) fn server(tls: &ServerTls, records_per_key: u64) -> Result<Self, HandshakeError> {
        let engine = tls.start().map_err(|e| HandshakeError::of(&e))?;
        Ok(Self::new(Engine::Server(Box::new(engine)), records_per_key))
    }

    fn new(engine: Engine, records_per_key: u64) -> Self {
        Self {
            engine,
            waiting: Vec::new(),
            seen: 0,
            pending: Vec::new(),
            established: false,
            closed: false,
            failed: false,
            said_goodbye: false,
            sealed: 0,
            sealed_before: 0,
            records_per_key: records_per_key.max(1),
            key_updates: 0,
        }
    }

    /// KeyUpdates that we asked for.
    pub(crate) fn key_updates(&self) -> u64 {
        self.key_updates
    }

    /// Records of application data that were sealed.
    pub(crate) fn records(&self) -> u64 {
        self.sealed_before + self.sealed
    }

    /// The transport is gone: nothing can be sent any more.
    pub(crate) fn abandon(&mut self) {
        self.failed = true;
        self.pending = Vec::new();
    }

    /// Whether close_notify may be sent and was not.
    pub(crate) fn can_say_goodbye(&self) -> bool {
        self.established && !self.failed && !self.said_goodbye
    }

    /// Whether handshake bytes or alerts wait to be sent.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Lets go of memory that only a busy session needs.
    pub(crate) fn rest(&mut self) {
        self.waiting.shrink_to_fit();
    }

    /// Moves handshake bytes and alerts that wait behind what `out` holds.
    pub(crate) fn take_pending(&mut self, out: &mut Vec<u8>) {
        out.append(&mut std::mem::take(&mut self.pending));
    }

    /// Opens everything whole in `received` and hands it to `sink`; keeps the rest. `received` is
    /// empty afterwards and keeps its capacity.
    pub(crate) fn open(
        &mut self,
        received: &mut Vec<u8>,
        sink: Sink<'_>,
    ) -> Result<(), SessionError> {
        let result = self.open_from(received, sink);
        received.clear();
        result
    }

    fn open_from(&mut self, received: &mut [u8], sink: Sink<'_>) -> Result<(), SessionError> {
        let mut taken = 0;
        // First what makes a record that was cut off whole; it is the only one that is copied.
        while !self.waiting.is_empty() && taken < received.len() {
            let more = self.missing().min(received.len() - taken);
            self.waiting
                .extend_from_slice(&received[taken..taken + more]);
            taken += more;
            if self.missing() > 0 {
                continue;
            }
            let behind = received.len() - taken;
            let mut waiting = std::mem::take(&mut self.waiting);
            let used = self.process(&mut waiting, &mut |opened| match opened {
                Opened::Data(data, rest) => sink(Opened::Data(data, rest + behind)),
                other => sink(other),
            })?;
            waiting.drain(..used);
            self.keep(waiting)?;
        }
        if taken < received.len() {
            let used = self.process(&mut received[taken..], sink)?;
            let mut waiting = std::mem::take(&mut self.waiting);
            waiting.extend_from_slice(&received[taken + used..]);
            self.keep(waiting)?;
        }
        if self.closed {
            self.keep(Vec::new())?;
        }
        Ok(())
    }

    /// Keeps what waits for more: part of a record, behind the whole records of a handshake message
    /// in pieces, which the engine has seen.
    fn keep(&mut self, rest: Vec<u8>) -> Result<(), SessionError> {
        if rest.len() > MAX_WAITING_BYTES {
            return Err(self.broken("a handshake message in too many pieces".to_owned()));
        }
        self.seen = 0;
        while let Some(length) = record_bytes(&rest[self.seen..])
            && self.seen + length <= rest.len()
        {
            self.seen += length;
        }
        self.waiting = rest;
        Ok(())
    }

    /// Bytes that the header or the body of the record which waits still needs.
    fn missing(&self) -> usize {
        let part = &self.waiting[self.seen..];
        record_bytes(part).unwrap_or(HEADER_BYTES) - part.len()
    }

    /// Seals `plaintext` (any length) as records behind what `out` holds.
    pub(crate) fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SessionError> {
        for record in plaintext.chunks(RECORD_BYTES) {
            if self.sealed >= self.records_per_key {
                self.update_key(out)?;
            }
            self.sealed += 1;
            self.write(out, Outgoing::Data(record))?;
        }
        Ok(())
    }

    /// New sending keys; the peer is asked for new ones too (RFC 8446 4.6.3).
    fn update_key(&mut self, out: &mut Vec<u8>) -> Result<(), SessionError> {
        self.sealed_before += self.sealed;
        self.sealed = 0;
        self.key_updates += 1;
        self.write(out, Outgoing::KeyUpdate)?;
        // The engine gives the message out on its next turn.
        let mut waiting = std::mem::take(&mut self.waiting);
        let done = self.process(&mut waiting, &mut |_| {});
        self.waiting = waiting;
        self.take_pending(out);
        done.map(|_| ())
    }

    /// Tells the peer that nothing follows.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) {
        if self.can_say_goodbye() {
            self.said_goodbye = true;
            // A session that cannot even say goodbye is over all the same.
            let _ = self.write(out, Outgoing::CloseNotify);
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, what: Outgoing<'_>) -> Result<(), SessionError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let written = match &mut self.engine {
            Engine::Client(c) => seal_into(c.process_tls_records(&mut waiting), out, what),
            Engine::Server(s) => seal_into(s.process_tls_records(&mut waiting), out, what),
        };
        self.waiting = waiting;
        written.map_err(|why| self.broken(why))
    }

    /// Runs the engine over `bytes` until it wants more; gives how many of them are done with.
    fn process(&mut self, bytes: &mut [u8], sink: Sink<'_>) -> Result<usize, SessionError> {
        let mut used = 0;
        loop {
            let turn = self.turn(&mut bytes[used..], sink);
            used += turn.discard;
            if let Some(error) = turn.error {
                self.flush_alert(&mut bytes[used..]);
                return Err(self.broken_by(&error));
            }
            if !self.established && !self.engine.common().is_handshaking() {
                let (peer, kx) = self.peer()?;
                self.established = true;
                sink(Opened::Established(peer, kx));
            }
            if turn.closed {
                self.closed = true;
                sink(Opened::Closed);
                return Ok(bytes.len());
            }
            if turn.idle {
                return Ok(used);
            }
        }
    }

    fn turn(&mut self, bytes: &mut [u8], sink: Sink<'_>) -> Turn {
        let (length, ready) = (bytes.len(), self.established);
        let pending = &mut self.pending;
        match &mut self.engine {
            Engine::Client(c) => {
                take_turn(c.process_tls_records(bytes), length, ready, pending, sink)
            }
            Engine::Server(s) => {
                take_turn(s.process_tls_records(bytes), length, ready, pending, sink)
            }
        }
    }

    /// What the finished handshake proved about the peer.
    fn peer(&mut self) -> Result<(PeerIdentity, KeyExchange), SessionError> {
        let common = self.engine.common();
        if common.alpn_protocol() != Some(ALPN) {
            self.failed = true;
            return Err(SessionError::Handshake(HandshakeError::Alpn));
        }
        let group = common.negotiated_key_exchange_group().map(|g| g.name());
        let Some(kx) = group.and_then(KeyExchange::of) else {
            return Err(self.broken("no key exchange took place".to_owned()));
        };
        let leaf = common.peer_certificates().and_then(<[_]>::first);
        let Some(leaf) = leaf else {
            return Err(SessionError::Handshake(HandshakeError::NoCertificate));
        };
        let proven = identity_of(leaf).and_then(|identity| {
            let unread = || IdentityMismatch::Untrusted("its end cannot be read".to_owned());
            let end = not_after(leaf).ok_or_else(unread)?;
            Ok((PeerIdentity::proven(identity, end), kx))
        });
        proven.map_err(|why| SessionError::Handshake(why.into()))
    }

    /// The alert that an error left behind, and what was queued before it. The engine gives these
    /// out before it looks at any byte; another look at the bad ones would be another error.
    fn flush_alert(&mut self, bytes: &mut [u8]) {
        while self.engine.common().wants_write() {
            self.turn(bytes, &mut |_| {});
        }
    }

    fn broken_by(&mut self, error: &rustls::Error) -> SessionError {
        self.failed = true;
        if self.established {
            return SessionError::Broken(error.to_string());
        }
        SessionError::Handshake(HandshakeError::of(error))
    }

    fn broken(&mut self, why: String) -> SessionError {
        self.failed = true;
        if self.established {
            return SessionError::Broken(why);
        }
        SessionError::Handshake(HandshakeError::Broken(why))
    }
}

/// Bytes of the record that begins here, once its header is whole.
fn record_bytes(part: &[u8]) -> Option<usize> {
    let header = part.get(..HEADER_BYTES)?;
    Some(HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]])))
}
