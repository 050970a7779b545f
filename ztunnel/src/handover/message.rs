//! The words of a handover: JSON with a format number, and one state in chunks behind its word.

use netio::seqpacket::Conn;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::HandoverError;
use carrier::limits::{HANDOVER_BYTES, HANDOVER_CHUNK_BYTES, HANDOVER_WORD_BYTES};

/// Number of the format. Another one is refused: better no state than one misread.
pub const FORMAT: u32 = 1;

/// What one says to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub(super) enum Word {
    /// Successor: give me what you have.
    Ask,
    /// Predecessor: this many bytes of state follow.
    State {
        /// Bytes.
        bytes: u64,
        /// Version of the predecessor, for the log.
        version: String,
    },
    /// Successor: I accept connections, stop.
    Serving,
    /// Predecessor: I have stopped; the socket is yours.
    Yours,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    format: u32,
    #[serde(flatten)]
    word: T,
}

/// What every format has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

pub(super) async fn send(conn: &Conn, word: Word) -> Result<(), HandoverError> {
    let envelope = Envelope {
        format: FORMAT,
        word,
    };
    Ok(conn.send(&serde_json::to_vec(&envelope)?, &[]).await?)
}

pub(super) async fn receive(conn: &Conn) -> Result<Word, HandoverError> {
    let message = conn.recv(HANDOVER_WORD_BYTES, 0).await?;
    let bytes = message.ok_or(HandoverError::Closed)?.bytes;
    let Format { format } = serde_json::from_slice(&bytes)?;
    if format != FORMAT {
        return Err(HandoverError::OtherFormat { found: format });
    }
    let envelope: Envelope<Word> = serde_json::from_slice(&bytes)?;
    Ok(envelope.word)
}

pub(super) async fn send_state(conn: &Conn, state: &[u8]) -> Result<(), HandoverError> {
    if state.len() > HANDOVER_BYTES {
        return Err(HandoverError::TooLarge(state.len() as u64));
    }
    let word = Word::State {
        bytes: state.len() as u64,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    send(conn, word).await?;
    for chunk in state.chunks(HANDOVER_CHUNK_BYTES) {
        conn.send(chunk, &[]).await?;
    }
    Ok(())
}

/// The state, and the version of who sent it.
pub(super) async fn receive_state(
    conn: &Conn,
) -> Result<(Zeroizing<Vec<u8>>, String), HandoverError> {
    let (bytes, version) = match receive(conn).await? {
        Word::State { bytes, version } => (bytes, version),
        other => return Err(HandoverError::Unexpected(format!("{other:?}"))),
    };
    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
    if size > HANDOVER_BYTES {
        return Err(HandoverError::TooLarge(bytes));
    }
    // Room for all of it at once: growing would leave copies of keys behind.
    let mut state = Zeroizing::new(Vec::with_capacity(size));
    while state.len() < size {
        let message = conn.recv(HANDOVER_CHUNK_BYTES, 0).await?;
        let mut chunk = message.ok_or(HandoverError::Closed)?.bytes;
        let fits = state.len() + chunk.len() <= size;
        if fits {
            state.extend_from_slice(&chunk);
        }
        chunk.zeroize();
        if !fits {
            return Err(HandoverError::TooLarge(bytes));
        }
    }
    Ok((state, version))
}
