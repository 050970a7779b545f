//! One CONNECT of a client: checked, judged, answered, served.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use carrier::headers::shortened;
use carrier::relay::End;
use carrier::tunnel::stream::TunnelStream;
use hbone::{ConnectRequest, ConnectResponse, Headers};
use mesh::decide::waypoint::Bound;
use mesh::{Identity, Workload};

use super::admit::{Client, Taken, admit, client_workload};
use super::{Refusal, refusal};
use crate::connection::{Audits, Connection, Party};
use crate::http::site::Asked;
use crate::serving::{self, Arrived};
use crate::wire::Wire;
use crate::worker::Worker;

/// What a client asks for.
pub(super) struct Connect {
    /// The socket of its proxy.
    pub peer: SocketAddr,
    /// The CONNECT.
    pub request: ConnectRequest,
    /// Where it is answered.
    pub stream: Rc<TunnelStream>,
}

pub(super) async fn serve(worker: Rc<Worker>, connect: Box<Connect>) {
    // On the heap: an idle connection shall not carry the way it came.
    if let Some(arrived) = Box::pin(begin(&worker, *connect)).await {
        serving::serve(worker, arrived).await;
    }
}

/// Lists it, judges it and answers; None when it was refused.
async fn begin(worker: &Rc<Worker>, connect: Connect) -> Option<Box<Arrived>> {
    let Connect {
        peer,
        request,
        stream,
    } = connect;
    let client = refusal::client_address(peer, request.headers.get("forwarded"));
    let connection = Connection::new(client, shortened(&request.authority).into());
    // Both sides are authenticated before the first CONNECT.
    let identity = stream.tunnel().peer();
    let identity = identity.expect("a stream belongs to an established tunnel");
    connection.details.borrow_mut().source.identity = Some(identity.clone());
    let connection = match worker.list(connection, &identity) {
        Ok(connection) => connection,
        Err((full, connection)) => {
            refuse(worker, &connection, &stream, &full.into());
            return None;
        }
    };
    if let Err(full) = worker.has_memory() {
        refuse(worker, &connection, &stream, &full.into());
        return None;
    }
    connection.attach(&End::Stream(Rc::clone(&stream)));
    let by = Client {
        identity: &identity,
        peer,
    };
    let judged = admit(worker, &connection, &request.authority, by).await;
    let own = worker.own();
    let workload = client_workload(&worker.snapshot(), own.as_deref(), client.ip(), &identity);
    connection.details.borrow_mut().source = Party {
        workload: workload.clone(),
        identity: Some(identity.clone()),
    };
    let taken = match (judged, connection.ended()) {
        (Ok(taken), None) => taken,
        (_, Some(ended)) => {
            refusal::record(worker, &connection, &Refusal::Ended(ended));
            return None;
        }
        (Err(why), None) => {
            refuse(worker, &connection, &stream, &why);
            return None;
        }
    };
    if !answer(&stream) {
        refusal::record(worker, &connection, &Refusal::Gone);
        return None;
    }
    let mut asked = asked(&taken, client, (identity, workload));
    asked.audits = Rc::clone(&connection.audits);
    Some(Box::new(Arrived {
        connection,
        wire: Wire::new(End::Stream(stream), Rc::clone(&worker.buffers)),
        bound: taken.bound,
        asked: Rc::new(asked),
    }))
}

/// The same for HTTP.
fn asked(
    taken: &Taken,
    client: SocketAddr,
    (identity, client_workload): (Identity, Option<Arc<Workload>>),
) -> Asked {
    let (service, workload, port, address) = match &taken.bound {
        Bound::Service {
            service,
            port,
            address,
        } => {
            let address = address.map(|ip| SocketAddr::new(ip, *port));
            (Some(service.key.clone()), None, *port, address)
        }
        Bound::Workload { workload, address } => {
            (None, Some(workload.clone()), address.port(), Some(*address))
        }
    };
    Asked {
        client,
        client_identity: Some(identity),
        client_workload,
        service,
        workload,
        address,
        port,
        protocol: taken.protocol,
        audits: Audits::default(),
        revoked: taken.revoked.clone(),
    }
}

/// False when the client is gone. Says 200 before an endpoint is known: which one it will be, the
/// first bytes may decide.
fn answer(stream: &TunnelStream) -> bool {
    let taken = ConnectResponse {
        status: 200,
        headers: Headers::new(),
    };
    stream.respond(&taken).is_ok()
}

fn refuse(worker: &Worker, connection: &Connection, stream: &TunnelStream, why: &Refusal) {
    // A client that is gone needs no answer.
    let _ = stream.respond(&why.answer());
    refusal::record(worker, connection, why);
}
