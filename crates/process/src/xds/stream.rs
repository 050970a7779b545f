//! Moves the messages of the discovery protocol over gRPC, connects again when the stream ends, and
//! publishes snapshots. What the messages mean is in `discovery`.

use std::sync::Arc;
use std::time::Duration;

use mesh::NetworkAddress;
use mesh::route::Book;
use mesh::snapshot::Snapshot;
use proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Status;
use super::carried::Carried;
use super::discovery::{Applied, Discovery, Kind};
use crate::admin::{Condition, Readiness};
use crate::grpc::messages::{Messages, call};
use crate::grpc::{CallError, ConnectError, ControlPlane, MAX_MESSAGE_BYTES, TokenError};
use crate::metrics::XdsMetrics;
use crate::retry::pauses;

/// The delta variant of the one service that discovery has.
const PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// First pause before connecting again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause: a control plane that is back is found within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A stream that brought something and lasted this long was a good one: after it the pauses start
/// over. A server that ends each stream after its first answer is not called in a loop.
const STEADY: Duration = LONGEST_PAUSE;
/// Time from the first change to its publication. A push that comes as a burst of responses is
/// published once; a person does not notice 10 ms.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Acknowledgements that wait for their publication; past it they are published at once.
const MAX_PENDING: usize = 64;
/// Quiet on a reconnected stream after which what was left out counts as gone (see
/// [`Discovery::settle`]): responses of one push follow each other within far less.
const SETTLE: Duration = Duration::from_secs(2);
/// Requests on their way into the stream: HTTP/2 flow control holds back the rest.
const REQUEST_QUEUE: usize = 64;

/// What the feed's results are published by.
pub(super) struct States {
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(super) books: watch::Sender<Arc<Book>>,
    pub(super) carried: watch::Sender<Option<Carried>>,
    pub(super) status: watch::Sender<Status>,
}

/// Where the feed's results go.
pub(super) struct Outlets {
    states: States,
    metrics: XdsMetrics,
    addresses: Condition,
    policies: Condition,
    /// None: routes are not asked for.
    routes: Option<Condition>,
}

impl Outlets {
    pub(super) fn new(
        states: States,
        metrics: XdsMetrics,
        readiness: &Readiness,
        routes: bool,
    ) -> Self {
        let waiting = "waiting for the control plane";
        let addresses = readiness.condition("addresses", waiting);
        let policies = readiness.condition("policies", waiting);
        let routes = routes.then(|| readiness.condition("routes", waiting));
        Self {
            states,
            metrics,
            addresses,
            policies,
            routes,
        }
    }

    /// Readiness and status of what was answered until now.
    fn note_answers(&self, discovery: &Discovery) {
        let addresses = discovery.answered(Kind::Addresses);
        let policies = discovery.answered(Kind::Policies);
        let routes = routes_answered(discovery);
        let conditions = [
            (Some(&self.addresses), addresses),
            (Some(&self.policies), policies),
            (self.routes.as_ref(), routes),
        ];
        for (condition, _) in conditions.into_iter().filter(|(_, answered)| *answered) {
            condition.into_iter().for_each(Condition::met);
        }
        self.states.status.send_if_modified(|status| {
            let known = Status {
                addresses_answered: addresses,
                policies_answered: policies,
                routes_answered: routes,
                ..status.clone()
            };
            let changed = known != *status;
            *status = known;
            changed
        });
    }

    fn note_waiting(&self, discovery: &Discovery, why: &str) {
        if !discovery.answered(Kind::Addresses) {
            self.addresses.missing(why);
        }
        if !discovery.answered(Kind::Policies) {
            self.policies.missing(why);
        }
        if let Some(routes) = self.routes.as_ref().filter(|_| !routes_answered(discovery)) {
            routes.missing(why);
        }
    }
}

fn routes_answered(discovery: &Discovery) -> bool {
    discovery.answered(Kind::Routes) && discovery.answered(Kind::TargetPolicies)
}

/// The task of the feed.
pub(super) struct Stream {
    control_plane: ControlPlane,
    discovery: Discovery,
    wanted: mpsc::Receiver<NetworkAddress>,
    outlets: Outlets,
    /// Requests that are sent after the next publication: an acknowledgement says "in use".
    pending: Vec<DeltaDiscoveryRequest>,
    /// When to publish; None when nothing changed.
    publish_at: Option<Instant>,
    /// When a reconnected stream counts as quiet.
    settle_at: Option<Instant>,
    /// Whether this stream brought a response.
    heard: bool,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Call(CallError),
    #[error("control plane {0} ended the stream; it is opened again")]
    Closed(String),
}

impl End {
    fn reason(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connection_error",
            Self::Token(_) => "token_error",
            Self::Call(_) => "error",
            Self::Closed(_) => "complete",
        }
    }
}

impl Stream {
    pub(super) fn new(
        control_plane: ControlPlane,
        discovery: Discovery,
        wanted: mpsc::Receiver<NetworkAddress>,
        outlets: Outlets,
    ) -> Self {
        Self {
            control_plane,
            discovery,
            wanted,
            outlets,
            pending: Vec::new(),
            publish_at: None,
            settle_at: None,
            heard: false,
        }
    }

    /// Keeps a stream open until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut pause = pauses(FIRST_PAUSE, LONGEST_PAUSE);
        // What was carried over counts as answered before anybody answers.
        self.outlets.note_answers(&self.discovery);
        loop {
            let began = Instant::now();
            let end = tokio::select! {
                () = stop.cancelled() => return,
                end = self.converse() => end,
            };
            self.ended(&end);
            if self.heard && began.elapsed() >= STEADY {
                pause = pauses(FIRST_PAUSE, LONGEST_PAUSE);
            }
            let pause = pause.next().unwrap_or(LONGEST_PAUSE);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn ended(&mut self, end: &End) {
        // What came is used, even if nobody hears the acknowledgement.
        self.publish();
        self.pending.clear();
        self.settle_at = None;
        self.outlets.metrics.terminated(end.reason());
        let text = end.to_string();
        tracing::warn!(error = %text, "discovery is not connected");
        self.outlets.note_waiting(&self.discovery, &text);
        self.outlets.states.status.send_modify(|status| {
            status.connected = false;
            status.last_error = Some(text);
        });
    }

    /// One stream, from connect to its end.
    async fn converse(&mut self) -> End {
        self.heard = false;
        let (requests, mut responses) = match self.open().await {
            Ok(opened) => opened,
            Err(end) => return end,
        };
        tracing::info!(
            address = self.control_plane.address(),
            "discovery is connected"
        );
        self.outlets
            .states
            .status
            .send_modify(|status| status.connected = true);
        loop {
            let sent = tokio::select! {
                message = responses.next() => match message {
                    Ok(Some(response)) => self.respond(response, &requests).await,
                    Ok(None) => return End::Closed(self.control_plane.address().to_owned()),
                    Err(status) => return End::Call(self.control_plane.refused(&status).await),
                },
                Some(address) = self.wanted.recv() => match self.discovery.want(address) {
                    Some(request) => requests.send(request).await.is_ok(),
                    None => true,
                },
                () = until(self.publish_at) => self.flush(&requests).await,
                () = until(self.settle_at) => self.settle(),
            };
            if !sent {
                // The transport let go of the queue; the response side may still say why.
                return match responses.next().await {
                    Err(status) => End::Call(self.control_plane.refused(&status).await),
                    Ok(_) => End::Closed(self.control_plane.address().to_owned()),
                };
            }
        }
    }

    async fn open(
        &mut self,
    ) -> Result<
        (
            mpsc::Sender<DeltaDiscoveryRequest>,
            Messages<DeltaDiscoveryResponse>,
        ),
        End,
    > {
        let channel = self.control_plane.connect().await?;
        let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
        for request in self.discovery.open() {
            requests
                .try_send(request)
                .expect("the queue holds more than the first requests");
        }
        let request = self.control_plane.request(ReceiverStream::new(queue))?;
        match call(channel, PATH, request, MAX_MESSAGE_BYTES).await {
            Ok(responses) => Ok((requests, responses)),
            Err(status) => Err(End::Call(self.control_plane.refused(&status).await)),
        }
    }

    /// Takes a response; false when the stream is gone.
    async fn respond(
        &mut self,
        response: DeltaDiscoveryResponse,
        requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) -> bool {
        self.heard = true;
        let Applied {
            kind,
            changed,
            requests: replies,
            rejected,
        } = self.discovery.apply(response);
        if let Some(kind) = kind {
            self.outlets.metrics.message(kind.url(), rejected.len());
        }
        for bad in &rejected {
            let (resource, reason) = (&bad.name, &bad.reason);
            if bad.denies {
                tracing::error!(%resource, %reason, "resource refused, what it is for is denied");
            } else {
                tracing::warn!(%resource, %reason, "resource refused");
            }
        }
        if kind == Some(Kind::Policies) && !rejected.is_empty() {
            let denying = rejected.iter().filter(|bad| bad.denies).count();
            let metrics = &self.outlets.metrics;
            metrics.unreadable_policies(denying, rejected.len() - denying);
        }
        self.pending.extend(replies);
        if self.discovery.unsettled() {
            self.settle_at = Some(Instant::now() + SETTLE);
        }
        if changed && kind.is_some_and(Kind::is_of_book) {
            // At once, with the services and workloads before it that it may speak of.
            self.publish();
            self.publish_book();
        } else if changed && self.publish_at.is_none() {
            self.publish_at = Some(Instant::now() + DEBOUNCE);
        }
        if self.publish_at.is_none() || self.pending.len() >= MAX_PENDING {
            return self.flush(requests).await;
        }
        true
    }

    /// Publishes what changed, then says so; false when the stream is gone.
    async fn flush(&mut self, requests: &mpsc::Sender<DeltaDiscoveryRequest>) -> bool {
        self.publish();
        for request in std::mem::take(&mut self.pending) {
            if requests.send(request).await.is_err() {
                return false;
            }
        }
        true
    }

    fn settle(&mut self) -> bool {
        self.settle_at = None;
        if self.discovery.settle() {
            self.publish_at.get_or_insert_with(Instant::now);
            self.publish_book();
        }
        true
    }

    fn publish(&mut self) {
        if self.publish_at.take().is_some() {
            self.discovery.pack();
            self.outlets
                .states
                .snapshots
                .send_replace(Arc::new(self.discovery.snapshot().clone()));
        }
        // Also when nothing changed but the versions.
        let carried = self.discovery.carried();
        self.outlets.states.carried.send_replace(carried);
        self.outlets.note_answers(&self.discovery);
    }

    fn publish_book(&mut self) {
        if let Some(book) = self.discovery.book() {
            let book = Arc::new(book.clone());
            self.outlets.states.books.send_replace(book);
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
