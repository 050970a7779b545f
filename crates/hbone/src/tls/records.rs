//! TLS 1.3 once the handshake is over, on the keys that rustls agreed on: records are opened in the
//! buffer that they were read into and sealed in the one that they are sent from. It must not know
//! what the plaintext means, nor how the handshake went.
//!
//! rustls stays for what follows from its secrets: the next keys, and session tickets.

mod fault;
mod key;
mod message;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error, ExtractedSecrets};

pub(super) use fault::Fault;
pub(super) use key::HEADER_BYTES;
use key::{Key, OUTER_KIND};
use message::Message;

/// Most bytes of one record's plaintext (RFC 8446 5.1).
pub(crate) const RECORD_BYTES: usize = 16_384;

/// Most bytes that a record may announce behind its header (RFC 8446 5.2).
const MAX_SEALED_BYTES: usize = RECORD_BYTES + 256;

/// Records that one AES-GCM key may seal: 2^24, below the 2^24.5 of RFC 8446 5.5.
const MAX_RECORDS_PER_KEY: u64 = 1 << 24;

/// Messages (KeyUpdate, session ticket, user_canceled) that a peer may send without any data in
/// between. Most cost us a new key; a server sends two tickets, nobody changes keys for nothing.
const MAX_IDLE_MESSAGES: u32 = 32;

/// Inner types of records (RFC 8446 B.1).
mod kind {
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const DATA: u8 = 23;
}

/// Levels of an alert; the description alone says what it means (RFC 8446 6).
mod level {
    pub(super) const WARNING: u8 = 1;
    pub(super) const FATAL: u8 = 2;
}

/// What remains of rustls: where the next keys come from.
enum Kernel {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

impl Kernel {
    fn next_sealing(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(c) => c.update_tx_secret(),
            Self::Server(s) => s.update_tx_secret(),
        }
    }

    fn next_opening(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(c) => c.update_rx_secret(),
            Self::Server(s) => s.update_rx_secret(),
        }
    }
}

/// What one record carried.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// Plaintext, at least one byte.
    Data(&'a [u8]),
    /// Nothing for us to hand on.
    Nothing,
    /// close_notify: nothing follows.
    Closed,
}

/// Both directions of an established session. It holds no buffer but for a handshake message that
/// came in part.
pub(super) struct Records {
    kernel: Kernel,
    seals: Key,
    opens: Key,
    /// The begin of a handshake message.
    joining: Vec<u8>,
    /// Messages since the last data that nobody asked for.
    idle: u32,
    /// KeyUpdates that we asked for and that have not come.
    awaited: u32,
    /// The peer asked for new keys of ours.
    owes_update: bool,
    /// The last thing that is sealed.
    alert: Option<[u8; 2]>,
    records_per_key: u64,
    /// Records of data that were sealed.
    sealed: u64,
    key_updates: u64,
}

impl Records {
    /// Takes over from a client whose handshake is finished and that has nothing left to send.
    pub(super) fn of_client(
        engine: UnbufferedClientConnection,
        records_per_key: u64,
    ) -> Result<Self, Fault> {
        let taken = engine.dangerous_into_kernel_connection();
        let (secrets, kernel) = taken.map_err(Fault::Keys)?;
        Self::new(Kernel::Client(Box::new(kernel)), &secrets, records_per_key)
    }

    /// Takes over from a server, as [`Self::of_client`].
    pub(super) fn of_server(
        engine: UnbufferedServerConnection,
        records_per_key: u64,
    ) -> Result<Self, Fault> {
        let taken = engine.dangerous_into_kernel_connection();
        let (secrets, kernel) = taken.map_err(Fault::Keys)?;
        Self::new(Kernel::Server(Box::new(kernel)), &secrets, records_per_key)
    }

    fn new(
        kernel: Kernel,
        secrets: &ExtractedSecrets,
        records_per_key: u64,
    ) -> Result<Self, Fault> {
        Ok(Self {
            kernel,
            seals: Key::new(secrets.tx.0, &secrets.tx.1)?,
            opens: Key::new(secrets.rx.0, &secrets.rx.1)?,
            joining: Vec::new(),
            idle: 0,
            awaited: 0,
            owes_update: false,
            alert: None,
            records_per_key: records_per_key.clamp(1, MAX_RECORDS_PER_KEY),
            sealed: 0,
            key_updates: 0,
        })
    }

    /// KeyUpdates that we asked for.
    pub(super) fn key_updates(&self) -> u64 {
        self.key_updates
    }

    /// Records of data that were sealed.
    pub(super) fn sealed(&self) -> u64 {
        self.sealed
    }

    /// Bytes of the record that begins here, once its header is whole; a header that cannot be one
    /// is refused before its body comes.
    pub(super) fn length(part: &[u8]) -> Result<Option<usize>, Fault> {
        let Some(header) = part.get(..HEADER_BYTES) else {
            return Ok(None);
        };
        let sealed = usize::from(u16::from_be_bytes([header[3], header[4]]));
        match header[0] {
            OUTER_KIND if sealed > MAX_SEALED_BYTES => Err(Fault::Oversized),
            OUTER_KIND => Ok(Some(HEADER_BYTES + sealed)),
            other => Err(Fault::Plain(other)),
        }
    }

    /// Opens a whole record where it lies.
    pub(super) fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<Content<'a>, Fault> {
        let inner = &*self.opens.open(record)?;
        if inner.len() > RECORD_BYTES + 1 {
            return Err(Fault::Oversized);
        }
        let end = inner.iter().rposition(|byte| *byte != 0);
        let end = end.ok_or(Fault::NoKind)?;
        let (content, kind) = (&inner[..end], inner[end]);
        if !self.joining.is_empty() && kind != kind::HANDSHAKE {
            return Err(Fault::Interleaved);
        }
        match kind {
            kind::DATA if content.is_empty() => Ok(Content::Nothing),
            kind::DATA => {
                self.idle = 0;
                Ok(Content::Data(content))
            }
            kind::HANDSHAKE | kind::ALERT if content.is_empty() => Err(Fault::Empty),
            kind::HANDSHAKE => self.join(content).map(|()| Content::Nothing),
            kind::ALERT => self.take_alert(content),
            other => Err(Fault::Kind(other)),
        }
    }

    fn take_alert(&mut self, content: &[u8]) -> Result<Content<'static>, Fault> {
        let [_, description] = content else {
            return Err(Fault::Alert);
        };
        match AlertDescription::from(*description) {
            AlertDescription::CloseNotify => Ok(Content::Closed),
            // close_notify follows.
            AlertDescription::UserCanceled => self.count_idle().map(|()| Content::Nothing),
            other => Err(Fault::Refused(other)),
        }
    }

    fn join(&mut self, content: &[u8]) -> Result<(), Fault> {
        let mut joined = std::mem::take(&mut self.joining);
        joined.extend_from_slice(content);
        let tickets = matches!(self.kernel, Kernel::Client(_));
        let mut at = 0;
        while let Some((message, bytes)) = message::first(&joined[at..], tickets)? {
            at += bytes;
            self.count(&message)?;
            match message {
                // What follows is under the next key, so it cannot be here.
                Message::KeyUpdate { .. } if at < joined.len() => return Err(Fault::BehindUpdate),
                Message::KeyUpdate { asks } => self.take_update(asks)?,
                Message::Ticket(ticket) => self.take_ticket(ticket)?,
            }
        }
        if at < joined.len() {
            joined.drain(..at);
            self.joining = joined;
        }
        Ok(())
    }

    /// An answer costs the peer nothing; one may stand for several that we asked for.
    fn count(&mut self, message: &Message<'_>) -> Result<(), Fault> {
        if matches!(message, Message::KeyUpdate { .. }) && self.awaited > 0 {
            self.awaited -= 1;
            return Ok(());
        }
        self.count_idle()
    }

    fn count_idle(&mut self) -> Result<(), Fault> {
        self.idle += 1;
        match self.idle > MAX_IDLE_MESSAGES {
            true => Err(Fault::Flood),
            false => Ok(()),
        }
    }

    fn take_update(&mut self, asks: bool) -> Result<(), Fault> {
        let (next, secrets) = self.kernel.next_opening().map_err(Fault::Keys)?;
        self.opens = Key::new(next, &secrets)?;
        // One answer is enough, however often it asked meanwhile (RFC 8446 4.6.3).
        self.owes_update |= asks;
        Ok(())
    }

    fn take_ticket(&mut self, ticket: &[u8]) -> Result<(), Fault> {
        match &mut self.kernel {
            Kernel::Client(c) => c.handle_new_session_ticket(ticket).map_err(Fault::Ticket),
            Kernel::Server(_) => Err(Fault::Unreadable),
        }
    }

    /// Before a record of data: what keys must change does so behind what `out` holds.
    fn freshen(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.owes_update {
            self.update(false, out)?;
        }
        if self.seals.used() >= self.records_per_key {
            self.key_updates += 1;
            self.awaited = self.awaited.saturating_add(1);
            self.update(true, out)?;
        }
        Ok(())
    }

    /// Seals `plaintext`, at most [`RECORD_BYTES`], as a record behind what `out` holds.
    pub(super) fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        self.freshen(out)?;
        self.sealed += 1;
        self.seals.seal_from(kind::DATA, plaintext, out)
    }

    /// Room for the header of a record behind what `out` holds; its plaintext is put behind that,
    /// at most [`RECORD_BYTES`]. Gives where the record begins.
    pub(super) fn begin(&mut self, out: &mut Vec<u8>) -> Result<usize, Fault> {
        self.freshen(out)?;
        let at = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        Ok(at)
    }

    /// Seals the record that began at `at`; it ends where `out` ends.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>, at: usize) -> Result<(), Fault> {
        self.sealed += 1;
        self.seals.seal(kind::DATA, out, at)
    }

    /// New sending keys (RFC 8446 4.6.3); `ask`: the peer's are wanted too.
    fn update(&mut self, ask: bool, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.seals
            .seal_from(kind::HANDSHAKE, &message::key_update(ask), out)?;
        self.owes_update = false;
        let (next, secrets) = self.kernel.next_sealing().map_err(Fault::Keys)?;
        self.seals = Key::new(next, &secrets)?;
        Ok(())
    }

    /// Nothing is sealed any more but the alert of this fault, if it has one.
    pub(super) fn end(&mut self, fault: &Fault) {
        self.owes_update = false;
        let alert = fault.alert();
        self.alert = alert.map(|alert| [level::FATAL, alert.into()]);
    }

    /// As [`Self::end`], when nobody is there to hear of it.
    pub(super) fn end_unheard(&mut self) {
        self.owes_update = false;
        self.alert = None;
    }

    /// Tells the peer that nothing follows.
    pub(super) fn close(&mut self) {
        self.owes_update = false;
        self.alert = Some([level::WARNING, AlertDescription::CloseNotify.into()]);
    }

    /// Whether an answer or an alert waits to be sent.
    pub(super) fn owes(&self) -> bool {
        self.owes_update || self.alert.is_some()
    }

    /// Seals what is owed behind what `out` holds. Before any other record, for the keys change.
    pub(super) fn settle(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.owes_update {
            self.update(false, out)?;
        }
        if let Some(alert) = self.alert.take() {
            self.seals.seal_from(kind::ALERT, &alert, out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
