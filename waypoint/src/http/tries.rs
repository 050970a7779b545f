//! The tries of one request: which endpoint, which connection, what its end means, and whether
//! there is another.
//!
//! Three ways lead to another try. A connection that was kept and closed before it answered is
//! replaced once. An endpoint that surely has not seen the request (not connected, refused) is left
//! for another one. Everything else is the route's to say, and its budget's.

mod ask;

use std::rc::Rc;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use h2::ext::Protocol;
use http::{Request, Response, StatusCode};
use mesh::route::retry::Ended;
use tokio::sync::oneshot;

use super::answer::Own;
use super::exchange::Exchange;
use super::grpc;
use super::incoming::Incoming;
use super::limits::MOVES_MAX;
use super::pending::Pending;
use super::site::{Choose, ChooseError, Chosen, ConnectError, Reason, Upstream};
use super::upstream::{Lease, Speak, Taken, Unanswered};
use ask::{Way, request, way};

/// The head of an answer, and what its body needs.
pub(super) struct Answered {
    pub(super) answer: Response<Incoming>,
    pub(super) lease: Lease,
    /// The connection, if its protocol changes.
    pub(super) taken: Option<oneshot::Receiver<Taken>>,
    /// When the body must have come.
    pub(super) deadline: Option<Instant>,
}

/// How a try failed.
enum Failed {
    NotConnected(ConnectError),
    /// Too many requests wait for connections.
    Overflow,
    /// It speaks HTTP/2 alone, and takes no other protocol there.
    NoProtocols,
    Unanswered(Unanswered, /* on a kept connection */ bool),
    /// The try's own time is over.
    TimedOut,
    /// The whole request's time is over.
    Late,
}

/// What is done after a try.
enum After {
    Answer(Box<Answered>),
    Again,
    Give(Own),
}

/// What the tries of a request have come to.
#[derive(Default)]
pub(super) struct Tries {
    tried: Vec<Rc<Upstream>>,
    /// Tries that count, by the route's reckoning.
    count: u32,
    moves: usize,
    fresh: bool,
}

impl Tries {
    /// Tries until there is an answer, or none any more.
    pub(super) async fn run(exchange: &mut Exchange) -> Result<Answered, Own> {
        let mut tries = Self::default();
        if exchange.plan.retry().is_some() {
            let now = exchange.client.proxy.since_start();
            exchange.client.budget.borrow_mut().on_request(now);
        }
        loop {
            let chosen = tries.choose(exchange)?;
            exchange.log.load = Some(chosen.upstream.enter());
            exchange.log.tries += 1;
            exchange.begin_try(&chosen);
            let outcome = attempt(exchange, &chosen, tries.fresh).await;
            told(exchange, &outcome);
            let after = tries.after(exchange, &chosen.upstream, outcome).await;
            if let (After::Again | After::Give(_), Some(trace)) = (&after, &mut exchange.log.trace)
            {
                trace.leave();
            }
            match after {
                After::Answer(answered) => {
                    if let Some(source) = &exchange.source {
                        source.borrow_mut().commit();
                    }
                    return Ok(*answered);
                }
                After::Again => {}
                After::Give(own) => return Err(own),
            }
        }
    }

    fn choose(&self, exchange: &Exchange) -> Result<Chosen, Own> {
        let choose = Choose {
            backend: exchange.plan.backend(),
            tried: &self.tried,
            prefer: exchange.session.map(|session| session.endpoint),
        };
        let client = &exchange.client;
        let mut chosen = client.site().choose(&client.asked, choose);
        if chosen.is_err() && !self.tried.is_empty() {
            // All were tried: those are what there is.
            let again = Choose {
                tried: &[],
                ..choose
            };
            chosen = client.site().choose(&client.asked, again);
        }
        chosen.map_err(|error| {
            let status = match error {
                ChooseError::Unknown(_) => StatusCode::INTERNAL_SERVER_ERROR,
                ChooseError::NoEndpoint(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            Own::error(status, Reason::NoEndpoint, error.to_string())
        })
    }

    async fn after(
        &mut self,
        exchange: &Exchange,
        upstream: &Rc<Upstream>,
        outcome: Result<Answered, Failed>,
    ) -> After {
        let failed = match outcome {
            Ok(answered) => {
                let ended = ended(exchange, &answered.answer);
                return match self.again(exchange, ended).await {
                    Ok(()) => After::Again,
                    Err(own) => own.map_or(After::Answer(Box::new(answered)), After::Give),
                };
            }
            Err(failed) => failed,
        };
        if self.moves(exchange, upstream, &failed) {
            return After::Again;
        }
        let ended = match &failed {
            Failed::NotConnected(error) if error.moves_on => Some(Ended::NotConnected),
            Failed::Unanswered(unanswered, _) if unanswered.is_limit => None,
            Failed::Unanswered(unanswered, _) if is_refused(unanswered) => Some(Ended::Refused),
            Failed::Unanswered(..) => Some(Ended::Broken),
            Failed::TimedOut => Some(Ended::TimedOut),
            Failed::NotConnected(_) | Failed::Overflow | Failed::NoProtocols | Failed::Late => None,
        };
        match self.again(exchange, ended).await {
            Ok(()) => {
                self.tried.push(upstream.clone());
                After::Again
            }
            Err(Some(own)) => After::Give(own),
            Err(None) => After::Give(failed.into_own(exchange)),
        }
    }

    /// Whether the request simply goes another way, since no byte of it was worked on.
    fn moves(&mut self, exchange: &Exchange, upstream: &Rc<Upstream>, failed: &Failed) -> bool {
        if !is_replayable(exchange) {
            return false;
        }
        let method = &exchange.head.method;
        if let Failed::Unanswered(unanswered, true) = failed
            && !self.fresh
            && (unanswered.is_unsent || method.is_idempotent())
            && !unanswered.is_limit
            && !is_refused(unanswered)
        {
            self.fresh = true;
            return true;
        }
        let is_untouched = match failed {
            Failed::NotConnected(error) => error.moves_on,
            Failed::Unanswered(unanswered, _) => unanswered.is_unsent || is_refused(unanswered),
            _ => false,
        };
        let is_new = !self.tried.iter().any(|one| Rc::ptr_eq(one, upstream));
        if !is_untouched || !is_new || self.moves >= MOVES_MAX {
            return false;
        }
        self.tried.push(upstream.clone());
        self.moves += 1;
        // There must be another: the same one is the route's retry.
        let next = self.choose(exchange);
        next.is_ok_and(|next| !self.tried.iter().any(|one| Rc::ptr_eq(one, &next.upstream)))
    }

    /// Waits for the route's next try. `Err(None)`: there is none.
    async fn again(
        &mut self,
        exchange: &Exchange,
        ended: Option<Ended>,
    ) -> Result<(), Option<Own>> {
        self.count += 1;
        let (Some(retry), Some(ended)) = (exchange.plan.retry(), ended) else {
            return Err(None);
        };
        let client = &exchange.client;
        let is_due = retry.is_due(self.count, ended, exchange.head.method.as_str());
        if !is_due || !is_replayable(exchange) || exchange.upgrade.is_some() {
            return Err(None);
        }
        let now = client.proxy.since_start();
        if !client.budget.borrow_mut().take(now) {
            return Err(None);
        }
        // The try that failed may still read; what it took meanwhile would be missing in the next.
        if let Some(source) = &exchange.source {
            source.borrow_mut().supersede();
        }
        let pause = retry.pause(self.count, client.site().random());
        let site = client.site();
        let until = site.now() + pause;
        if let Some(deadline) = exchange.deadline.filter(|deadline| *deadline <= until) {
            site.sleep_until(deadline).await;
            return Err(Some(late()));
        }
        site.sleep_until(until).await;
        Ok(())
    }
}

/// Tells the trace how a try went.
fn told(exchange: &mut Exchange, outcome: &Result<Answered, Failed>) {
    let trace = exchange.log.trace.as_mut();
    let Some(attempt) = trace.and_then(|trace| trace.attempt.as_mut()) else {
        return;
    };
    match outcome {
        Ok(answered) => attempt.answered(&answered.answer),
        Err(Failed::NotConnected(error)) => {
            let word = if error.is_limit {
                "overflow"
            } else {
                "not_connected"
            };
            attempt.failed(word, Some(&error.why));
        }
        Err(Failed::Overflow) => attempt.failed("overflow", None),
        Err(Failed::NoProtocols) => attempt.failed("no_protocols", None),
        Err(Failed::TimedOut | Failed::Late) => attempt.failed("timed_out", None),
        Err(Failed::Unanswered(unanswered, _)) => {
            let word = if is_refused(unanswered) {
                "refused"
            } else {
                "broken"
            };
            attempt.failed(word, Some(&unanswered.error.to_string()));
        }
    }
}

/// How an answer ends a try, when it may be a failure.
fn ended(exchange: &Exchange, answer: &Response<Incoming>) -> Option<Ended> {
    exchange.plan.retry()?;
    let grpc = grpc::status(answer.headers()).filter(|_| exchange.log.is_grpc);
    match grpc {
        Some(0) => None,
        Some(status) => Some(Ended::Grpc(status)),
        None => Some(Ended::Status(answer.status().as_u16())),
    }
}

fn is_replayable(exchange: &Exchange) -> bool {
    let source = exchange.source.as_ref();
    source.is_none_or(|source| source.borrow().is_replayable())
}

/// Whether the endpoint said that it has not worked on it (RFC 9113 8.7).
fn is_refused(unanswered: &Unanswered) -> bool {
    let mut error: Option<&(dyn std::error::Error + 'static)> = Some(&*unanswered.error);
    while let Some(one) = error {
        if let Some(h2) = one.downcast_ref::<h2::Error>() {
            let reason = h2.reason();
            return reason == Some(h2::Reason::REFUSED_STREAM)
                || (h2.is_go_away() && reason == Some(h2::Reason::NO_ERROR));
        }
        error = one.source();
    }
    false
}

fn late() -> Own {
    let why = "the request's time is over";
    Own::error(StatusCode::GATEWAY_TIMEOUT, Reason::TimedOut, why)
}

impl Failed {
    fn into_own(self, exchange: &Exchange) -> Own {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match self {
            Self::NotConnected(error) => {
                let why = format!("no connection to the endpoint: {error}");
                let reason = match error.is_limit {
                    true => Reason::Overflow,
                    false => Reason::NotConnected,
                };
                Own::error(unavailable, reason, why)
            }
            Self::Overflow => {
                let why = "too many requests wait for an endpoint";
                Own::error(unavailable, Reason::Overflow, why)
            }
            Self::NoProtocols => {
                let why =
                    "the endpoint speaks HTTP/2 alone and takes no WebSocket in it (RFC 8441)";
                Own::error(StatusCode::BAD_GATEWAY, Reason::Broken, why)
            }
            Self::TimedOut => {
                let why = "the endpoint did not answer in time";
                Own::error(StatusCode::GATEWAY_TIMEOUT, Reason::TimedOut, why)
            }
            Self::Late => late(),
            Self::Unanswered(unanswered, _) if unanswered.is_limit => {
                let why = unanswered.error.to_string();
                Own::error(unavailable, Reason::Overflow, why)
            }
            Self::Unanswered(unanswered, _) => {
                let source = exchange.source.as_ref();
                if source.is_some_and(|source| source.borrow().is_broken()) {
                    let why = "the body of the request broke off";
                    return Own::error(StatusCode::BAD_REQUEST, Reason::BadRequest, why);
                }
                tracing::debug!(error = %unanswered.error, "an endpoint broke off");
                let why = "the endpoint broke off before it answered";
                Own::error(StatusCode::BAD_GATEWAY, Reason::Broken, why)
            }
        }
    }
}

/// One try, within its time.
async fn attempt(
    exchange: &mut Exchange,
    chosen: &Chosen,
    fresh: bool,
) -> Result<Answered, Failed> {
    let site = exchange.client.site().clone();
    let own = exchange.plan.timeouts().backend_request;
    let own = own.and_then(|own: Duration| site.now().checked_add(own));
    let deadline = [own, exchange.deadline].into_iter().flatten().min();
    let is_late = exchange.deadline.is_some() && exchange.deadline == deadline;
    let Some(at) = deadline else {
        return send(exchange, chosen, fresh).await;
    };
    let sent = std::pin::pin!(send(exchange, chosen, fresh));
    match select(sent, site.sleep_until(at)).await {
        Either::Left((outcome, _)) => outcome.map(|answered| Answered {
            deadline: Some(at),
            ..answered
        }),
        Either::Right(_) if is_late => Err(Failed::Late),
        Either::Right(_) => Err(Failed::TimedOut),
    }
}

async fn send(exchange: &Exchange, chosen: &Chosen, fresh: bool) -> Result<Answered, Failed> {
    let client = &exchange.client;
    let (site, asked, upstream) = (client.site(), &client.asked, &chosen.upstream);
    let waiting = Pending::new(&client.proxy).ok_or(Failed::Overflow)?;
    let way = way(chosen.protocol, exchange);
    let (leased, taken) = match way {
        Way::Upgrade => {
            let leased = upstream.lease_for_upgrade(site, asked).await;
            let (lease, taken) = leased.map_err(Failed::NotConnected)?;
            (Ok(lease), Some(taken))
        }
        Way::Connect(_) => (upstream.lease(site, asked, Speak::Http2, fresh).await, None),
        Way::Request(speak) => (upstream.lease(site, asked, speak, fresh).await, None),
    };
    drop(waiting);
    let mut lease = leased.map_err(Failed::NotConnected)?;
    let is_reused = lease.is_reused;
    if let Way::Connect(request) = way {
        return connect(exchange, lease, *request).await;
    }
    let request = request(exchange, &lease);
    let answer = lease.send(site, request, exchange.interims.as_ref()).await;
    Ok(Answered {
        answer: answer.map_err(|unanswered| Failed::Unanswered(unanswered, is_reused))?,
        lease,
        taken,
        deadline: None,
    })
}

/// Asks for a stream of bytes in an endpoint's HTTP/2.
async fn connect(
    exchange: &Exchange,
    lease: Lease,
    mut request: Request<()>,
) -> Result<Answered, Failed> {
    if let Some(trace) = &exchange.log.trace {
        trace.tell(request.headers_mut());
    }
    let needs = request.extensions().get::<Protocol>().is_some();
    if needs && !lease.takes_protocols(exchange.client.site()).await {
        return Err(Failed::NoProtocols);
    }
    let is_reused = lease.is_reused;
    let connected = lease.connect(request).await;
    let (answer, taken) =
        connected.map_err(|unanswered| Failed::Unanswered(unanswered, is_reused))?;
    Ok(Answered {
        answer,
        lease,
        taken,
        deadline: None,
    })
}
