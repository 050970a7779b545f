//! Bytes that are passed on as they are: the route of a connection, its endpoint, the relay.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use carrier::limits::ENDPOINT_TRIES;
use carrier::relay::{Counts, End, Parts, RelayError, relay};
use hyper::rt::Write;
use mesh::decide::waypoint::Bound;
use mesh::route::stream::Opening;

use crate::connection::{Connection, Ended, Party};
use crate::endpoints::{Carried, Endpoint, Ground, Wanted};
use crate::inbound::{Refusal, refusal};
use crate::record::{Outcome, Phase, Record};
use crate::serving::{Arrived, addressed};
use crate::upstream::{self, OnBehalf};
use crate::wire::Wire;
use crate::worker::Worker;
use carrier::flag::Flag;

/// What is known of a connection's first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// Nobody looked, or they are no TLS.
    Unknown,
    /// TLS, perhaps for a name.
    Tls(Option<String>),
}

/// An endpoint that was connected.
pub struct Far {
    wire: Wire,
    _carried: Carried,
}

/// Waits for whoever speaks first, when the client was silent so far.
pub async fn listen(arrived: &mut Arrived, far: &mut Far) {
    let listened = poll_fn(|cx| {
        if arrived.wire.poll_more(cx)?.is_ready() {
            return Poll::Ready(Ok::<_, io::Error>(()));
        }
        far.wire.poll_more(cx).map_ok(|_| ())
    });
    // What broke is seen again where it is used.
    let _ = listened.await;
}

impl Far {
    /// Ends it: the endpoint has seen nothing of the connection.
    pub fn leave(self) {
        self.wire.end().reset();
    }
}

/// Chooses and connects an endpoint; None when it was refused, which the client has seen then.
pub async fn begin(worker: &Rc<Worker>, arrived: &Arrived, first: &First) -> Option<Far> {
    let connection = &arrived.connection;
    connection.is_opaque.set(true);
    let connected = match route(worker, arrived, first) {
        // A client that takes its request back costs no connection.
        Ok(bound) => tokio::select! {
            biased;
            () = given_up(arrived.wire.end()) => Err(Refusal::Gone),
            connected = connect(worker, arrived, &bound) => connected,
        },
        Err(why) => Err(why),
    };
    let why = match (connected, connection.ended()) {
        (Ok(far), None) => return Some(far),
        (Ok(far), Some(ended)) => {
            far.leave();
            Refusal::Ended(ended)
        }
        (Err(_), Some(ended)) => Refusal::Ended(ended),
        (Err(why), None) => why,
    };
    arrived.wire.end().reset();
    refusal::record(worker, connection, &why);
    None
}

/// Ends when the client is gone.
async fn given_up(near: &End) {
    match near {
        End::Stream(stream) => drop(poll_fn(|cx| stream.poll_reset(cx)).await),
        End::Tcp(_) => std::future::pending().await,
    }
}

/// What the TCPRoutes and TLSRoutes of its port make of a connection; without any, what was
/// addressed.
fn route(worker: &Worker, arrived: &Arrived, first: &First) -> Result<Bound, Refusal> {
    let connection = &arrived.connection;
    let book = worker.book();
    let admission = connection.admission.get();
    let service = admission.and_then(|admission| admission.service.as_ref());
    let addressed = addressed(service, &arrived.asked, &worker.config.gateway);
    let opening = match first {
        First::Unknown => Opening::Plain,
        First::Tls(name) => Opening::Tls(name.as_deref()),
    };
    if let First::Tls(Some(name)) = first {
        connection.details.borrow_mut().server_name = Some(name.as_str().into());
    }
    let Some((_, streams)) = book.for_stream(&addressed) else {
        return Ok(arrived.bound.clone());
    };
    let forward = streams.decide(opening, &mut || worker.random());
    let forward = forward.map_err(|refused| {
        let mut details = connection.details.borrow_mut();
        details.route = refused.route.clone().map(|route| (route, 0));
        Refusal::Route(refused.to_string().into())
    })?;
    let (key, port) = (forward.service, forward.port);
    let mut details = connection.details.borrow_mut();
    details.route = Some((forward.route.key.clone(), forward.rule.place));
    details.service = Some(key.clone());
    let snapshot = worker.snapshot();
    let service = snapshot.service(key);
    let service = service.ok_or_else(|| {
        let why = format!("the route leads to service {key}, which is not known");
        Refusal::Route(why.into())
    })?;
    Ok(Bound::Service {
        service: Arc::clone(service),
        port,
        address: None,
    })
}

async fn connect(worker: &Rc<Worker>, arrived: &Arrived, bound: &Bound) -> Result<Far, Refusal> {
    let asked = &arrived.asked;
    let behalf = OnBehalf {
        client: asked.client,
        host: asked.service.as_ref().map(|key| Arc::clone(&key.hostname)),
    };
    let mut tried: Vec<Rc<Endpoint>> = Vec::new();
    let mut last = None;
    while tried.len() < ENDPOINT_TRIES && arrived.connection.ended().is_none() {
        let endpoint = match choose(worker, bound, &tried) {
            Ok(endpoint) => endpoint,
            // The last endpoint's error says more than "no endpoint is left".
            Err(why) => return Err(last.unwrap_or(why)),
        };
        let carried = endpoint.carry();
        match upstream::connect(worker, &endpoint, &behalf).await {
            Ok(end) => {
                note(&arrived.connection, &endpoint, &end);
                return Ok(Far {
                    wire: Wire::new(end, Rc::clone(&worker.buffers)),
                    _carried: carried,
                });
            }
            Err(error) => {
                let uid = &endpoint.workload().uid;
                tracing::debug!(endpoint = %uid, %error, "no connection");
                arrived.connection.details.borrow_mut().actual = Some(endpoint.way.address);
                let again = error.tries_elsewhere();
                let why = Refusal::NotConnected(error.to_string().into(), error.flag());
                if !again {
                    return Err(why);
                }
                last = Some(why);
                tried.push(endpoint);
            }
        }
    }
    Err(last.unwrap_or(Refusal::Gone))
}

fn choose(worker: &Worker, bound: &Bound, tried: &[Rc<Endpoint>]) -> Result<Rc<Endpoint>, Refusal> {
    let (snapshot, own) = (worker.snapshot(), worker.own());
    let unknown = || Refusal::UnknownSelf(worker.config.workload.clone());
    let ground = Ground {
        snapshot: &snapshot,
        own: own.as_deref().ok_or_else(unknown)?,
    };
    let wanted = Wanted {
        bound,
        tried: &|one| tried.iter().any(|known| std::ptr::eq(&**known, one)),
        prefer: None,
    };
    let chosen = worker
        .endpoints
        .choose(ground, wanted, &mut || worker.random());
    chosen.map_err(|why| Refusal::NoEndpoint(why.to_string().into()))
}

fn note(connection: &Connection, endpoint: &Endpoint, end: &End) {
    let mut details = connection.details.borrow_mut();
    let stream = match end {
        End::Stream(stream) => Some(stream),
        End::Tcp(_) => None,
    };
    details.destination = Party {
        workload: endpoint.way.workload.clone(),
        identity: stream.and_then(|stream| stream.tunnel().peer()),
    };
    details.actual = Some(endpoint.way.address);
    details.is_tunnelled = stream.is_some();
}

/// Relays to the end and records both.
pub async fn carry(worker: &Worker, arrived: Arrived, far: Far) {
    let Arrived {
        connection, wire, ..
    } = arrived;
    let (near, said) = wire.into_parts();
    let Far { wire, _carried } = far;
    let (far, answered) = wire.into_parts();
    connection.attach(&far);
    for end in [&near, &far] {
        if let End::Stream(stream) = end {
            // The relay looks for what was announced to others.
            stream.look_again();
        }
    }
    let opened = connection.record(Phase::Opened, Ok(()));
    worker.recorder.put(Record::from(opened));
    let counts = Counts {
        pulse: &connection.pulse,
        up_bytes: &connection.sent_bytes,
        down_bytes: &connection.received_bytes,
    };
    // What was read to see who speaks, and what.
    let up = send_first(worker, (&near, &far), said, counts.up_bytes);
    let down = send_first(worker, (&far, &near), answered, counts.down_bytes);
    let relayed = match up.await.and(down.await) {
        Ok(()) => {
            relay(Parts {
                near: &near,
                far: &far,
                counts,
                buffers: &worker.buffers,
            })
            .await
        }
        Err(error) => {
            near.reset();
            far.reset();
            Err(RelayError::Far(error.into()))
        }
    };
    let outcome = outcome(relayed, connection.ended());
    let closed = connection.record(Phase::Closed, outcome);
    worker.recorder.put(Record::from(closed));
}

/// Sends on what was read before the relay.
async fn send_first(
    worker: &Worker,
    (from, to): (&End, &End),
    held: Vec<u8>,
    count: &Cell<u64>,
) -> io::Result<()> {
    if held.is_empty() {
        return Ok(());
    }
    let mut wire = Wire::new(to.clone(), Rc::clone(&worker.buffers));
    let mut sent = 0;
    let mut send = |cx: &mut Context<'_>| loop {
        let Some(rest) = held.get(sent..).filter(|rest| !rest.is_empty()) else {
            return Poll::Ready(Ok::<_, io::Error>(()));
        };
        sent += std::task::ready!(Pin::new(&mut wire).poll_write(cx, rest))?;
    };
    poll_fn(&mut send).await?;
    from.taken(held.len());
    count.set(count.get() + held.len() as u64);
    Ok(())
}

/// An end from outside comes before what it made the relay see.
fn outcome(relayed: Result<(), RelayError>, ended: Option<Ended>) -> Outcome {
    match (ended, relayed) {
        (Some(ended), _) => Err((ended.flag(), ended.to_string())),
        (None, Err(error)) => Err((Flag::None, error.to_string())),
        (None, Ok(())) => Ok(()),
    }
}
