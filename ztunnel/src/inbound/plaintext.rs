//! Plaintext to a pod, from outside of the mesh: passed on or refused, by policy.

use std::rc::Rc;

use super::{InboundError, admit, connect};
use crate::connection::{Connection, Direction};
use crate::flow;
use crate::worker::Worker;
use crate::worker::accept::Accepted;
use crate::worker::live::Listed;
use crate::worker::pods::LocalPod;
use carrier::relay::End;

/// Serves one captured connection to its end.
pub fn serve(worker: Rc<Worker>, accepted: Accepted) -> impl Future<Output = ()> {
    flow::serve(begin(worker, accepted))
}

async fn begin(worker: Rc<Worker>, accepted: Accepted) -> Option<Listed> {
    let establish =
        async |pod: &Rc<LocalPod>, connection: &_| establish(&worker, pod, connection).await;
    flow::begin(&worker, accepted, Direction::Inbound, establish).await
}

async fn establish(
    worker: &Worker,
    pod: &LocalPod,
    connection: &Connection,
) -> Result<End, InboundError> {
    if pod.is_own_listener(connection.destination()) {
        return Err(InboundError::OwnListener);
    }
    admit(worker, pod, connection, None).await?;
    Ok(End::Tcp(connect(worker, pod, connection).await?))
}
