//! What every connection goes through once its way is known: recorded, relayed, recorded.
//!
//! The one copy of it for outbound, inbound and plaintext. Knows no policy.

use std::pin::Pin;
use std::rc::Rc;

use netio::TcpStream;

use crate::connection::{Connection, Direction, Ended};
use crate::record::{Flag, Outcome, Phase};
use crate::worker::Worker;
use crate::worker::accept::Accepted;
use crate::worker::live::Listed;
use crate::worker::pods::LocalPod;
use carrier::limits::Reached;
use carrier::relay::{Counts, End, RelayError, abort, relay};

/// A reason to refuse a connection, as logs and metrics say it.
pub trait Refusal: std::fmt::Display {
    /// `response_flags`.
    fn flag(&self) -> Flag;

    /// The limit that it is for, if it is.
    fn limit(&self) -> Option<Reached> {
        None
    }
}

impl Refusal for Reached {
    fn flag(&self) -> Flag {
        Flag::None
    }

    fn limit(&self) -> Option<Reached> {
        Some(*self)
    }
}

impl Refusal for Ended {
    fn flag(&self) -> Flag {
        Ended::flag(self)
    }
}

/// A connection that was let in and connected.
pub struct Open {
    /// In the worker's list.
    pub connection: Listed,
    /// Where it came from, attached.
    pub near: End,
    /// Where it goes.
    pub far: End,
}

/// Carries what `begun` opens, to its end. `begun` is on the heap: an idle connection shall not
/// carry the way it came.
///
/// One future from the first to the last: each further one would keep its own arguments too.
#[expect(
    clippy::manual_async_fn,
    reason = "an async function keeps its arguments twice"
)]
pub fn serve<B: Future<Output = Option<Open>>>(
    worker: Rc<Worker>,
    begun: Pin<Box<B>>,
) -> impl Future<Output = ()> {
    async move {
        let Some(open) = begun.await else { return };
        open.connection.attach(&open.far);
        let opened = open.connection.record(Phase::Opened, Ok(()));
        worker.recorder.put(opened);
        let counts = counts(&open.connection);
        let relayed = relay(&open.near, &open.far, counts, &worker.buffers).await;
        let outcome = outcome(relayed, open.connection.ended());
        let closed = open.connection.record(Phase::Closed, outcome);
        worker.recorder.put(closed);
    }
}

/// Takes up a captured connection: lists it and connects its far end by `establish`. None when it
/// was refused; its application has seen a reset then, and the log why.
pub async fn begin<E: Refusal>(
    worker: &Rc<Worker>,
    accepted: Accepted,
    direction: Direction,
    establish: impl AsyncFnOnce(&Rc<LocalPod>, &Connection) -> Result<End, E>,
) -> Option<Open> {
    let Accepted {
        pod,
        socket,
        source,
        destination,
    } = accepted;
    let connection = Connection::new(Rc::clone(&pod.resident), direction, source, destination);
    let connection = match worker.list(connection) {
        Ok(connection) => connection,
        Err((full, connection)) => {
            refuse(worker, &connection, &socket, &full);
            return None;
        }
    };
    let near = End::Tcp(Rc::clone(&socket));
    near.guard();
    connection.attach(&near);
    let established = establish(&pod, &connection).await;
    match (established, connection.ended()) {
        (Ok(far), None) => {
            return Some(Open {
                connection,
                near,
                far,
            });
        }
        (Ok(far), Some(ended)) => {
            far.reset();
            refuse(worker, &connection, &socket, &ended);
        }
        (Err(_), Some(ended)) => refuse(worker, &connection, &socket, &ended),
        (Err(error), None) => refuse(worker, &connection, &socket, &error),
    }
    None
}

/// The pod's application is the near end of what it makes, the far end of what it takes.
fn counts(connection: &Connection) -> Counts<'_> {
    let (sent, received) = (&connection.sent_bytes, &connection.received_bytes);
    match connection.direction {
        Direction::Outbound => Counts {
            pulse: &connection.pulse,
            up_bytes: sent,
            down_bytes: received,
        },
        Direction::Inbound => Counts {
            pulse: &connection.pulse,
            up_bytes: received,
            down_bytes: sent,
        },
    }
}

/// An end from outside comes before what it made the relay see.
fn outcome(relayed: Result<(), RelayError>, ended: Option<Ended>) -> Outcome {
    match (ended, relayed) {
        (Some(ended), _) => Err((ended.flag(), ended.to_string())),
        (None, Err(error)) => Err((Flag::None, error.to_string())),
        (None, Ok(())) => Ok(()),
    }
}

/// Refuses a captured connection: its application sees a reset, the log sees why.
fn refuse(worker: &Worker, connection: &Connection, socket: &TcpStream, why: &dyn Refusal) {
    abort(socket);
    record_refusal(worker, connection, why);
}

/// The record of a connection that never opened.
pub fn record_refusal(worker: &Worker, connection: &Connection, why: &dyn Refusal) {
    let outcome = Err((why.flag(), why.to_string()));
    let mut record = connection.record(Phase::Refused, outcome);
    if let Some(reached) = why.limit() {
        record.limit = Some(reached.limit);
        worker.count_reached(reached);
    }
    worker.recorder.put(record);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{inbound, outbound};

    /// Most that the future of one connection may take, in bytes. The relay keeps no future of
    /// netio, no argument twice, and nothing of the way it came.
    const CONNECTION_FUTURE_BYTES: usize = 208;

    /// Most that is kept of one connection beside its future, in bytes.
    const CONNECTION_BYTES: usize = 232;

    fn size<F>(_: impl FnOnce(Rc<Worker>, Accepted) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_connection_is_small() {
        for (flow, bytes) in [
            ("outbound", size(outbound::serve)),
            ("plaintext", size(inbound::plaintext::serve)),
        ] {
            assert!(bytes <= CONNECTION_FUTURE_BYTES, "{flow}: {bytes} bytes");
        }
    }

    #[test]
    fn what_is_known_of_a_connection_is_small() {
        let bytes = size_of::<Connection>();
        assert!(bytes <= CONNECTION_BYTES, "{bytes} bytes");
    }

    #[test]
    fn the_future_of_a_tunnel_is_small() {
        // It carries up to 200 connections.
        let bytes = size(inbound::tunnel::serve);
        assert!(bytes <= 336, "{bytes} bytes");
    }
}
