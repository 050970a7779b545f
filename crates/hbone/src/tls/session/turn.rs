//! One turn of rustls' unbuffered engine, the same for its client and its server.

use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

use super::{Opened, RECORD_OVERHEAD, Sink};

/// What one turn did.
#[derive(Default)]
pub(super) struct Turn {
    /// Received bytes that are done with.
    pub(super) discard: usize,
    /// The engine has nothing more to do with these bytes.
    pub(super) idle: bool,
    /// The peer said goodbye.
    pub(super) closed: bool,
    /// The session is dead.
    pub(super) error: Option<rustls::Error>,
}

/// What is sealed.
#[derive(Clone, Copy)]
pub(super) enum Outgoing<'a> {
    Data(&'a [u8]),
    KeyUpdate,
    CloseNotify,
}

/// Handles the state that the engine reached over `length` bytes. Data stays inside it until
/// `ready`, so that the peer is known before its first byte is seen.
pub(super) fn take_turn<D>(
    status: UnbufferedStatus<'_, '_, D>,
    length: usize,
    ready: bool,
    pending: &mut Vec<u8>,
    sink: Sink<'_>,
) -> Turn {
    let mut turn = Turn {
        discard: status.discard,
        ..Turn::default()
    };
    match status.state {
        Err(error) => turn.error = Some(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            while ready && let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        turn.discard += record.discard;
                        sink(Opened::Data(record.payload, length - turn.discard));
                    }
                    Err(error) => turn.error = Some(error),
                }
            }
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, pending),
        Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
        Ok(ConnectionState::PeerClosed) => turn.closed = true,
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

/// Seals `what` behind what `out` holds; the error is for a log.
pub(super) fn seal_into<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Vec<u8>,
    what: Outgoing<'_>,
) -> Result<(), String> {
    let mut traffic = match status.state {
        Ok(ConnectionState::WriteTraffic(traffic)) => traffic,
        Ok(other) => return Err(format!("nothing can be sealed in state {other:?}")),
        Err(error) => return Err(error.to_string()),
    };
    match what {
        Outgoing::KeyUpdate => traffic.refresh_traffic_keys().map_err(|e| e.to_string()),
        Outgoing::CloseNotify => seal(out, RECORD_OVERHEAD + 2, |space| {
            traffic.queue_close_notify(space)
        }),
        Outgoing::Data(data) => seal_data(&mut traffic, data, out),
    }
}

fn seal_data<D>(
    traffic: &mut WriteTraffic<'_, D>,
    data: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    seal(out, data.len() + RECORD_OVERHEAD, |space| {
        traffic.encrypt(data, space)
    })
}

fn seal(
    out: &mut Vec<u8>,
    expected: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), String> {
    let at = out.len();
    let mut needed = expected;
    loop {
        out.resize(at + needed, 0);
        match write(&mut out[at..]) {
            Ok(written) => {
                out.truncate(at + written);
                return Ok(());
            }
            // A KeyUpdate that the engine puts in front needs room too.
            Err(EncryptError::InsufficientSize(e)) if e.required_size > needed => {
                needed = e.required_size;
            }
            Err(error) => {
                out.truncate(at);
                return Err(error.to_string());
            }
        }
    }
}
