//! The server side of the delta protocol, for one client at a time that is told what to use.

use std::net::SocketAddr;
use std::pin::Pin;

use anyhow::Context;
use proto::wire::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use proto::{ADDRESS_TYPE_URL, AUTHORIZATION_TYPE_URL};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::transport::{Identity, Server as Http, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::peers::certificates::Certificates;

/// Responses and streams that wait: each is waited for before the next.
const QUEUE: usize = 4;

type Answer = Result<DeltaDiscoveryResponse, Status>;

/// Serves until it is dropped with its runtime.
pub(crate) struct Server {
    streams: mpsc::Receiver<Conversation>,
    _tasks: TaskTracker,
}

impl Server {
    pub(crate) fn start(listen: SocketAddr, certificates: &Certificates) -> anyhow::Result<Self> {
        let (streams_in, streams) = mpsc::channel(QUEUE);
        let pem = |path| std::fs::read(path).context("a certificate of the feeder");
        let identity = Identity::from_pem(pem(certificates.leaf())?, pem(certificates.key())?);
        let http = Http::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))?
            .add_service(AggregatedDiscoveryServiceServer::new(Service(streams_in)));
        let tasks = TaskTracker::new();
        tasks.spawn(http.serve(listen));
        Ok(Server {
            streams,
            _tasks: tasks,
        })
    }

    /// The next stream that a client opens.
    pub(crate) async fn conversation(&mut self) -> anyhow::Result<Conversation> {
        self.streams.recv().await.context("the server has ended")
    }
}

struct Service(mpsc::Sender<Conversation>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (answers, receiver) = mpsc::channel(QUEUE);
        let conversation = Conversation {
            requests: request.into_inner(),
            answers,
            nonce: 0,
        };
        let sent = self.0.send(conversation).await;
        sent.map_err(|_| Status::unavailable("nobody listens"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One stream.
pub(crate) struct Conversation {
    requests: Streaming<DeltaDiscoveryRequest>,
    answers: mpsc::Sender<Answer>,
    nonce: u64,
}

impl Conversation {
    /// Answers both first requests with nothing: an empty mesh.
    pub(super) async fn begin(&mut self) -> anyhow::Result<()> {
        self.begin_with(&[AUTHORIZATION_TYPE_URL, ADDRESS_TYPE_URL])
            .await
    }

    /// Answers the first request of each of these types with nothing.
    pub(crate) async fn begin_with(&mut self, kinds: &[&str]) -> anyhow::Result<()> {
        let mut asked = Vec::new();
        while asked.len() < kinds.len() {
            let request = self.next().await?;
            if request.response_nonce.is_empty() && !asked.contains(&request.type_url) {
                asked.push(request.type_url);
            }
        }
        for kind in kinds {
            self.send(kind, Vec::new()).await?;
        }
        Ok(())
    }

    /// Sends addresses and waits for their acknowledgement.
    pub(super) async fn push(&mut self, resources: Vec<Resource>) -> anyhow::Result<()> {
        self.send(ADDRESS_TYPE_URL, resources).await
    }

    /// Sends resources of a type and waits for their acknowledgement.
    pub(crate) async fn send(
        &mut self,
        kind: &str,
        resources: Vec<Resource>,
    ) -> anyhow::Result<()> {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let answer = DeltaDiscoveryResponse {
            system_version_info: nonce.clone(),
            resources,
            type_url: kind.to_owned(),
            nonce: nonce.clone(),
            removed_resources: Vec::new(),
        };
        self.answers.send(Ok(answer)).await?;
        loop {
            let request = self.next().await?;
            if request.response_nonce == nonce {
                let refused = request.error_detail.map(|detail| detail.message);
                anyhow::ensure!(refused.is_none(), "refused: {refused:?}");
                return Ok(());
            }
        }
    }

    async fn next(&mut self) -> anyhow::Result<DeltaDiscoveryRequest> {
        let request = self.requests.message().await?;
        request.context("ztunnel has ended the stream")
    }
}
