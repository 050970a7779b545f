//! Delta xDS: one task a stream, one state machine a type ([`subscription`]), and who has
//! acknowledged what ([`acks`]).
//!
//! A stream never has more than one unacknowledged response of a type. While a client is slow the
//! mesh goes on changing, and what it gets next is the difference to the latest state: nothing
//! queues up for it.

pub mod acks;
pub mod subscription;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use process::tasks::Tasks;
use proto::wire::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::callers::caller;
use crate::engine::EngineHandle;
use crate::metrics::{KindLabel, Metrics};
use crate::state::nodes::{Caller, Nodes};
use acks::{Acks, StreamAcks};
use subscription::{Answer, Kind, Subscription};

/// Responses on their way to the transport: one of each kind can be unacknowledged, and an error.
const RESPONSES: usize = 6;

/// The service.
pub struct Discovery {
    engine: EngineHandle,
    nodes: Nodes,
    acks: Acks,
    metrics: Arc<Metrics>,
    tasks: Tasks,
}

impl Discovery {
    /// The service on what an engine publishes. Streams end with `tasks`, and when the token that
    /// opened them is replaced.
    pub fn new(
        engine: EngineHandle,
        nodes: Nodes,
        acks: Acks,
        metrics: Arc<Metrics>,
        tasks: Tasks,
    ) -> Self {
        Self {
            engine,
            nodes,
            acks,
            metrics,
            tasks,
        }
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let caller = caller(&request)?;
        let (responses, receiver) = mpsc::channel(RESPONSES);
        let conversation = Conversation {
            engine: self.engine.clone(),
            nodes: self.nodes.clone(),
            acks: self.acks.stream(caller.node.clone()),
            metrics: self.metrics.clone(),
            responses,
            subscriptions: Vec::new(),
            caller,
        };
        let stop = self.tasks.stop();
        let requests = request.into_inner();
        self.tasks.spawn("discovery stream", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = conversation.run(requests) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One stream.
struct Conversation {
    caller: Caller,
    engine: EngineHandle,
    nodes: Nodes,
    acks: StreamAcks,
    metrics: Arc<Metrics>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    subscriptions: Vec<Subscription>,
}

impl Conversation {
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let node = self.caller.node.clone();
        tracing::info!(%node, "discovery stream opened");
        self.metrics.streams.inc();
        let streams = self.metrics.streams.clone();
        let end = self.converse(&mut requests).await;
        streams.dec();
        match end {
            Ok(()) => tracing::info!(%node, "discovery stream closed"),
            Err(status) => {
                tracing::warn!(%node, reason = status.message(), "discovery stream ended");
                // The client may have gone already.
                let _ = self.responses.try_send(Err(status));
            }
        }
    }

    async fn converse(
        &mut self,
        requests: &mut Streaming<DeltaDiscoveryRequest>,
    ) -> Result<(), Status> {
        let mut published = self.engine.published();
        let mut tokens = self.nodes.changes();
        loop {
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(&request)?,
                    Ok(None) => return Ok(()),
                    // A client that vanishes is no error of ours.
                    Err(status) => {
                        tracing::debug!(node = %self.caller.node, %status, "client gone");
                        return Ok(());
                    }
                },
                changed = published.changed() => {
                    changed.map_err(|_| Status::unavailable("culvertd is stopping"))?;
                }
                changed = tokens.changed() => {
                    changed.map_err(|_| Status::unavailable("culvertd is stopping"))?;
                    if !self.nodes.still_valid(&self.caller) {
                        return Err(Status::unauthenticated("no valid token"));
                    }
                }
            }
            published.mark_unchanged();
            self.answer().await?;
        }
    }

    fn take(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        let kind = Kind::of(&request.type_url).ok_or_else(|| {
            let url: String = request.type_url.chars().take(128).collect();
            Status::invalid_argument(format!("type `{url}` is not served"))
        })?;
        let known = self.subscriptions.iter_mut().find(|s| s.kind() == kind);
        let Some(subscription) = known else {
            let first = Subscription::first(kind, self.caller.node.clone(), request);
            self.subscriptions
                .push(first.map_err(Status::resource_exhausted)?);
            return Ok(());
        };
        let answer = subscription
            .take(request)
            .map_err(Status::resource_exhausted)?;
        if let Answer::Rejected(reason) = answer {
            let node = &self.caller.node;
            tracing::warn!(%node, kind = kind.word(), %reason, "discovery response rejected");
            let label = KindLabel { kind: kind.word() };
            self.metrics.rejections.get_or_create(&label).inc();
        }
        Ok(())
    }

    /// Sends what is to be said now, at most one response of a type.
    async fn answer(&mut self) -> Result<(), Status> {
        let published = self.engine.now();
        // A route may lead to a service that the client has not been told of yet: while an older
        // answer on addresses is unacknowledged, the newer one waits, and routes wait for that.
        let behind = self.subscriptions.iter().any(|s| s.is_behind(&published));
        for subscription in &mut self.subscriptions {
            if behind && subscription.kind() == Kind::Route {
                continue;
            }
            if let Some(response) = subscription.next(&published) {
                let label = KindLabel {
                    kind: subscription.kind().word(),
                };
                self.metrics.pushes.get_or_create(&label).inc();
                let sent = self.responses.send(Ok(response)).await;
                sent.map_err(|_| Status::cancelled("the client is gone"))?;
            }
        }
        // Pods are told of in addresses only.
        let of_addresses = self
            .subscriptions
            .iter()
            .filter(|s| s.kind().is_of_addresses());
        if let Some(acked) = of_addresses.map(Subscription::acked).min() {
            self.acks.set(acked);
        }
        Ok(())
    }
}
