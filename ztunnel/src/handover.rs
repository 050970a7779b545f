//! From one process to the next: the running proxy hands what it knows to the one that replaces it,
//! and stops to accept when that one serves (steering.md, "Hitless swap").
//!
//! ```text
//!   successor                                predecessor
//!      ask ─────────────────────────────────> (any time)
//!      <──────────── state: mesh, certificates, keys
//!      ... pods acked, ready, accepting ...
//!      serving ─────────────────────────────> stops accepting, GOAWAY, lets go of the socket
//!      <───────────────────────────────── yours
//! ```
//!
//! A successor that dies before `serving` has changed nothing. Knows no listener and no worker.

mod message;
pub mod predecessor;
pub mod server;

use std::io;

use netio::seqpacket::{Conn, RecvError};
use process::handover::UnpackError;

pub use message::FORMAT;

/// Why a handover did not come about. The start, or the service, goes on without.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A message that is too long or brings descriptors.
    #[error("{0}")]
    Receive(#[from] RecvError),
    /// The other process closed it.
    #[error("closed by the other process")]
    Closed,
    /// The other process does not run as root.
    #[error("the other process runs as user {0}, not as root")]
    NotRoot(u32),
    /// A message that is none.
    #[error("a message that cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// The other process is of another generation.
    #[error("the other process speaks format {found} of the handover, this one speaks {FORMAT}")]
    OtherFormat {
        /// Its format.
        found: u32,
    },
    /// A message that has no place here.
    #[error("`{0}` was not expected")]
    Unexpected(String),
    /// The state is larger than [`carrier::limits::HANDOVER_BYTES`].
    #[error("a state of {0} bytes is too large")]
    TooLarge(u64),
    /// The state itself.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// [`carrier::limits::HANDOVER_WAIT`].
    #[error("no answer in time")]
    Silent,
}

fn check_root(conn: &Conn) -> Result<(), HandoverError> {
    match conn.peer_cred()?.uid {
        0 => Ok(()),
        other => Err(HandoverError::NotRoot(other)),
    }
}
