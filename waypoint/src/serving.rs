//! A connection that was taken: is it HTTP, or bytes to pass on? By what its port says, the routes
//! that are attached to it, and, if neither says, its first bytes.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use mesh::decide::waypoint::Bound;
use mesh::route::book::{Addressed, Level};
use mesh::route::stream::{self, Streams};
use mesh::route::{Book, Failure, GatewayKey, ServicePort};
use mesh::service::AppProtocol;
use netio::time::timeout;

use crate::connection::Admission;
use crate::http::site::Asked;
use crate::opening::{self, OPENING_BYTES, Opening};
use crate::pass::{self, Far, First};
use crate::wire::Wire;
use crate::worker::Worker;
use crate::worker::live::Listed;

/// How long a client of unknown protocol may be silent before the endpoint is connected, so that a
/// server that speaks first is heard. HTTP clients speak at once.
const SILENCE: Duration = Duration::from_millis(50);

/// How long the first bytes may take to become clear once they have begun, and how long a TLS
/// client may take to name its server where routes ask for it.
const OPENING_WAIT: Duration = Duration::from_secs(10);

/// A connection that was taken and answered.
pub struct Arrived {
    /// In the worker's list.
    pub connection: Listed,
    /// The client's end.
    pub wire: Wire,
    /// What it leads to.
    pub bound: Bound,
    /// The same, for HTTP.
    pub asked: Rc<Asked>,
}

/// How a connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    /// Passed on.
    Stream,
    /// Passed on by the name of its TLS server: no route takes anything else.
    Named,
    /// Its first bytes say, if the client speaks first.
    Look(Looks),
}

/// What the first bytes may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looks {
    /// It may be HTTP.
    for_http: bool,
    /// Routes go by the name of a TLS server.
    for_name: bool,
}

/// What is done with a connection once that is clear.
enum Next {
    Http(Box<Arrived>),
    Pass(Box<Arrived>, Far),
    /// It is over.
    Nothing,
}

/// Serves it to its end.
pub async fn serve(worker: Rc<Worker>, arrived: Box<Arrived>) {
    // Each in memory of its own: an idle connection shall not carry the ways it did not go.
    match Box::pin(next(&worker, arrived)).await {
        Next::Nothing => {}
        Next::Pass(arrived, far) => pass::carry(&worker, *arrived, far).await,
        Next::Http(arrived) => {
            let Arrived {
                connection,
                wire,
                asked,
                ..
            } = *arrived;
            connection.is_opaque.set(false);
            Box::pin(worker.proxy().serve(wire, asked)).await;
            drop(connection);
        }
    }
}

async fn next(worker: &Rc<Worker>, mut arrived: Box<Arrived>) -> Next {
    let book = worker.book();
    let admission = arrived.connection.admission.get();
    let kind = kind(&book, &worker.config.gateway, (admission, &arrived.asked));
    drop(book);
    match kind {
        Kind::Http => Next::Http(arrived),
        Kind::Stream => pass(worker, arrived, First::Unknown).await,
        Kind::Named => {
            let first = match opening(&mut arrived.wire).await {
                Opening::Tls(name) => First::Tls(name),
                _ => First::Unknown,
            };
            pass(worker, arrived, first).await
        }
        Kind::Look(looks) => look(worker, arrived, looks).await,
    }
}

async fn pass(worker: &Rc<Worker>, arrived: Box<Arrived>, first: First) -> Next {
    match pass::begin(worker, &arrived, &first).await {
        Some(far) => Next::Pass(arrived, far),
        None => Next::Nothing,
    }
}

async fn look(worker: &Rc<Worker>, mut arrived: Box<Arrived>, looks: Looks) -> Next {
    let spoken = poll_fn(|cx| arrived.wire.poll_more(cx));
    if timeout(SILENCE, spoken).await.is_ok() {
        return match opening(&mut arrived.wire).await {
            Opening::Http if looks.for_http => Next::Http(arrived),
            Opening::Tls(name) => pass(worker, arrived, First::Tls(name)).await,
            _ => pass(worker, arrived, First::Unknown).await,
        };
    }
    // Nobody knows who speaks first: if it is the client, it may still be HTTP, or TLS for a name.
    let Some(mut far) = pass::begin(worker, &arrived, &First::Unknown).await else {
        return Next::Nothing;
    };
    pass::listen(&mut arrived, &mut far).await;
    if arrived.wire.held().is_empty() {
        return Next::Pass(arrived, far);
    }
    match opening(&mut arrived.wire).await {
        Opening::Http if looks.for_http => {
            far.leave();
            Next::Http(arrived)
        }
        Opening::Tls(name) if looks.for_name => {
            far.leave();
            pass(worker, arrived, First::Tls(name)).await
        }
        _ => Next::Pass(arrived, far),
    }
}

/// What the first bytes say. What is slow or broken says nothing: it is seen again where it is
/// used.
async fn opening(wire: &mut Wire) -> Opening {
    let read = timeout(OPENING_WAIT, read_opening(wire)).await;
    match read {
        Ok(Ok(opening)) => opening,
        _ => Opening::Other,
    }
}

/// What the first bytes say, at their end or after [`OPENING_BYTES`] at the latest.
async fn read_opening(wire: &mut Wire) -> io::Result<Opening> {
    loop {
        match opening::look(wire.held()) {
            Opening::Unclear if wire.held().len() < OPENING_BYTES => {}
            Opening::Unclear => return Ok(Opening::Other),
            clear => return Ok(clear),
        }
        if !poll_fn(|cx| wire.poll_more(cx)).await? {
            return Ok(Opening::Other);
        }
    }
}

/// The parts of the question that routes are looked up by.
pub fn addressed<'a>(
    service: Option<&'a ServicePort>,
    asked: &'a Asked,
    gateway: &'a GatewayKey,
) -> Addressed<'a> {
    let client = asked.client_identity.as_ref();
    Addressed {
        service,
        client_namespace: client.map(mesh::Identity::namespace),
        gateway: Some(gateway),
    }
}

fn kind(
    book: &Book,
    gateway: &GatewayKey,
    (admission, asked): (Option<&Admission>, &Asked),
) -> Kind {
    let service = admission.and_then(|admission| admission.service.as_ref());
    let addressed = addressed(service, asked, gateway);
    let http = book.for_request(&addressed).map(|(level, _)| level);
    let streams = book.for_stream(&addressed);
    let for_name = streams.is_some_and(|(_, streams)| streams.needs_server_name());
    let look = |for_http| Kind::Look(Looks { for_http, for_name });
    let stream = match streams {
        Some((_, streams)) if for_name => match asked.protocol {
            AppProtocol::Tls => Kind::Named,
            // A server that speaks first is not kept waiting for a client's name.
            _ if takes_all(streams) => look(false),
            _ => Kind::Named,
        },
        _ => Kind::Stream,
    };
    // What is attached to a port says what it carries, whatever the port says itself.
    let is_stream = match (streams.map(|(level, _)| level), http) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(stream), Some(http)) => distance(stream) < distance(http),
    };
    match asked.protocol {
        _ if is_stream => stream,
        AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => Kind::Http,
        AppProtocol::Tcp | AppProtocol::Tls => stream,
        // A client that spoke something else would go past the routes of the port.
        AppProtocol::Unknown if http.is_some_and(|level| level != Level::Gateway) => Kind::Http,
        AppProtocol::Unknown => look(true),
    }
}

/// Whether a route takes what is no TLS.
fn takes_all(streams: &Streams) -> bool {
    let refused = streams.decide(stream::Opening::Plain, &mut || 0).err();
    refused.is_none_or(|refused| refused.failure != Failure::NoRoute)
}

/// The nearest routes count.
fn distance(level: Level) -> u8 {
    match level {
        Level::Consumer => 0,
        Level::Producer => 1,
        Level::Gateway => 2,
    }
}
