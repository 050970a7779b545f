//! One TLS session over byte buffers: rustls makes the handshake, our own records follow. It cuts
//! what came into records; it must not know what the plaintext means.

mod handshake;

use std::collections::BTreeSet;

use mesh::identity::Identity;

use super::client::ClientTls;
use super::credentials::ALPN;
use super::exchange::KeyExchange;
use super::failure::HandshakeError;
use super::identity::PeerIdentity;
use super::records::{Content, Fault, HEADER_BYTES, Records};
use super::server::ServerTls;
use super::validity::not_after;
use super::verify::{IdentityMismatch, identity_of};
use handshake::Handshake;

/// Received bytes that wait for the rest of a handshake message: at most 64 KiB (rustls' own
/// limit), which tiny records blow up.
const MAX_WAITING_BYTES: usize = 128 << 10;

enum Phase {
    Handshake(Handshake),
    Established(Records),
    /// The handshake failed, or its keys could not be taken.
    Over,
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
    phase: Phase,
    /// Received bytes that make up no whole record or handshake message yet.
    waiting: Vec<u8>,
    /// During the handshake: how many of them the engine has seen, whole records all.
    seen: usize,
    /// Handshake bytes to send before anything else.
    pending: Vec<u8>,
    closed: bool,
    failed: bool,
    said_goodbye: bool,
    records_per_key: u64,
}

impl Session {
    /// A client's session; its first flight waits to be sent.
    pub(crate) fn client(
        tls: &ClientTls,
        expected: BTreeSet<Identity>,
        records_per_key: u64,
    ) -> Result<Self, HandshakeError> {
        let engine = tls.start(expected).map_err(|e| HandshakeError::of(&e))?;
        let mut session = Self::new(Handshake::Client(Box::new(engine)), records_per_key);
        match session.shake_hands(&mut |_| {}) {
            Ok(()) => Ok(session),
            Err(SessionError::Handshake(e)) => Err(e),
            Err(SessionError::Broken(why)) => Err(HandshakeError::Broken(why)),
        }
    }

    /// A server's session; it waits for the client.
    pub(crate) fn server(tls: &ServerTls, records_per_key: u64) -> Result<Self, HandshakeError> {
        let engine = tls.start().map_err(|e| HandshakeError::of(&e))?;
        let engine = Handshake::Server(Box::new(engine));
        Ok(Self::new(engine, records_per_key))
    }

    fn new(engine: Handshake, records_per_key: u64) -> Self {
        Self {
            phase: Phase::Handshake(engine),
            waiting: Vec::new(),
            seen: 0,
            pending: Vec::new(),
            closed: false,
            failed: false,
            said_goodbye: false,
            records_per_key,
        }
    }

    fn records(&self) -> Option<&Records> {
        match &self.phase {
            Phase::Established(records) => Some(records),
            Phase::Handshake(_) | Phase::Over => None,
        }
    }

    /// KeyUpdates that we asked for.
    pub(crate) fn key_updates(&self) -> u64 {
        self.records().map_or(0, Records::key_updates)
    }

    /// Records of application data that were sealed.
    pub(crate) fn sealed(&self) -> u64 {
        self.records().map_or(0, Records::sealed)
    }

    /// The transport is gone: nothing can be sent any more.
    pub(crate) fn abandon(&mut self) {
        self.failed = true;
        self.pending = Vec::new();
        if let Phase::Established(records) = &mut self.phase {
            records.end_unheard();
        }
    }

    /// Whether close_notify may be sent and was not.
    pub(crate) fn can_say_goodbye(&self) -> bool {
        self.records().is_some() && !self.failed && !self.said_goodbye
    }

    /// Whether handshake bytes, answers or alerts wait to be sent.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || self.records().is_some_and(Records::owes)
    }

    /// Lets go of memory that only a busy session needs.
    pub(crate) fn rest(&mut self) {
        self.waiting.shrink_to_fit();
    }

    /// Moves what waits to be sent behind what `out` holds.
    pub(crate) fn take_pending(&mut self, out: &mut Vec<u8>) -> Result<(), SessionError> {
        out.append(&mut std::mem::take(&mut self.pending));
        let Phase::Established(records) = &mut self.phase else {
            return Ok(());
        };
        records.settle(out).map_err(|fault| self.broken_by(&fault))
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
        if self.closed || self.failed {
            self.waiting = Vec::new();
        }
        result
    }

    fn open_from(&mut self, received: &mut [u8], sink: Sink<'_>) -> Result<(), SessionError> {
        if self.closed {
            return Ok(());
        }
        if self.records().is_none() {
            self.waiting.extend_from_slice(received);
            self.shake_hands(sink)?;
            if self.records().is_none() {
                return Ok(());
            }
            // What the peer sent behind the handshake, without waiting for us.
            let mut waiting = std::mem::take(&mut self.waiting);
            let used = self.open_records(&mut waiting, 0, sink)?;
            self.waiting.extend_from_slice(&waiting[used..]);
            return Ok(());
        }
        let mut taken = 0;
        // First what makes a record that was cut off whole; it is the only one that is copied.
        while !self.waiting.is_empty() && taken < received.len() && !self.closed {
            let more = self.missing()?.min(received.len() - taken);
            self.waiting
                .extend_from_slice(&received[taken..taken + more]);
            taken += more;
            if self.missing()? > 0 {
                continue;
            }
            let mut record = std::mem::take(&mut self.waiting);
            self.open_records(&mut record, received.len() - taken, sink)?;
            record.clear();
            self.waiting = record;
        }
        let rest = &mut received[taken..];
        let used = self.open_records(rest, 0, sink)?;
        self.waiting.extend_from_slice(&rest[used..]);
        Ok(())
    }

    /// Bytes that the header or the body of the record which waits still needs.
    fn missing(&mut self) -> Result<usize, SessionError> {
        match Records::length(&self.waiting) {
            Ok(length) => Ok(length.unwrap_or(HEADER_BYTES) - self.waiting.len()),
            Err(fault) => Err(self.broken_by(&fault)),
        }
    }

    /// Opens the whole records of `bytes`, behind which `behind` more were received; gives how many
    /// bytes they take.
    fn open_records(
        &mut self,
        bytes: &mut [u8],
        behind: usize,
        sink: Sink<'_>,
    ) -> Result<usize, SessionError> {
        let mut used = 0;
        while let Phase::Established(records) = &mut self.phase
            && !self.closed
        {
            let length = match Records::length(&bytes[used..]) {
                Ok(Some(length)) if used + length <= bytes.len() => length,
                Ok(_) => break,
                Err(fault) => return Err(self.broken_by(&fault)),
            };
            let rest = bytes.len() - used - length + behind;
            match records.open(&mut bytes[used..used + length]) {
                Ok(Content::Data(data)) => sink(Opened::Data(data, rest)),
                Ok(Content::Nothing) => {}
                Ok(Content::Closed) => {
                    self.closed = true;
                    sink(Opened::Closed);
                }
                Err(fault) => return Err(self.broken_by(&fault)),
            }
            used += length;
        }
        Ok(used)
    }

    /// Seals `plaintext`, at most [`super::RECORD_BYTES`], as a record behind what `out` holds.
    pub(crate) fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SessionError> {
        self.sealing(out, |records, out| records.seal(plaintext, out))
    }

    /// Begins a record behind what `out` holds and gives where: plaintext for it, at most
    /// [`super::RECORD_BYTES`], is put behind that, and then [`Self::finish_record`] is called.
    pub(crate) fn begin_record(&mut self, out: &mut Vec<u8>) -> Result<usize, SessionError> {
        self.sealing(out, Records::begin)
    }

    /// Seals the record that began at `at` and ends where `out` ends.
    pub(crate) fn finish_record(
        &mut self,
        out: &mut Vec<u8>,
        at: usize,
    ) -> Result<(), SessionError> {
        let sealed = self.sealing(out, |records, out| records.finish(out, at));
        if sealed.is_err() {
            // Plaintext is never sent.
            out.truncate(at);
        }
        sealed
    }

    fn sealing<T>(
        &mut self,
        out: &mut Vec<u8>,
        seal: impl FnOnce(&mut Records, &mut Vec<u8>) -> Result<T, Fault>,
    ) -> Result<T, SessionError> {
        match &mut self.phase {
            Phase::Established(records) if !self.failed && !self.said_goodbye => {
                let length = out.len();
                seal(records, out).map_err(|fault| {
                    out.truncate(length);
                    self.broken_by(&fault)
                })
            }
            _ => Err(self.broken("nothing can be sealed".to_owned())),
        }
    }

    /// Tells the peer that nothing follows.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) {
        if !self.can_say_goodbye() {
            return;
        }
        self.said_goodbye = true;
        if let Phase::Established(records) = &mut self.phase {
            records.close();
            // A session that cannot even say goodbye is over all the same.
            let _ = records.settle(out);
        }
    }

    /// Shows the engine what waits, one record more each time, until it wants more or the handshake
    /// is over. What lies behind its last record is left.
    fn shake_hands(&mut self, sink: Sink<'_>) -> Result<(), SessionError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut done = 0;
        while let Phase::Handshake(engine) = &mut self.phase {
            let seen = done + self.seen;
            let next = record_bytes(&waiting[seen..]).map(|bytes| seen + bytes);
            let whole = next.filter(|end| *end <= waiting.len());
            // Of part of a record it sees whether this can ever be one.
            let end = whole.unwrap_or(waiting.len());
            let progress = engine.process(&mut waiting[done..end], &mut self.pending);
            let progress = progress.map_err(|error| {
                self.failed = true;
                SessionError::Handshake(HandshakeError::of(&error))
            })?;
            done += progress.used;
            if let Some(end) = whole {
                self.seen = end.saturating_sub(done);
            }
            if progress.closed {
                self.closed = true;
                sink(Opened::Closed);
                return Ok(());
            }
            if !engine.common().is_handshaking() {
                self.take_over(sink)?;
            } else if whole.is_none() {
                break;
            }
            if self.records().is_none() && waiting.len() - done > MAX_WAITING_BYTES {
                return Err(self.broken("a handshake message in too many pieces".to_owned()));
            }
        }
        waiting.drain(..done);
        self.waiting = waiting;
        Ok(())
    }

    /// From the engine of the finished handshake to the records on its keys.
    fn take_over(&mut self, sink: Sink<'_>) -> Result<(), SessionError> {
        let Phase::Handshake(engine) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return Ok(());
        };
        let taken = proven(&engine).and_then(|(peer, kx)| {
            let records = engine.into_records(self.records_per_key);
            let records = records.map_err(|e| HandshakeError::Broken(e.to_string()))?;
            Ok((peer, kx, records))
        });
        let (peer, kx, records) = taken.map_err(|why| {
            self.failed = true;
            SessionError::Handshake(why)
        })?;
        self.seen = 0;
        self.phase = Phase::Established(records);
        sink(Opened::Established(peer, kx));
        Ok(())
    }

    fn broken_by(&mut self, fault: &Fault) -> SessionError {
        if let Phase::Established(records) = &mut self.phase
            && !self.failed
        {
            records.end(fault);
        }
        self.broken(fault.to_string())
    }

    fn broken(&mut self, why: String) -> SessionError {
        self.failed = true;
        match self.phase {
            Phase::Established(_) => SessionError::Broken(why),
            Phase::Handshake(_) | Phase::Over => {
                SessionError::Handshake(HandshakeError::Broken(why))
            }
        }
    }
}

#[cfg(test)]
impl Session {
    /// The records of an established session.
    pub(super) fn into_records(self) -> Option<Records> {
        match self.phase {
            Phase::Established(records) => Some(records),
            Phase::Handshake(_) | Phase::Over => None,
        }
    }
}

/// What the finished handshake proved about the peer.
fn proven(engine: &Handshake) -> Result<(PeerIdentity, KeyExchange), HandshakeError> {
    let common = engine.common();
    if common.alpn_protocol() != Some(ALPN) {
        return Err(HandshakeError::Alpn);
    }
    let group = common.negotiated_key_exchange_group().map(|g| g.name());
    let Some(kx) = group.and_then(KeyExchange::of) else {
        let why = "no key exchange took place".to_owned();
        return Err(HandshakeError::Broken(why));
    };
    let leaf = common.peer_certificates().and_then(<[_]>::first);
    let leaf = leaf.ok_or(HandshakeError::NoCertificate)?;
    let identity = identity_of(leaf)?;
    let unread = || IdentityMismatch::Untrusted("its end cannot be read".to_owned());
    let end = not_after(leaf).ok_or_else(unread)?;
    Ok((PeerIdentity::proven(identity, end), kx))
}

/// Bytes of the handshake's record that begins here, once its header is whole.
fn record_bytes(part: &[u8]) -> Option<usize> {
    let header = part.get(..HEADER_BYTES)?;
    Some(HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]])))
}
