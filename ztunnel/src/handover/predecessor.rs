//! The successor's side: asks the running process for what it knows, and tells it when to stop.

use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use netio::seqpacket::Conn;
use process::handover::{State, unpack};
use tokio::time::timeout;

use super::message::{self, Word};
use super::{HandoverError, check_root};
use carrier::limits::HANDOVER_WAIT;

/// The process that serves until now.
pub struct Predecessor {
    conn: Conn,
}

impl Predecessor {
    /// Who listens at `socket`; None when nobody does.
    ///
    /// # Errors
    /// Somebody does, but cannot be talked to.
    pub fn find(socket: &Path) -> Result<Option<Self>, HandoverError> {
        let conn = match Conn::connect(socket) {
            Ok(conn) => conn,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        check_root(&conn)?;
        Ok(Some(Self { conn }))
    }

    /// What it knows. It goes on serving.
    ///
    /// # Errors
    /// It has nothing for us.
    pub async fn state(&self) -> Result<State, HandoverError> {
        let asked = async {
            message::send(&self.conn, Word::Ask).await?;
            message::receive_state(&self.conn).await
        };
        let (bytes, version) = timeout(HANDOVER_WAIT, asked)
            .await
            .map_err(|_| HandoverError::Silent)??;
        let state = unpack(&bytes, SystemTime::now())?;
        tracing::info!(
            version,
            bytes = bytes.len(),
            mesh = state.carried.is_some(),
            certificates = state.certificates.len(),
            "state of the predecessor taken over"
        );
        Ok(state)
    }

    /// Tells it that this process accepts; back when it has stopped and let go of the socket.
    ///
    /// # Errors
    /// It is gone, or was never one of ours.
    pub async fn stop(self) -> Result<(), HandoverError> {
        let told = async {
            message::send(&self.conn, Word::Serving).await?;
            message::receive(&self.conn).await
        };
        match timeout(HANDOVER_WAIT, told).await {
            Ok(Ok(Word::Yours)) => Ok(()),
            Ok(Ok(other)) => Err(HandoverError::Unexpected(format!("{other:?}"))),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(HandoverError::Silent),
        }
    }
}

/// What the process that serves at `socket` knows, and itself. Neither when there is none, or it
/// is of no help, which a log line says. An empty path: handovers are switched off.
pub async fn take_over(socket: &Path) -> (Option<Predecessor>, State) {
    if socket.as_os_str().is_empty() {
        return (None, State::default());
    }
    let found = Predecessor::find(socket);
    let Some(predecessor) = found.unwrap_or_else(|error| {
        tracing::warn!(%error, "the handover socket cannot be used");
        None
    }) else {
        return (None, State::default());
    };
    match predecessor.state().await {
        Ok(state) => (Some(predecessor), state),
        Err(error) => {
            tracing::warn!(%error, "the predecessor's state is not taken over");
            // Found again when this process serves.
            (None, State::default())
        }
    }
}
