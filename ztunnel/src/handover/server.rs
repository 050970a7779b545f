//! The side of the process that serves: tells its own predecessor to stop, then waits for a
//! successor.

use std::io;
use std::path::PathBuf;

use futures::stream::{FuturesUnordered, StreamExt};
use netio::seqpacket::{Conn, Listener};
use process::certs::CertManager;
use process::handover::pack;
use process::xds::Feed;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::message::{self, Word};
use super::predecessor::Predecessor;
use super::{HandoverError, check_root};
use carrier::limits::{HANDOVER_PAUSE, HANDOVER_WAIT, SUCCESSORS};

/// A successor accepts connections: this process shall stop to. To be answered when it has.
pub type Replaced = oneshot::Sender<()>;

/// What a successor is given, and who hears of it.
pub struct Server {
    /// Where to listen.
    pub socket: PathBuf,
    /// What is known of the mesh.
    pub feed: Feed,
    /// Certificates of this node.
    pub certificates: CertManager,
    /// Who hears that a successor serves.
    pub replaced: mpsc::Sender<Replaced>,
}

impl Server {
    /// Stops the predecessor and takes its socket, then serves successors until one has taken
    /// over. Called when this process accepts connections.
    pub async fn run(self, predecessor: Option<Predecessor>) {
        let socket = self.socket.display();
        let listener = match self.take_socket(predecessor).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%socket, %error, "no handover to a successor is possible");
                return;
            }
        };
        tracing::info!(%socket, "waiting for a successor");
        let successor = self.successor(&listener).await;
        // From here on it is the successor's.
        drop(listener);
        let (stopped, has_stopped) = oneshot::channel();
        if self.replaced.send(stopped).await.is_err() || has_stopped.await.is_err() {
            return;
        }
        if let Err(error) = message::send(&successor, Word::Yours).await {
            tracing::warn!(%error, "the successor did not hear that this process has stopped");
        }
    }

    /// Until the socket is ours. Whoever has it is told to stop.
    async fn take_socket(&self, mut predecessor: Option<Predecessor>) -> io::Result<Listener> {
        let mut said = String::new();
        loop {
            if let Some(predecessor) = predecessor.take() {
                match predecessor.stop().await {
                    Ok(()) => tracing::info!("the predecessor has stopped to accept"),
                    Err(error) if said != error.to_string() => {
                        tracing::warn!(%error, "the predecessor did not say that it stops");
                        said = error.to_string();
                    }
                    Err(_) => {}
                }
            }
            match Listener::bind(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                other => return other,
            }
            sleep(HANDOVER_PAUSE).await;
            // It may be another one by now.
            predecessor = Predecessor::find(&self.socket).ok().flatten();
        }
    }

    /// The first successor that serves.
    async fn successor(&self, listener: &Listener) -> Conn {
        let mut talks = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if talks.len() < SUCCESSORS => match accepted {
                    Ok(conn) => talks.push(self.talk(conn)),
                    Err(error) => {
                        tracing::warn!(%error, "a successor could not be heard");
                        sleep(HANDOVER_PAUSE).await;
                    }
                },
                Some(talked) = talks.next() => match talked {
                    Ok(successor) => return successor,
                    Err(HandoverError::Closed) => {
                        tracing::info!("a successor went away, this process goes on");
                    }
                    Err(error) => tracing::warn!(%error, "a successor was refused"),
                },
            }
        }
    }

    async fn talk(&self, conn: Conn) -> Result<Conn, HandoverError> {
        check_root(&conn)?;
        loop {
            match message::receive(&conn).await? {
                Word::Ask => {
                    let held = self.certificates.held();
                    let carried = self.feed.carried();
                    let state = pack(carried.as_ref(), held.iter().map(AsRef::as_ref));
                    let sent = timeout(HANDOVER_WAIT, message::send_state(&conn, &state));
                    sent.await.map_err(|_| HandoverError::Silent)??;
                    tracing::info!(bytes = state.len(), "a successor has the state");
                }
                Word::Serving => return Ok(conn),
                other => return Err(HandoverError::Unexpected(format!("{other:?}"))),
            }
        }
    }
}
