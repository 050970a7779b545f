//! What every connection goes through once its way is known: recorded, relayed, recorded.
//!
//! The one copy of it for outbound, inbound and plaintext. Knows no policy.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use netio::TcpStream;

use crate::connection::{Connection, Direction, Ended};
use crate::record::{Flag, Outcome, Phase};
use crate::worker::Worker;
use crate::worker::accept::Accepted;
use crate::worker::live::Listed;
use crate::worker::pods::LocalPod;
use carrier::limits::Reached;
use carrier::relay::{Counts, End, Parted, Parts, Relay, RelayError, abort, relay};

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

/// Carries what `begun` opens, to its end. `begun` is on the heap: an idle connection shall not
/// carry the way it came.
pub fn serve<B: Future<Output = Option<Listed>>>(begun: B) -> Serve<B> {
    Serve::Beginning(Box::pin(begun))
}

/// A connection from its first to its last moment. By hand: of an async block each of the two
/// stages would have room of its own.
pub enum Serve<B> {
    /// On its way to be let in and connected; both ends are attached after it.
    Beginning(Pin<Box<B>>),
    /// Let in and connected.
    Open(Relay<Listed>),
}

impl<B: Future<Output = Option<Listed>>> Future for Serve<B> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Self::Beginning(begun) = this {
            let Some(connection) = ready!(begun.as_mut().poll(cx)) else {
                return Poll::Ready(());
            };
            let opened = connection.record(Phase::Opened, Ok(()));
            connection.worker().recorder.put(opened);
            *this = Self::Open(relay(connection));
        }
        let Self::Open(relay) = this else {
            return Poll::Pending;
        };
        let relayed = ready!(Pin::new(&mut *relay).poll(cx));
        let connection = relay.owner();
        let outcome = outcome(relayed, connection.ended());
        let closed = connection.record(Phase::Closed, outcome);
        connection.worker().recorder.put(closed);
        Poll::Ready(())
    }
}

/// Takes up a captured connection: lists it and connects its far end by `establish`. None when it
/// was refused; its application has seen a reset then, and the log why.
pub async fn begin<E: Refusal>(
    worker: &Rc<Worker>,
    accepted: Accepted,
    direction: Direction,
    establish: impl AsyncFnOnce(&Rc<LocalPod>, &Connection) -> Result<End, E>,
) -> Option<Listed> {
    let Accepted {
        pod,
        socket,
        source,
        destination,
        seat,
    } = accepted;
    let connection = Connection::new(Rc::clone(&pod.resident), direction, source, destination);
    let connection = match worker.list(connection) {
        Ok(connection) => connection,
        Err((full, connection)) => {
            refuse(worker, &connection, &socket, &full);
            return None;
        }
    };
    drop(seat);
    let near = End::Tcp(Rc::clone(&socket));
    near.guard();
    connection.attach(&near);
    let established = establish(&pod, &connection).await;
    match (established, connection.ended()) {
        (Ok(far), None) => {
            connection.attach(&far);
            return Some(connection);
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

impl Parted for Listed {
    fn with_parts<T>(&self, act: impl FnOnce(&Parts<'_>) -> T) -> T {
        let ends = self.ends();
        let [Some(near), Some(far)] = &*ends else {
            unreachable!("both ends of an open connection stay attached until it leaves the list")
        };
        act(&Parts {
            near,
            far,
            counts: counts(self),
            buffers: &self.worker().buffers,
        })
    }
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
    const CONNECTION_FUTURE_BYTES: usize = 104;

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
        assert!(bytes <= 368, "{bytes} bytes");
    }
}
