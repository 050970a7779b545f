//! Plaintext to a pod, from outside of the mesh: passed on or refused, by policy.

use std::rc::Rc;

use super::{InboundError, admit, connect};
use crate::connection::{Connection, Direction};
use crate::flow;
use crate::relay::{End, abort};
use crate::worker::Worker;
use crate::worker::accept::Accepted;

/// Serves one captured connection to its end.
pub async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted {
        pod,
        socket,
        source,
        destination,
    } = accepted;
    let connection = Connection::new(pod.pod.uid.clone(), Direction::Inbound, source, destination);
    let connection = match worker.list(connection, &pod.pod.workload) {
        Ok(connection) => connection,
        Err((full, connection)) => {
            return flow::refuse(&worker, &connection, &socket, &full);
        }
    };
    let (socket, near) = flow::tcp(socket);
    connection.attach(&near);
    // On the heap and freed before the relay: an idle connection shall not carry it.
    let established = Box::pin(async {
        if pod.is_own_listener(destination) {
            return Err(InboundError::OwnListener);
        }
        admit(&worker, &pod, &connection, None).await?;
        connect(&worker, &pod, &connection).await
    });
    match (established.await, connection.ended()) {
        (Ok(app), None) => flow::carry(&worker, &connection, near, End::Tcp(app)).await,
        (Ok(app), Some(ended)) => {
            abort(&app);
            flow::refuse(&worker, &connection, &socket, &ended);
        }
        (Err(_), Some(ended)) => flow::refuse(&worker, &connection, &socket, &ended),
        (Err(error), None) => flow::refuse(&worker, &connection, &socket, &error),
    }
}
