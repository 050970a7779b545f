//! The handshake, which rustls' unbuffered engine makes, the same for its client and its server.
//! The engine is shown one record more at a time, so that what comes behind the handshake is never
//! seen by it.

use rustls::CommonState;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};

use crate::tls::records::{Fault, Records};

/// The engine of one end.
pub(super) enum Handshake {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What the engine did with the bytes that it was shown.
pub(super) struct Progress {
    /// Bytes that are done with; it must see the others again.
    pub(super) used: usize,
    /// The peer said goodbye.
    pub(super) closed: bool,
}

/// What one turn of the engine did.
#[derive(Default)]
struct Turn {
    /// Received bytes that are done with.
    discard: usize,
    /// The engine has nothing more to do with these bytes.
    idle: bool,
    closed: bool,
    error: Option<rustls::Error>,
}

impl Handshake {
    pub(super) fn common(&self) -> &CommonState {
        match self {
            Self::Client(c) => c,
            Self::Server(s) => s,
        }
    }

    /// Shows the engine `bytes` until it wants more; what it has to say goes to `pending`.
    pub(super) fn process(
        &mut self,
        bytes: &mut [u8],
        pending: &mut Vec<u8>,
    ) -> Result<Progress, rustls::Error> {
        let mut used = 0;
        loop {
            let turn = self.turn(&mut bytes[used..], pending);
            used += turn.discard;
            if let Some(error) = turn.error {
                self.flush_alert(&mut bytes[used..], pending);
                return Err(error);
            }
            if turn.idle || turn.closed {
                let closed = turn.closed;
                return Ok(Progress { used, closed });
            }
        }
    }

    /// The alert that an error left behind, and what was queued before it. The engine gives these
    /// out before it looks at any byte; another look at the bad ones would be another error.
    fn flush_alert(&mut self, bytes: &mut [u8], pending: &mut Vec<u8>) {
        while self.common().wants_write() {
            self.turn(bytes, pending);
        }
    }

    fn turn(&mut self, bytes: &mut [u8], pending: &mut Vec<u8>) -> Turn {
        match self {
            Self::Client(c) => take_turn(c.process_tls_records(bytes), pending),
            Self::Server(s) => take_turn(s.process_tls_records(bytes), pending),
        }
    }

    /// The finished handshake's keys; the engine and its buffers are gone.
    pub(super) fn into_records(self, records_per_key: u64) -> Result<Records, Fault> {
        match self {
            Self::Client(c) => Records::of_client(*c, records_per_key),
            Self::Server(s) => Records::of_server(*s, records_per_key),
        }
    }
}

fn take_turn<D>(status: UnbufferedStatus<'_, '_, D>, pending: &mut Vec<u8>) -> Turn {
    let mut turn = Turn {
        discard: status.discard,
        ..Turn::default()
    };
    match status.state {
        Err(error) => turn.error = Some(error),
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, pending),
        Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
        Ok(ConnectionState::PeerClosed) => turn.closed = true,
        // It is never shown a record that could carry data.
        Ok(ConnectionState::ReadTraffic(_)) => {
            turn.error = Some(rustls::Error::General("data within the handshake".into()));
        }
        // Early data is never accepted; every other state waits for more bytes, or has none to
        // come.
        Ok(_) => turn.idle = true,
    }
    turn
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, pending: &mut Vec<u8>) {
    let at = pending.len();
    let mut needed = 0;
    loop {
        pending.resize(at + needed, 0);
        match data.encode(&mut pending[at..]) {
            Ok(written) => return pending.truncate(at + written),
            Err(EncodeError::InsufficientSize(e)) => needed = e.required_size,
            Err(EncodeError::AlreadyEncoded) => return pending.truncate(at),
        }
    }
}
