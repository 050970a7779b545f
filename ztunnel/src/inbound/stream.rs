//! One CONNECT of a peer: checked, judged, connected, answered, relayed.

use std::net::SocketAddr;
use std::rc::Rc;

use hbone::ConnectResponse;
use mesh::Workload;
use netio::TcpStream;

use super::{InboundError, admit, connect};
use crate::connection::{Connection, Direction};
use crate::flow::{self, Refusal};
use crate::headers::{requested_port, response_fields, shortened};
use crate::relay::{End, abort};
use crate::tunnel::stream::TunnelStream;
use crate::worker::Worker;
use crate::worker::pods::LocalPod;

/// What a peer asks for.
pub(super) struct Asked {
    /// The pod whose tunnel it is.
    pub pod: Rc<LocalPod>,
    /// The peer's end of the tunnel's TCP connection: the client's address.
    pub source: SocketAddr,
    /// Our end of it: the pod's address.
    pub bound: SocketAddr,
    /// `:authority`, as it came.
    pub authority: String,
}

pub(super) async fn serve(worker: Rc<Worker>, asked: Asked, stream: TunnelStream) {
    let Asked {
        pod,
        source,
        bound,
        authority,
    } = asked;
    let port = requested_port(&authority, bound.ip());
    // We connect where the TCP connection went; the authority gives the port alone.
    let destination = SocketAddr::new(bound.ip(), *port.as_ref().unwrap_or(&0));
    let connection = Connection::new(pod.pod.uid.clone(), Direction::Inbound, source, destination);
    connection.details.borrow_mut().authority = Some(shortened(&authority).into());
    let connection = match worker.list(connection, &pod.pod.workload) {
        Ok(connection) => connection,
        Err((full, connection)) => {
            return refuse(&worker, &connection, &stream, &InboundError::from(full));
        }
    };
    let near = Rc::new(stream);
    connection.attach(&End::Stream(Rc::clone(&near)));
    // On the heap and freed before the relay: an idle connection shall not carry it.
    let established = Box::pin(async {
        port?;
        let peer = near.tunnel().peer();
        let workload = admit(&worker, &pod, &connection, peer).await?;
        let app = connect(&worker, &pod, &connection).await?;
        Ok::<_, InboundError>((workload, app))
    });
    let established = established.await;
    if let Some(ended) = connection.ended() {
        // Its end has reset the stream; the application, if it was connected, hears of it now.
        if let Ok((_, app)) = &established {
            abort(&app);
        }
        return flow::record_refusal(&worker, &connection, &ended);
    }
    match established {
        Ok((workload, app)) => open(&worker, &connection, (near, app), &workload).await,
        Err(error) => refuse(&worker, &connection, &near, &error),
    }
}

async fn open(
    worker: &Worker,
    connection: &crate::worker::live::Listed,
    (near, app): (Rc<TunnelStream>, Rc<TcpStream>),
    workload: &Workload,
) {
    let headers = response_fields(workload);
    if near
        .respond(&ConnectResponse {
            status: 200,
            headers,
        })
        .is_err()
    {
        // The client did not wait.
        abort(&app);
        let gone = InboundError::Connect("the client gave up".into());
        return flow::record_refusal(worker, connection, &gone);
    }
    flow::carry(worker, connection, End::Stream(near), End::Tcp(app)).await;
}

fn refuse(worker: &Worker, connection: &Connection, stream: &TunnelStream, why: &InboundError) {
    // A client that is gone needs no answer.
    let _ = stream.respond(&ConnectResponse::of(why.status()));
    flow::record_refusal(worker, connection, why as &dyn Refusal);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl FnOnce(Rc<Worker>, Asked, TunnelStream) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_stream_is_small() {
        let bytes = size(serve);
        assert!(bytes <= 1_024, "{bytes} bytes");
    }
}
