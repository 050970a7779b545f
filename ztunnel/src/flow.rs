//! What every connection goes through once its way is known: recorded, relayed, recorded.
//!
//! The one copy of it for outbound, inbound and plaintext. Knows no policy.

use std::rc::Rc;

use netio::TcpStream;

use crate::connection::{Connection, Direction, Ended};
use crate::record::{Flag, Outcome, Phase};
use crate::relay::{Counts, End, RelayError, abort, relay};
use crate::worker::Worker;
use crate::worker::live::{Full, Listed};

/// A reason to refuse a connection, as logs and metrics say it.
pub trait Refusal: std::fmt::Display {
    /// `response_flags`.
    fn flag(&self) -> Flag;
}

impl Refusal for Full {
    fn flag(&self) -> Flag {
        Flag::None
    }
}

impl Refusal for Ended {
    fn flag(&self) -> Flag {
        Ended::flag(self)
    }
}

/// Relays an open connection to its end and records both.
pub async fn carry(worker: &Worker, connection: &Listed, near: End, far: End) {
    connection.attach(&near);
    connection.attach(&far);
    worker
        .recorder
        .put(connection.record(Phase::Opened, Ok(())));
    let (sent, received) = (&connection.sent_bytes, &connection.received_bytes);
    // The pod's application is the near end of what it makes, the far end of what it takes.
    let counts = match connection.direction {
        Direction::Outbound => Counts {
            up_bytes: sent,
            down_bytes: received,
        },
        Direction::Inbound => Counts {
            up_bytes: received,
            down_bytes: sent,
        },
    };
    let relayed = relay(&near, &far, counts, &worker.buffers).await;
    let outcome = outcome(relayed, connection.ended());
    worker
        .recorder
        .put(connection.record(Phase::Closed, outcome));
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
pub fn refuse(worker: &Worker, connection: &Connection, socket: &TcpStream, why: &dyn Refusal) {
    abort(socket);
    record_refusal(worker, connection, why);
}

/// The record of a connection that never opened.
pub fn record_refusal(worker: &Worker, connection: &Connection, why: &dyn Refusal) {
    let outcome = Err((why.flag(), why.to_string()));
    worker
        .recorder
        .put(connection.record(Phase::Refused, outcome));
}

/// As an end that several may hold.
pub fn tcp(socket: TcpStream) -> (Rc<TcpStream>, End) {
    let socket = Rc::new(socket);
    (Rc::clone(&socket), End::Tcp(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::accept::Accepted;
    use crate::{inbound, outbound};

    /// Most that the future of one connection may take, in bytes. A worker with 16,384 of them
    /// then holds 16 MiB.
    const CONNECTION_FUTURE_BYTES: usize = 1_024;

    fn size<F>(_: impl FnOnce(Rc<Worker>, Accepted) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_connection_is_small() {
        for (flow, bytes) in [
            ("outbound", size(outbound::serve)),
            ("plaintext", size(inbound::plaintext::serve)),
            ("tunnel", size(inbound::tunnel::serve)),
        ] {
            assert!(bytes <= CONNECTION_FUTURE_BYTES, "{flow}: {bytes} bytes");
        }
    }
}
