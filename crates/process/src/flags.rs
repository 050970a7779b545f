//! The flags that every proxy has: its node, its control plane, where it is asked about itself, how
//! it logs, what it may take up. Each program flattens them into its own.

mod asked;

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use mesh::identity::DEFAULT_TRUST_DOMAIN;
use serde::Serialize;

use crate::certs::{CertManager, DEFAULT_TTL, GrpcAuthority};
use crate::clock::SystemClock;
use crate::grpc::{AddressError, ControlPlane, Settings};
use crate::tasks::Tasks;
use crate::telemetry::Format;
pub use asked::{Asked, Variables};

/// What proxies are told on their command lines.
#[derive(Clone, Debug, clap::Args, Serialize)]
pub struct Flags {
    /// Name of this node, as the control plane knows it.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// Where discovery is served, `https://host:port`.
    #[arg(long, env = "XDS_ADDRESS")]
    pub xds_address: String,
    /// Where certificates are signed, `https://host:port`.
    #[arg(long, env = "CA_ADDRESS")]
    pub ca_address: String,
    /// PEM file with the roots that the control plane's certificate is checked against.
    #[arg(long, env = "XDS_ROOT_CA")]
    pub root_cert: PathBuf,
    /// File with this node's token; read again for each connection.
    #[arg(long)]
    pub token_file: PathBuf,
    /// Where `/config_dump` and `/logging` are served. It shows no keys, but who talks to whom.
    #[arg(long, default_value = "127.0.0.1:15000")]
    pub admin_addr: SocketAddr,
    /// Where `/metrics` is served.
    #[arg(long, default_value = "[::]:15020")]
    pub metrics_addr: SocketAddr,
    /// Where `/healthz/ready` is served.
    #[arg(long, default_value = "[::]:15021")]
    pub ready_addr: SocketAddr,
    /// Trust domain of the identities of this mesh.
    #[arg(long, env = "TRUST_DOMAIN", default_value = DEFAULT_TRUST_DOMAIN)]
    pub trust_domain: String,
    /// Name of this cluster.
    #[arg(long, env = "ISTIO_META_CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// Log level, or a list of `target=level`; `access=warn` leaves out the lines of what went
    /// well.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,
    /// How log lines are written.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t)]
    #[serde(skip)]
    pub log_format: Format,
    /// Worker threads; as many as cores when not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,
    /// How long a tunnel of ours is kept without connections; one of a peer is kept for twice as
    /// long.
    #[arg(
        long,
        env = "TUNNEL_IDLE",
        default_value = "300s",
        value_parser = crate::config::duration
    )]
    pub tunnel_idle: Duration,
    /// YAML file with limits that differ from the defaults; the subcommand `limits` prints a whole
    /// one.
    #[arg(long, value_name = "FILE")]
    pub limits: Option<PathBuf>,
}

impl Flags {
    /// Worker threads: as given, else one for each core.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        let cores = || available_parallelism().map_or(1, NonZero::get);
        self.workers.map_or_else(cores, usize::from)
    }

    /// Where discovery is served, and how it is spoken to.
    ///
    /// # Errors
    /// The address is none.
    pub fn discovery(&self) -> Result<ControlPlane, AddressError> {
        self.control_plane(&self.xds_address)
    }

    /// Starts to keep certificates, signed at the given address, as a task of `tasks`.
    ///
    /// # Errors
    /// The address is none.
    pub fn certificates(&self, tasks: &Tasks) -> Result<CertManager, AddressError> {
        let authority = GrpcAuthority::new(self.control_plane(&self.ca_address)?);
        Ok(CertManager::start(
            tasks,
            Arc::new(authority),
            Arc::new(SystemClock),
            DEFAULT_TTL,
        ))
    }

    fn control_plane(&self, address: &str) -> Result<ControlPlane, AddressError> {
        let mut settings = Settings::new(address, &self.root_cert, Some(&self.token_file));
        settings.cluster_id.clone_from(&self.cluster_id);
        ControlPlane::new(settings)
    }
}
