//! A control plane for tests: real TLS and gRPC on loopback, scripted by the test.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use process::grpc::{ControlPlane, Settings};
use process::tasks::Tasks;
use proto::wire::agent::agent_service_server::{AgentService, AgentServiceServer};
use proto::wire::agent::{
    DescribePodRequest, DescribePodResponse, FollowWaypointsRequest, FollowWaypointsResponse,
    ReportPodsRequest, ReportPodsResponse, WaypointReplica,
};
use proto::wire::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use proto::wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use proto::wire::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::ca::{self, Ca};

/// Longest that anything in these tests may take, on a machine that is busy with other things too.
pub const SOON: Duration = Duration::from_secs(60);

/// Ends the test when something does not come.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(SOON, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not come"),
    }
}

/// The client's files and where the server is.
pub struct Site {
    directory: tempfile::TempDir,
    pub address: SocketAddr,
    pub ca: Ca,
    /// Address in the server's certificate.
    name: String,
}

impl Site {
    /// A free address on loopback, a CA with its root in a file, a token.
    ///
    /// Not 127.0.0.1: who connects from there to its own port while nobody listens may be
    /// connected to itself (RFC 9293, 3.5), and another test may be given the port meanwhile.
    pub fn new() -> Self {
        let [a, b] = rand::random::<[u8; 2]>();
        Self::at(&format!("127.200.{a}.{b}"))
    }

    /// The same at an address of this machine.
    pub fn at(ip: &str) -> Self {
        let free = std::net::TcpListener::bind((ip, 0)).unwrap();
        let site = Self {
            directory: tempfile::tempdir().unwrap(),
            address: free.local_addr().unwrap(),
            ca: Ca::new("control plane"),
            name: ip.to_owned(),
        };
        site.write_root(&site.ca.root_pem());
        site.write_token("f00d", 0o600);
        site
    }

    /// The same with another address in the server's certificate.
    pub fn named(self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..self
        }
    }

    pub fn root_file(&self) -> PathBuf {
        self.directory.path().join("root.pem")
    }

    pub fn token_file(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    pub fn write_root(&self, pem: &str) {
        std::fs::write(self.root_file(), pem).unwrap();
    }

    pub fn write_token(&self, token: &str, mode: u32) {
        std::fs::write(self.token_file(), token).unwrap();
        let mode = PermissionsExt::from_mode(mode);
        std::fs::set_permissions(self.token_file(), mode).unwrap();
    }

    pub fn control_plane(&self) -> ControlPlane {
        let address = format!("https://{}", self.address);
        let settings = Settings::new(&address, &self.root_file(), Some(&self.token_file()));
        ControlPlane::new(settings).unwrap()
    }

    /// Serves on the site's address until the tasks stop.
    pub async fn serve(&self, tasks: &Tasks) -> Served {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let (certificate, key) = self.ca.server(&self.name);
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        let (streams, opened) = mpsc::channel(8);
        let (calls, asked) = mpsc::channel(8);
        let service = Service {
            streams,
            calls,
            root: Ca::new("mesh"),
        };
        let service = std::sync::Arc::new(service);
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(AggregatedDiscoveryServiceServer::from_arc(service.clone()))
            .add_service(IstioCertificateServiceServer::from_arc(service.clone()))
            .add_service(AgentServiceServer::from_arc(service));
        let stop = tasks.stop();
        tasks.spawn("server", async move {
            // Ends all connections at once: a server that dies, not one that drains.
            tokio::select! {
                ended = server.serve_with_incoming(TcpIncoming::from(listener)) => ended.unwrap(),
                () = stop.cancelled() => {}
            }
        });
        Served {
            streams: opened,
            calls: asked,
        }
    }
}

/// What the server saw.
pub struct Served {
    streams: mpsc::Receiver<AdsStream>,
    calls: mpsc::Receiver<Call>,
}

/// One call of the certificate or agent service, and its metadata.
#[derive(Debug)]
pub struct Call {
    pub authorization: Option<String>,
    pub cluster: Option<String>,
    pub what: String,
}

impl Served {
    pub async fn next_stream(&mut self) -> AdsStream {
        soon("a stream", self.streams.recv()).await.unwrap()
    }

    pub async fn next_call(&mut self) -> Call {
        soon("a call", self.calls.recv()).await.unwrap()
    }
}

/// One stream of discovery, answered by the test. Dropping it ends the stream.
pub struct AdsStream {
    pub authorization: Option<String>,
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl AdsStream {
    pub async fn request(&mut self) -> DeltaDiscoveryRequest {
        soon("a request", self.requests.message())
            .await
            .unwrap()
            .expect("the client hung up")
    }

    pub async fn send(&self, response: DeltaDiscoveryResponse) {
        self.responses.send(Ok(response)).await.unwrap();
    }

    pub async fn fail(self, status: Status) {
        self.responses.send(Err(status)).await.unwrap();
    }
}

struct Service {
    streams: mpsc::Sender<AdsStream>,
    calls: mpsc::Sender<Call>,
    root: Ca,
}

fn text<T>(request: &Request<T>, key: &str) -> Option<String> {
    request
        .metadata()
        .get(key)
        .map(|value| value.to_str().unwrap().to_owned())
}

impl Service {
    async fn note<T: std::fmt::Debug>(&self, request: &Request<T>) {
        let call = Call {
            authorization: text(request, "authorization"),
            cluster: text(request, "clusterid"),
            what: format!("{:?}", request.get_ref()),
        };
        self.calls.send(call).await.unwrap();
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, queue) = mpsc::channel(8);
        let authorization = text(&request, "authorization");
        let stream = AdsStream {
            authorization,
            requests: request.into_inner(),
            responses,
        };
        // The test may be over.
        let _ = self.streams.send(stream).await;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.note(&request).await;
        let message = request.into_inner();
        let asked = &message.metadata.unwrap().fields["ImpersonatedIdentity"];
        let Some(prost_types::value::Kind::StringValue(identity)) = &asked.kind else {
            return Err(Status::invalid_argument("no identity"));
        };
        if identity.contains("/sa/stranger") {
            return Err(Status::permission_denied(
                "no pod of this node has that identity",
            ));
        }
        let seconds = u64::try_from(message.validity_duration).unwrap();
        let validity = ca::lasting(std::time::SystemTime::now(), seconds);
        let leaf = self.root.sign(&message.csr, identity, validity);
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: vec![leaf, self.root.root_pem()],
        }))
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    async fn describe_pod(
        &self,
        request: Request<DescribePodRequest>,
    ) -> Result<Response<DescribePodResponse>, Status> {
        self.note(&request).await;
        let message = request.into_inner();
        Ok(Response::new(DescribePodResponse {
            found: message.name != "ghost",
            enrol: true,
            reason: "the namespace is enrolled".to_owned(),
            service_account: message.name,
            labels: [("app".to_owned(), "web".to_owned())].into(),
            trust_domain: "cluster.local".to_owned(),
        }))
    }

    async fn report_pods(
        &self,
        request: Request<ReportPodsRequest>,
    ) -> Result<Response<ReportPodsResponse>, Status> {
        self.note(&request).await;
        Ok(Response::new(ReportPodsResponse {
            acked: request.get_ref().wait_for_acks,
        }))
    }

    type FollowWaypointsStream = WaypointLists;

    async fn follow_waypoints(
        &self,
        request: Request<FollowWaypointsRequest>,
    ) -> Result<Response<WaypointLists>, Status> {
        self.note(&request).await;
        let replica = WaypointReplica {
            namespace: "shop".to_owned(),
            gateway: "gate".to_owned(),
            replica: 3,
            service_account: "gate".to_owned(),
            revision: "7".to_owned(),
            trust_domain: "cluster.local".to_owned(),
        };
        let lists =
            [vec![replica], vec![]].map(|replicas| Ok(FollowWaypointsResponse { replicas }));
        Ok(Response::new(tokio_stream::iter(lists)))
    }
}

type WaypointLists =
    tokio_stream::Iter<std::array::IntoIter<Result<FollowWaypointsResponse, Status>, 2>>;
