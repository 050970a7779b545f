//! One connected ztunnel: hello, snapshot, then changes one at a time, each answered.
//!
//! ```text
//!  accepted --hello--> admitted --snapshot, SnapshotSent--> ready --changes--> ready
//!      |                  |                                    |
//!      +------------------+------- error, silence, end --------+--> closed
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netio::seqpacket::{Conn, Message, RecvError};
use proto::zds::{Add, ListenerRole, MAX_MESSAGE_BYTES, Request};
use proto::{decode, encode};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::registry::{Change, Start};
use super::{ANSWER_TIMEOUT, Command, HandedPod, Known, Zds};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("ztunnel closed the connection")]
    Closed,
    #[error("ztunnel runs as uid {0}, only root may serve pods")]
    NotRoot(u32),
    #[error("its hello cannot be read: {0}")]
    Hello(#[source] proto::decode::DecodeError),
    #[error(
        "it does not take listeners (ZdsHello field 100): without handed listeners nothing can be \
         captured without iptables; use Culvert's ztunnel"
    )]
    NoListeners,
    #[error("it cannot be admitted: {0}")]
    NotAdmitted(String),
    #[error("no answer to {0} within 5 s")]
    Silent(&'static str),
    #[error("its answer to {0} cannot be read: {1}")]
    Answer(&'static str, #[source] proto::decode::DecodeError),
    #[error("it speaks without being asked")]
    Unasked,
    #[error("a message cannot be written: {0}")]
    Encode(#[from] proto::encode::EncodeError),
    #[error("what it sent was not taken: {0}")]
    Receive(#[from] RecvError),
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
}

/// Serves one ztunnel until it goes, misbehaves or the process stops.
pub(super) async fn run(conn: Conn, zds: Zds, stop: CancellationToken) {
    let pid = match admit(&conn, &zds).await {
        Ok(pid) => pid,
        Err(End::Closed) => return,
        Err(reason) => {
            tracing::error!(%reason, "refused a ztunnel");
            return;
        }
    };
    let start = zds.registry().enter(pid);
    let id = start.id;
    tracing::info!(pid, pods = start.snapshot.len(), "ztunnel connected");
    let ended = tokio::select! {
        () = stop.cancelled() => None,
        end = serve(&conn, &zds, start) => end.err(),
    };
    zds.registry().leave(id);
    zds.publish_ready();
    match ended {
        Some(reason @ End::Closed) => tracing::warn!(pid, %reason, "ztunnel disconnected"),
        Some(reason) => tracing::error!(pid, %reason, "dropped a ztunnel"),
        None => {}
    }
}

async fn admit(conn: &Conn, zds: &Zds) -> Result<i32, End> {
    let peer = conn.peer_cred()?;
    if peer.uid != 0 {
        return Err(End::NotRoot(peer.uid));
    }
    let bytes = receive(conn, "the connection (its hello)").await?;
    let hello = decode::zds_hello(&bytes).map_err(End::Hello)?;
    if !hello.accepts_listeners {
        return Err(End::NoListeners);
    }
    (zds.inner.admit)(peer.pid).map_err(End::NotAdmitted)?;
    Ok(peer.pid)
}

async fn serve(conn: &Conn, zds: &Zds, mut start: Start) -> Result<(), End> {
    for (uid, known) in start.snapshot.drain(..) {
        let answer = match &known {
            Known::Handed(pod) => add(conn, pod).await?,
            Known::Kept => ask(conn, &Request::Keep { uid: uid.clone() }, &[], "a keep").await?,
        };
        match answer {
            Ok(()) => zds.acked(start.id, &uid),
            Err(reason) => tracing::warn!(uid, reason, "ztunnel refused a pod of the snapshot"),
        }
    }
    if let Err(reason) = ask(conn, &Request::SnapshotSent, &[], "the snapshot's end").await? {
        tracing::warn!(reason, "ztunnel refused the snapshot's end");
    }
    zds.registry().snapshot_acked(start.id);
    zds.publish_ready();
    loop {
        let command = tokio::select! {
            command = start.commands.recv() => command.ok_or(End::Closed)?,
            spoken = conn.recv(MAX_MESSAGE_BYTES, 0) => return Err(unasked(spoken)),
        };
        obey(conn, zds, start.id, command).await?;
    }
}

fn unasked(spoken: Result<Option<Message>, RecvError>) -> End {
    match spoken {
        Ok(None) => End::Closed,
        Ok(Some(_)) => End::Unasked,
        Err(error) => End::Receive(error),
    }
}

async fn obey(conn: &Conn, zds: &Zds, id: u64, command: Command) -> Result<(), End> {
    let answer = match &command.change {
        Change::Add(pod) => {
            let answer = add(conn, pod).await?;
            match &answer {
                Ok(()) => zds.acked(id, &pod.uid),
                Err(reason) => tracing::warn!(uid = pod.uid, reason, "ztunnel refused a pod"),
            }
            answer
        }
        Change::Delete(uid) => {
            let request = Request::Delete { uid: uid.clone() };
            let answer = ask(conn, &request, &[], "a delete").await?;
            zds.registry().deleted(id, uid);
            answer
        }
    };
    // Whoever asked may have given up by now.
    let _ = command.answer.send(answer);
    Ok(())
}

async fn add(conn: &Conn, pod: &HandedPod) -> Result<Result<(), String>, End> {
    let request = Request::Add(Add {
        uid: pod.uid.clone(),
        pod: Some(pod.info.clone()),
        listeners: ListenerRole::ALL.to_vec(),
    });
    let mut fds = vec![pod.netns.as_fd()];
    fds.extend(pod.listeners.sockets().iter().map(AsFd::as_fd));
    ask(conn, &request, &fds, "an add").await
}

/// One message and its answer. The inner error is ztunnel's own.
async fn ask(
    conn: &Conn,
    request: &Request,
    fds: &[BorrowedFd<'_>],
    what: &'static str,
) -> Result<Result<(), String>, End> {
    let bytes = encode::zds_request(request)?;
    within(ANSWER_TIMEOUT, what, conn.send(&bytes, fds)).await?;
    let answer = receive(conn, what).await?;
    let ack = decode::zds_ack(&answer).map_err(|error| End::Answer(what, error))?;
    Ok(ack.error.map_or(Ok(()), Err))
}

async fn receive(conn: &Conn, what: &'static str) -> Result<Vec<u8>, End> {
    let message = within(ANSWER_TIMEOUT, what, conn.recv(MAX_MESSAGE_BYTES, 0)).await?;
    Ok(message.ok_or(End::Closed)?.bytes)
}

async fn within<T, E: Into<End>>(
    limit: Duration,
    what: &'static str,
    operation: impl Future<Output = Result<T, E>>,
) -> Result<T, End> {
    match timeout(limit, operation).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(End::Silent(what)),
    }
}
