//! The command line. Every flag of `serve` is also an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use process::config::{ConfigError, Mistakes, duration};
use process::telemetry::Format;
use translate::{Options, VipRanges};

use crate::authority::MIN_LEAF_TTL;
use crate::server::Config;

/// Control plane of Culvert: discovery, certificates, and who a pod is.
#[derive(Debug, Parser)]
#[command(name = "culvertd", version)]
pub struct Flags {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves a directory of manifests.
    Serve(Box<Serve>),
    /// Makes the root key and root.pem if they are not there.
    Init(State),
    /// Makes the token of a node, or replaces it.
    Token(Token),
    /// Replaces the root by a new one that the old one vouches for.
    RotateRoot(RotateRoot),
}

/// Where the state is.
#[derive(Debug, Args)]
pub struct State {
    /// State directory, made with mode 0700.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/culvertd")]
    pub state: PathBuf,
}

/// Flags of `token`.
#[derive(Debug, Args)]
pub struct Token {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: State,
    /// Name of the node.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// File that gets the token, mode 0600; the old token of the node is refused from then on.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Flags of `rotate-root`.
#[derive(Debug, Args)]
pub struct RotateRoot {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: State,
    /// Ends the last rotation instead: the old root is trusted no more. Wait at least a leaf TTL
    /// after the rotation, and give nodes the new root.pem first.
    #[arg(long)]
    pub retire: bool,
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Directory of manifests (*.yaml, *.yml, *.json; not its subdirectories).
    #[arg(long, value_name = "DIR", env = "CULVERT_MANIFESTS")]
    pub manifests: PathBuf,
    /// State directory, made with mode 0700.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/culvertd",
        env = "CULVERT_STATE"
    )]
    pub state: PathBuf,
    /// Address for discovery, certificates and agents.
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = "[::]:15012",
        env = "CULVERT_LISTEN"
    )]
    pub listen: SocketAddr,
    /// Name or IP by which nodes reach this address; several allowed.
    #[arg(
        long = "server-name",
        value_name = "NAME",
        required = true,
        value_delimiter = ','
    )]
    #[arg(env = "CULVERT_SERVER_NAMES")]
    pub server_names: Vec<String>,
    /// Trust domain of all identities.
    #[arg(
        long,
        value_name = "DOMAIN",
        default_value = "cluster.local",
        env = "TRUST_DOMAIN"
    )]
    pub trust_domain: String,
    /// Domain of service host names.
    #[arg(
        long,
        value_name = "DOMAIN",
        default_value = "cluster.local",
        env = "CLUSTER_DOMAIN"
    )]
    pub cluster_domain: String,
    /// Name of the cluster.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "Kubernetes",
        env = "CLUSTER_ID"
    )]
    pub cluster_id: String,
    /// Name of the network of pods; empty when there is only one.
    #[arg(long, value_name = "NAME", default_value = "", env = "NETWORK")]
    pub network: String,
    /// Namespace whose policies are for the whole mesh.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "istio-system",
        env = "ROOT_NAMESPACE"
    )]
    pub root_namespace: String,
    /// Range for services without a clusterIP, IPv4.
    #[arg(
        long,
        value_name = "CIDR",
        default_value = "10.96.0.0/16",
        env = "CULVERT_VIP_RANGE_V4"
    )]
    pub vip_range_v4: ipnet::Ipv4Net,
    /// Range for services without a clusterIP, IPv6.
    #[arg(long, value_name = "CIDR", default_value = "fd00:10:96::/112")]
    #[arg(env = "CULVERT_VIP_RANGE_V6")]
    pub vip_range_v6: ipnet::Ipv6Net,
    /// Longest validity of a certificate.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "24h",
        env = "CULVERT_LEAF_TTL"
    )]
    #[arg(value_parser = duration)]
    pub leaf_ttl: Duration,
    /// Address of the admin server.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15014")]
    #[arg(env = "CULVERT_ADMIN_ADDR")]
    pub admin_addr: SocketAddr,
    /// Serves also when the directory has no object.
    #[arg(long, env = "CULVERT_ALLOW_EMPTY")]
    pub allow_empty: bool,
    /// Log level.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "RUST_LOG")]
    pub log: String,
    /// Log format: plain or json.
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "plain",
        env = "LOG_FORMAT"
    )]
    pub log_format: Format,
}

/// Longest leaf TTL: a certificate cannot be taken back, so its end is the only bound on it.
const MAX_LEAF_TTL: Duration = Duration::from_secs(90 * 86_400);

impl Serve {
    /// The configuration of a server.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut mistakes = Mistakes::new();
        let identity = mesh::Identity::new(&self.trust_domain, "a", "a");
        mistakes.check("--trust-domain", identity);
        for (flag, text) in [
            ("--cluster-domain", &self.cluster_domain),
            ("--cluster-id", &self.cluster_id),
            ("--root-namespace", &self.root_namespace),
        ] {
            let good = !text.is_empty() && !text.contains('/');
            mistakes.require(good, flag, "must not be empty or have a `/`");
        }
        mistakes.require(
            !self.network.contains('/'),
            "--network",
            "must not have a `/`",
        );
        let within = (MIN_LEAF_TTL..=MAX_LEAF_TTL).contains(&self.leaf_ttl);
        mistakes.require(within, "--leaf-ttl", "must be from 5s to 90d");
        mistakes.check(
            "--server-name",
            crate::listener::server_names(&self.server_names),
        );
        mistakes.finish()?;
        Ok(Config {
            manifests: self.manifests.clone(),
            state: self.state.clone(),
            listen: self.listen,
            server_names: self.server_names.clone(),
            leaf_ttl: self.leaf_ttl,
            admin: self.admin_addr,
            allow_empty: self.allow_empty,
            options: Options {
                trust_domain: self.trust_domain.as_str().into(),
                cluster_domain: self.cluster_domain.as_str().into(),
                cluster_id: self.cluster_id.as_str().into(),
                network: self.network.as_str().into(),
                root_namespace: self.root_namespace.as_str().into(),
                vip_ranges: VipRanges {
                    v4: self.vip_range_v4,
                    v6: self.vip_range_v6,
                },
            },
        })
    }
}
