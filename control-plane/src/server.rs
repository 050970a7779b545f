//! Everything wired together: load, then listen, then serve until told to stop. Nothing listens
//! before the source has loaded.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use process::admin::{BindError, Condition, Readiness};
use process::manifests::{Directory, DirectoryError};
use process::tasks::Tasks;
use process::telemetry::LogControl;
use prometheus_client::registry::Registry;
use proto::wire::agent::agent_service_server::AgentServiceServer;
use proto::wire::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use proto::wire::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use translate::Options;
use translate::document::MAX_FILE_BYTES;

use crate::admin;
use crate::agents::Agents;
use crate::authority::Authority;
use crate::callers::Authenticate;
use crate::certificates::Certificates;
use crate::discovery::Discovery;
use crate::discovery::acks::Acks;
use crate::engine::{Engine, EngineHandle, LoadError, Setup};
use crate::listener::{self, ListenError, ServerCertificate};
use crate::metrics::Metrics;
use crate::source::watch;
use crate::state::nodes::Nodes;
use crate::state::{StateDir, StateError};
use crate::strangers::Strangers;
use crate::waypoints::{self, Waypoints};

/// Calls and streams of one connection: a proxy has one stream and one call at a time, an agent a
/// few calls.
const MAX_STREAMS: u32 = 128;

/// Largest discovery request in bytes: `initial_resource_versions` of 100,000 resources.
const MAX_DISCOVERY_REQUEST_BYTES: usize = 32 * 1024 * 1024;

/// Largest discovery response in bytes: what the ecosystem's clients take (`protocol.md` 6).
const MAX_DISCOVERY_RESPONSE_BYTES: usize = 200 * 1024 * 1024;

/// Largest certificate request or agent call in bytes: 1,024 pods with long names.
const MAX_CALL_BYTES: usize = 2 * 1024 * 1024;

/// How often a silent peer is sent a PING: a node that is gone must not hold a stream.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long a peer may be silent after a PING.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How often the certificate, the root and the tokens are looked at.
const UPKEEP: Duration = Duration::from_secs(1);

/// How to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// State directory.
    pub state: PathBuf,
    /// Address of the gRPC services.
    pub listen: SocketAddr,
    /// Names of the gRPC services for their certificate.
    pub server_names: Vec<String>,
    /// Longest validity of a certificate.
    pub leaf_ttl: Duration,
    /// Address of the admin server.
    pub admin: SocketAddr,
    /// Whether a directory without objects is meant to be so.
    pub allow_empty: bool,
    /// Names of the mesh.
    pub options: Options,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ServeError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Admin(#[from] BindError),
}

/// A culvertd that serves, until its tasks are shut down.
pub struct Serving {
    /// Address of the gRPC services.
    pub address: SocketAddr,
    /// Address of the admin server.
    pub admin: SocketAddr,
    /// Where changes can be brought to.
    pub engine: EngineHandle,
}

struct Parts {
    authority: Authority,
    nodes: Nodes,
    engine: EngineHandle,
    acks: Acks,
    metrics: Arc<Metrics>,
    trust_domain: Arc<str>,
    waypoints: Waypoints,
}

/// Starts serving; everything runs in `tasks`.
///
/// # Errors
/// The state, the manifests or an address cannot be used; nothing is served then.
pub async fn start(
    config: Config,
    tasks: &Tasks,
    log: Option<LogControl>,
) -> Result<Serving, ServeError> {
    let names = listener::server_names(&config.server_names)?;
    let state = StateDir::open(&config.state)?;
    let authority = Authority::open(state.clone(), config.leaf_ttl)?;
    let nodes = Nodes::open(state.clone())?;
    let mut directory = Directory::new(&config.manifests, MAX_FILE_BYTES);
    let files = directory.read_changed()?.unwrap_or_default();
    let trust_domain = config.options.trust_domain.clone();
    let setup = Setup {
        options: config.options,
        allow_empty: config.allow_empty,
        state: state.clone(),
    };
    let (engine, run) = Engine::load(setup, files)?.start(tasks.stop());
    tasks.spawn("engine", run);
    tasks.spawn(
        "manifests",
        watch::follow(directory, engine.clone(), tasks.stop()),
    );
    let mut registry = Registry::default();
    process::metrics::register_build(&mut registry, "culvertd", env!("CARGO_PKG_VERSION"));
    let metrics = Arc::new(Metrics::register(&mut registry));
    let acks = Acks::default();
    let waypoints = Waypoints::open(waypoints::Parts {
        engine: engine.clone(),
        nodes: nodes.clone(),
        state,
        trust_domain: trust_domain.clone(),
        tasks: tasks.clone(),
    });
    tasks.spawn("waypoints", waypoints.clone().run(tasks.stop()));
    let parts = Parts {
        authority: authority.clone(),
        nodes: nodes.clone(),
        engine: engine.clone(),
        acks: acks.clone(),
        metrics: metrics.clone(),
        trust_domain,
        waypoints,
    };
    let certificate =
        Arc::new(ServerCertificate::new(authority, names).map_err(ListenError::from)?);
    let readiness = Readiness::new();
    let ready = readiness.condition("listener", "not listening yet");
    let router = admin::router(engine.clone(), acks, registry, readiness, log);
    let admin = process::admin::serve(tasks, "admin", config.admin, router)?;
    let address = serve(parts, config.listen, certificate.clone(), (tasks, ready)).await?;
    let upkeep = upkeep(certificate, nodes, (engine.clone(), metrics), tasks.stop());
    tasks.spawn("upkeep", upkeep);
    tracing::info!(%address, %admin, "serving");
    Ok(Serving {
        address,
        admin,
        engine,
    })
}

async fn serve(
    parts: Parts,
    address: SocketAddr,
    certificate: Arc<ServerCertificate>,
    (tasks, ready): (&Tasks, Condition),
) -> Result<SocketAddr, ServeError> {
    let strangers = Strangers::new(parts.metrics.clone());
    let (address, connections) = listener::listen(tasks, address, certificate, strangers).await?;
    let auth = Authenticate::new(parts.nodes.clone(), parts.metrics.clone());
    let discovery = Discovery::new(
        parts.engine.clone(),
        parts.nodes,
        parts.acks.clone(),
        parts.metrics.clone(),
        tasks.clone(),
    );
    let discovery = AggregatedDiscoveryServiceServer::new(discovery)
        .max_decoding_message_size(MAX_DISCOVERY_REQUEST_BYTES)
        .max_encoding_message_size(MAX_DISCOVERY_RESPONSE_BYTES);
    let certificates = Certificates::new(
        parts.authority,
        parts.engine.clone(),
        parts.trust_domain.clone(),
        parts.metrics,
    );
    let certificates =
        IstioCertificateServiceServer::new(certificates).max_decoding_message_size(MAX_CALL_BYTES);
    let agents = Agents::new(
        parts.engine,
        parts.acks,
        parts.trust_domain,
        parts.waypoints,
    );
    let agents = AgentServiceServer::new(agents).max_decoding_message_size(MAX_CALL_BYTES);
    let router = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .add_service(InterceptedService::new(discovery, auth.clone()))
        .add_service(InterceptedService::new(certificates, auth.clone()))
        .add_service(InterceptedService::new(agents, auth));
    let stop = tasks.stop();
    tasks.spawn("gRPC server", async move {
        router
            .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
            .await
    });
    ready.met();
    Ok(address)
}

/// Follows what other commands change in the state, and the clock.
async fn upkeep(
    certificate: Arc<ServerCertificate>,
    nodes: Nodes,
    (engine, metrics): (EngineHandle, Arc<Metrics>),
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(UPKEEP) => {}
        }
        certificate.renew(SystemTime::now());
        nodes.refresh();
        let published = engine.now();
        metrics.revision.set(published.revision);
        metrics
            .source_errors
            .set(i64::try_from(published.errors.len()).unwrap_or(i64::MAX));
    }
}
