//! One CONNECT of a peer: checked, judged, connected, answered, relayed.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use hbone::ConnectResponse;
use mesh::Workload;

use super::{InboundError, admit, connect};
use crate::connection::{Connection, Direction};
use crate::flow;
use crate::worker::Worker;
use crate::worker::live::Listed;
use crate::worker::pods::LocalPod;
use carrier::headers::{requested_port, response_fields, shortened};
use carrier::relay::{End, abort};
use carrier::tunnel::stream::TunnelStream;

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
    /// Where it is answered.
    pub stream: Rc<TunnelStream>,
}

pub(super) fn serve(worker: Rc<Worker>, asked: Asked) -> impl Future<Output = ()> {
    flow::serve(begin(worker, asked))
}

/// Lists it, connects it and answers; None when it was refused.
async fn begin(worker: Rc<Worker>, asked: Asked) -> Option<Listed> {
    let worker = &worker;
    let Asked {
        pod,
        source,
        bound,
        authority,
        stream,
    } = asked;
    let port = requested_port(&authority, bound.ip());
    // We connect where the TCP connection went; the authority gives the port alone.
    let destination = SocketAddr::new(bound.ip(), *port.as_ref().unwrap_or(&0));
    let resident = Rc::clone(&pod.resident);
    let connection = Connection::new(resident, Direction::Inbound, source, destination);
    connection.details.borrow_mut().authority = Some(shortened(&authority).as_str().into());
    let connection = match worker.list(connection) {
        Ok(connection) => connection,
        Err((full, connection)) => {
            refuse(worker, &connection, &stream, &InboundError::from(full));
            return None;
        }
    };
    if let Err(full) = worker.has_memory() {
        connection.details.borrow_mut().source.identity = stream.tunnel().peer();
        refuse(worker, &connection, &stream, &InboundError::from(full));
        return None;
    }
    let near = End::Stream(Rc::clone(&stream));
    connection.attach(&near);
    let established = async {
        port?;
        let workload = admit(worker, &pod, &connection, stream.tunnel().peer()).await?;
        Ok((connect(worker, &pod, &connection).await?, workload))
    };
    // A peer that takes its request back costs no connect to the application.
    let established = tokio::select! {
        biased;
        _ = poll_fn(|cx| stream.poll_reset(cx)) => Err(gave_up()),
        established = established => established,
    };
    match (established, connection.ended()) {
        (Ok((app, workload)), None) => {
            if answer(&stream, &workload) {
                connection.attach(&End::Tcp(app));
                return Some(connection);
            }
            abort(&app);
            flow::record_refusal(worker, &connection, &gave_up());
        }
        // Its end has reset the stream; the application hears of it now.
        (established, Some(ended)) => {
            if let Ok((app, _)) = established {
                abort(&app);
            }
            flow::record_refusal(worker, &connection, &ended);
        }
        (Err(error), None) => refuse(worker, &connection, &stream, &error),
    }
    None
}

fn gave_up() -> InboundError {
    InboundError::Connect("the client gave up".into())
}

/// False when the client is gone.
fn answer(stream: &TunnelStream, workload: &Workload) -> bool {
    let headers = response_fields(workload);
    stream
        .respond(&ConnectResponse {
            status: 200,
            headers,
        })
        .is_ok()
}

fn refuse(worker: &Worker, connection: &Connection, stream: &TunnelStream, why: &InboundError) {
    // A client that is gone needs no answer.
    let _ = stream.respond(&ConnectResponse::of(why.status()));
    flow::record_refusal(worker, connection, why);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl FnOnce(Rc<Worker>, Asked) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_stream_is_small() {
        let bytes = size(serve);
        assert!(bytes <= 104, "{bytes} bytes");
    }
}
