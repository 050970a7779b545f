//! Calls to the agent from a short-lived process: the plugin, and the commands. Blocking, with a
//! bound on every wait.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use netio::seqpacket::{BlockingConn, RecvError};

use crate::message::{Answer, Failure, MAX_MESSAGE_BYTES, PodStatus, PodVerdict};
use crate::message::{Request, ZtunnelStatus};

/// Most pods in one status: several times what a node runs.
const MAX_STATUS_PODS: usize = 4096;

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("connecting: {0}")]
    Connect(#[source] io::Error),
    /// The agent is there but silent.
    #[error("no answer in time")]
    Timeout,
    /// The agent went away in the middle.
    #[error("talking: {0}")]
    Io(#[source] io::Error),
    /// The call is longer than a datagram may be.
    #[error("the call has {0} bytes, at most {MAX_MESSAGE_BYTES} fit")]
    TooLong(usize),
    /// The agent says no, and why.
    #[error("{0}")]
    Refused(String),
    /// The answer is not one.
    #[error("{0}")]
    Decode(String),
}

/// One call and its answer. `timeout` bounds the whole of it.
///
/// # Errors
/// [`CallError`].
pub fn ask(
    socket: &Path,
    request: &Request,
    fd: Option<BorrowedFd<'_>>,
    timeout: Duration,
) -> Result<Answer, CallError> {
    let deadline = Instant::now() + timeout;
    let conn = begin(socket, request, fd, timeout)?;
    next(&conn, deadline)
}

/// What the agent knows.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// Connected proxies, the newest last.
    pub ztunnels: Vec<ZtunnelStatus>,
    /// Known pods.
    pub pods: Vec<PodStatus>,
}

/// The agent's status, put together from its datagrams.
///
/// # Errors
/// [`CallError`].
pub fn status(socket: &Path, timeout: Duration) -> Result<Status, CallError> {
    let deadline = Instant::now() + timeout;
    let conn = begin(socket, &Request::Status, None, timeout)?;
    let nonsense = |answer: &Answer| CallError::Decode(format!("unexpected answer {answer:?}"));
    let (node, ztunnels, count) = match next(&conn, deadline)? {
        Answer::Status {
            node,
            ztunnels,
            pods,
        } => (node, ztunnels, pods.min(MAX_STATUS_PODS)),
        other => return Err(nonsense(&other)),
    };
    let mut pods = Vec::with_capacity(count);
    for _ in 0..count {
        match next(&conn, deadline)? {
            Answer::Pod(pod) => pods.push(pod),
            other => return Err(nonsense(&other)),
        }
    }
    Ok(Status {
        node,
        ztunnels,
        pods,
    })
}

/// What the agent's verification says, put together from its datagrams.
///
/// # Errors
/// [`CallError`]; a refusal of the agent is one.
pub fn verify(
    socket: &Path,
    uid: Option<String>,
    repair: bool,
    timeout: Duration,
) -> Result<Vec<PodVerdict>, CallError> {
    let deadline = Instant::now() + timeout;
    let conn = begin(socket, &Request::Verify { uid, repair }, None, timeout)?;
    let nonsense = |answer: &Answer| CallError::Decode(format!("unexpected answer {answer:?}"));
    let count = match next(&conn, deadline)? {
        Answer::Verified { pods } => pods.min(MAX_STATUS_PODS),
        Answer::Failed(failure) => {
            let Failure { msg, details, .. } = failure;
            return Err(CallError::Refused(format!("{msg}: {details}")));
        }
        other => return Err(nonsense(&other)),
    };
    let mut verdicts = Vec::with_capacity(count);
    for _ in 0..count {
        match next(&conn, deadline)? {
            Answer::Verdict(verdict) => verdicts.push(verdict),
            other => return Err(nonsense(&other)),
        }
    }
    Ok(verdicts)
}

fn begin(
    socket: &Path,
    request: &Request,
    fd: Option<BorrowedFd<'_>>,
    timeout: Duration,
) -> Result<BlockingConn, CallError> {
    let bytes = serde_json::to_vec(request).map_err(|error| CallError::Io(error.into()))?;
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(CallError::TooLong(bytes.len()));
    }
    let conn = BlockingConn::connect(socket, timeout).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => CallError::Timeout,
        _ => CallError::Connect(error),
    })?;
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    conn.send(&bytes, &fds).map_err(broken)?;
    Ok(conn)
}

fn next(conn: &BlockingConn, deadline: Instant) -> Result<Answer, CallError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(CallError::Timeout);
    }
    conn.set_timeout(left).map_err(broken)?;
    let message = conn
        .recv(MAX_MESSAGE_BYTES, 0)
        .map_err(|error| match error {
            RecvError::Io(error) => broken(error),
            other => CallError::Decode(other.to_string()),
        })?;
    let Some(message) = message else {
        return Err(CallError::Io(io::ErrorKind::UnexpectedEof.into()));
    };
    serde_json::from_slice(&message.bytes).map_err(|error| CallError::Decode(error.to_string()))
}

fn broken(error: io::Error) -> CallError {
    match error.kind() {
        io::ErrorKind::TimedOut => CallError::Timeout,
        _ => CallError::Io(error),
    }
}
