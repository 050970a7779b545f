//! A culvertd on a directory of its own, and raw clients of it.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use control_plane::publication::Published;
use control_plane::server::{self, Config, ServeError, Serving};
use control_plane::state::{StateDir, nodes};
use process::tasks::Tasks;
use proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status as WireStatus};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};
use translate::Options;

/// No test waits for anything longer than this; none depends on it when all is well.
pub const LIMIT: Duration = Duration::from_secs(60);

pub const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-a, serviceAccountName: client}
status: {podIP: 10.244.1.2}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node-b, serviceAccountName: web}
status: {podIP: 10.244.2.2}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.80, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: shop}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}
";

pub const CLIENT: &str = "Kubernetes//Pod/shop/client";
pub const WEB: &str = "Kubernetes//Pod/shop/web";
pub const WEB_SERVICE: &str = "shop/web.shop.svc.cluster.local";

pub fn pod(name: &str, node: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{nodeName: {node}, serviceAccountName: {name}}}\nstatus: {{podIP: {ip}}}\n"
    )
}

pub struct Culvertd {
    base: TempDir,
    tasks: Tasks,
    pub serving: Serving,
}

/// Ends with a panic when `future` does not end.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

fn config(base: &TempDir) -> Config {
    Config {
        manifests: base.path().join("manifests"),
        state: base.path().join("state"),
        listen: "127.0.0.1:0".parse().unwrap(),
        server_names: vec!["127.0.0.1".to_owned()],
        leaf_ttl: Duration::from_secs(3600),
        admin: "127.0.0.1:0".parse().unwrap(),
        allow_empty: false,
        options: Options::default(),
    }
}

pub fn directory(files: &[(&str, &str)]) -> TempDir {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join("manifests")).unwrap();
    for (name, text) in files {
        std::fs::write(base.path().join("manifests").join(name), text).unwrap();
    }
    base
}

/// Why culvertd does not start there.
pub async fn refusal(base: &TempDir) -> ServeError {
    let tasks = Tasks::new();
    let error = match server::start(config(base), &tasks, None).await {
        Ok(_) => panic!("it serves"),
        Err(error) => error,
    };
    tasks.shutdown(LIMIT).await;
    error
}

impl Culvertd {
    /// Serves [`MESH`].
    pub async fn mesh() -> Self {
        Self::start(directory(&[("mesh.yaml", MESH)])).await
    }

    pub async fn start(base: TempDir) -> Self {
        let tasks = Tasks::new();
        let serving = server::start(config(&base), &tasks, None).await.unwrap();
        Self {
            base,
            tasks,
            serving,
        }
    }

    pub async fn stop(self) -> TempDir {
        self.tasks.shutdown(LIMIT).await;
        self.base
    }

    pub async fn restart(self) -> Self {
        Self::start(self.stop().await).await
    }

    pub fn state(&self) -> StateDir {
        StateDir::open(&self.base.path().join("state")).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.base.path().join("manifests").join(name)
    }

    /// Writes a manifest as its users should: beside, then renamed in.
    pub fn write(&self, name: &str, text: &str) {
        let beside = self.base.path().join("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.path(name)).unwrap();
    }

    /// Makes or rotates a node's token.
    pub fn token(&self, node: &str) -> String {
        let out = self.base.path().join("token");
        nodes::rotate(&self.state(), node, &out).unwrap();
        std::fs::read_to_string(out).unwrap().trim().to_owned()
    }

    pub fn root(&self) -> String {
        self.state().read("root.pem").unwrap().unwrap()
    }

    pub async fn channel(&self) -> Channel {
        self.channel_trusting(&self.root()).await.unwrap()
    }

    pub async fn channel_trusting(&self, roots: &str) -> Result<Channel, tonic::transport::Error> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots));
        let url = format!("https://{}", self.serving.address);
        Endpoint::from_shared(url)
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect()
            .await
    }

    /// A channel that shows the token of `node`, which is made for it.
    pub async fn as_node(&self, node: &str) -> InterceptedService<Channel, Bearer> {
        InterceptedService::new(self.channel().await, Bearer::new(&self.token(node)))
    }

    pub async fn discovery(&self, node: &str) -> Discovery {
        Discovery::open(self.channel().await, Bearer::new(&self.token(node)))
            .await
            .unwrap()
    }

    /// Waits until what is published is as `right` says.
    pub async fn published(&self, right: impl Fn(&Published) -> bool) -> Arc<Published> {
        let mut published = self.serving.engine.published();
        let waited = soon("the publication", published.wait_for(|p| right(p))).await;
        waited.unwrap().clone()
    }
}

#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<tonic::metadata::Ascii>>);

impl Bearer {
    pub fn new(token: &str) -> Self {
        Self(Some(format!("Bearer {token}").parse().unwrap()))
    }

    pub fn none() -> Self {
        Self(None)
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// One discovery stream.
pub struct Discovery {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Discovery {
    pub async fn open(channel: Channel, bearer: Bearer) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(8);
        let mut client = AggregatedDiscoveryServiceClient::with_interceptor(channel, bearer);
        let asked = client.delta_aggregated_resources(ReceiverStream::new(receiver));
        let responses = soon("the stream", asked).await?.into_inner();
        Ok(Self {
            requests,
            responses,
        })
    }

    pub async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    pub async fn ask(&self, url: &str, subscribe: &[&str], unsubscribe: &[&str]) {
        let texts = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        self.send(DeltaDiscoveryRequest {
            type_url: url.to_owned(),
            resource_names_subscribe: texts(subscribe),
            resource_names_unsubscribe: texts(unsubscribe),
            ..Default::default()
        })
        .await;
    }

    pub async fn ask_with_versions(&self, url: &str, versions: &BTreeMap<String, String>) {
        self.send(DeltaDiscoveryRequest {
            type_url: url.to_owned(),
            initial_resource_versions: versions.clone().into_iter().collect(),
            ..Default::default()
        })
        .await;
    }

    pub async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let next = soon("a response", self.responses.message()).await?;
        Ok(next.expect("the stream is open"))
    }

    pub async fn ack(&self, response: &DeltaDiscoveryResponse) {
        self.answer(response, None).await;
    }

    pub async fn reject(&self, response: &DeltaDiscoveryResponse, why: &str) {
        let detail = WireStatus {
            code: 3,
            message: why.to_owned(),
            ..Default::default()
        };
        self.answer(response, Some(detail)).await;
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, error_detail: Option<WireStatus>) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..Default::default()
        })
        .await;
    }

    /// The next response, acknowledged.
    pub async fn take(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next().await.unwrap();
        self.ack(&response).await;
        response
    }
}

pub fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    let mut names: Vec<&str> = response.resources.iter().map(|r| r.name.as_str()).collect();
    names.sort_unstable();
    names
}

pub fn versions(response: &DeltaDiscoveryResponse) -> BTreeMap<String, String> {
    response
        .resources
        .iter()
        .map(|r| (r.name.clone(), r.version.clone()))
        .collect()
}
