//! A control plane of the test between a proxy and culvertd: passes everything on, remembers what
//! was said, says what a scenario wants said, and signs as a scenario wants it signed.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use control_plane::authority::Authority;
use futures::{Stream, StreamExt, stream};
use mesh::Identity;
use process::grpc::{ControlPlane, Settings};
use process::tasks::Tasks;
use proto::wire::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use proto::wire::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use scenarios::faults::{Bed, LOGGED_WITHIN};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::door::{self, Door};
use signer::Signer;

pub mod signer;

pub use signer::Signing;

/// Messages on their way in a direction; more wait at the sender.
const QUEUE: usize = 64;
/// How the nonces of what a scenario says begin: answers to them are not culvertd's.
const OURS: &str = "scenario-";
/// Between two looks for an answer.
const LOOK: Duration = Duration::from_millis(10);

/// What came back for something that was said: nothing but thanks, or the complaint.
pub type Answer = Result<(), String>;

/// A running one.
pub struct Between {
    /// Where it listens.
    pub door: Door,
    state: Arc<State>,
}

/// What is remembered and what is done.
pub struct State {
    upstream: ControlPlane,
    authority: Authority,
    tasks: Tasks,
    heard: Mutex<Heard>,
    signing: Mutex<BTreeMap<Identity, Signing>>,
}

#[derive(Default)]
struct Heard {
    /// Into the newest stream of the proxy.
    proxy: Option<mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>>,
    /// What culvertd said last, by type and name.
    resources: BTreeMap<(String, String), Resource>,
    /// What the proxy answered to ours, by nonce.
    answers: BTreeMap<String, Answer>,
    said: u32,
}

impl Between {
    /// Listens, and passes on to culvertd.
    pub fn start(bed: &Bed) -> anyhow::Result<Self> {
        let settings = Settings::new(&bed.control.url(), &bed.control.root_certificate(), None);
        let upstream = ControlPlane::new(settings)?;
        let (authority, tls) = (door::authority(bed)?, door::tls(bed)?);
        let mut made = None;
        let door = Door::open(bed, |listener, tasks| {
            let state = Arc::new(State {
                upstream,
                authority,
                tasks,
                heard: Mutex::default(),
                signing: Mutex::default(),
            });
            made = Some(Arc::clone(&state));
            serve(listener, tls, state)
        })?;
        let state = made.context("the door was opened")?;
        Ok(Between { door, state })
    }

    /// Says something to the proxy in culvertd's place; its answer.
    pub fn say(&self, mut response: DeltaDiscoveryResponse) -> anyhow::Result<Answer> {
        let (proxy, nonce) = {
            let mut heard = self.state.heard();
            heard.said += 1;
            (heard.proxy.clone(), format!("{OURS}{}", heard.said))
        };
        response.nonce.clone_from(&nonce);
        self.put(proxy, response)?;
        self.answer(&nonce)
    }

    /// Says it with a nonce that was used before; the answer to that.
    pub fn replay(&self, mut response: DeltaDiscoveryResponse) -> anyhow::Result<Answer> {
        let (proxy, nonce) = {
            let heard = self.state.heard();
            (heard.proxy.clone(), format!("{OURS}{}", heard.said))
        };
        self.state.heard().answers.remove(&nonce);
        response.nonce.clone_from(&nonce);
        self.put(proxy, response)?;
        self.answer(&nonce)
    }

    /// What culvertd said last under a name.
    pub fn resource(&self, type_url: &str, name: &str) -> anyhow::Result<Resource> {
        let key = (type_url.to_owned(), name.to_owned());
        let found = self.state.heard().resources.get(&key).cloned();
        found.with_context(|| format!("culvertd never spoke of {name}"))
    }

    /// Names of a type that culvertd spoke of.
    pub fn names(&self, type_url: &str) -> Vec<String> {
        let heard = self.state.heard();
        let keys = heard.resources.keys().filter(|(url, _)| url == type_url);
        keys.map(|(_, name)| name.clone()).collect()
    }

    /// From now on certificates of that service account of `demo` are answered like this.
    pub fn sign(&self, account: &str, signing: Signing) -> anyhow::Result<()> {
        let identity = Identity::new("cluster.local", "demo", account)?;
        self.state.signing().insert(identity, signing);
        Ok(())
    }

    fn put(
        &self,
        proxy: Option<mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>>,
        response: DeltaDiscoveryResponse,
    ) -> anyhow::Result<()> {
        let proxy = proxy.context("no proxy listens")?;
        let put = proxy.blocking_send(Ok(response));
        put.ok().context("the proxy hung up")
    }

    fn answer(&self, nonce: &str) -> anyhow::Result<Answer> {
        let start = Instant::now();
        loop {
            if let Some(answer) = self.state.heard().answers.remove(nonce) {
                return Ok(answer);
            }
            ensure!(start.elapsed() < LOGGED_WITHIN, "no answer to {nonce}");
            std::thread::sleep(LOOK);
        }
    }
}

impl State {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signing(&self) -> MutexGuard<'_, BTreeMap<Identity, Signing>> {
        self.signing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, state: Arc<State>) -> anyhow::Result<()> {
    let incoming = stream::unfold((listener, tls), async |(listener, tls)| {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                return None;
            };
            // A handshake that fails is the client's to tell.
            if let Ok(stream) = tls.accept(stream).await {
                return Some((Ok::<_, std::io::Error>(stream), (listener, tls)));
            }
        }
    });
    let signer = Signer(Arc::clone(&state));
    Server::builder()
        .add_service(AggregatedDiscoveryServiceServer::new(Passing(state)))
        .add_service(IstioCertificateServiceServer::new(signer))
        .serve_with_incoming(incoming.boxed())
        .await?;
    Ok(())
}

/// Discovery, passed on.
struct Passing(Arc<State>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Passing {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let state = Arc::clone(&self.0);
        let (metadata, _, requests) = request.into_parts();
        let (up, passed) = mpsc::channel(QUEUE);
        let (proxy, said) = mpsc::channel(QUEUE);
        state.heard().proxy = Some(proxy.clone());
        let hearing = Arc::clone(&state);
        self.0.tasks.spawn("requests", async move {
            hear(&hearing, requests, up).await;
        });
        let channel = state.upstream.connect().await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(ReceiverStream::new(passed));
        *request.metadata_mut() = metadata;
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(request).await?;
        let responses = responses.into_inner();
        self.0.tasks.spawn("responses", async move {
            pass_on(&state, responses, proxy).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(said))))
    }
}

/// What the proxy says: answers to ours are kept, the others passed on.
async fn hear(
    state: &State,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    up: mpsc::Sender<DeltaDiscoveryRequest>,
) {
    while let Ok(Some(request)) = requests.message().await {
        if request.response_nonce.starts_with(OURS) {
            let error = request.error_detail.map(|status| status.message);
            let answer = error.map_or(Ok(()), Err);
            state.heard().answers.insert(request.response_nonce, answer);
        } else if up.send(request).await.is_err() {
            return;
        }
    }
}

async fn pass_on(
    state: &State,
    mut responses: Streaming<DeltaDiscoveryResponse>,
    proxy: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    loop {
        let message = match responses.message().await {
            Ok(Some(response)) => {
                let mut heard = state.heard();
                for resource in &response.resources {
                    let key = (response.type_url.clone(), resource.name.clone());
                    heard.resources.insert(key, resource.clone());
                }
                Ok(response)
            }
            Ok(None) => return,
            Err(status) => Err(status),
        };
        let is_end = message.is_err();
        if proxy.send(message).await.is_err() || is_end {
            return;
        }
    }
}
