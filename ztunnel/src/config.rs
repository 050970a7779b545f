//! The flags of the program and what they mean. Knows no socket.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use mesh::workload::WorkloadUid;
use netio::Choice;
use netio::executor::Spin;
use process::flags::{Flags, Variables};
use serde::{Serialize, Serializer};

use carrier::limits::Limits;

/// The per-node L4 proxy of Culvert: carries every enrolled pod's connections over mutual TLS.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "ztunnel", version)]
pub struct Config {
    /// What all proxies have.
    #[command(flatten)]
    #[serde(flatten)]
    pub flags: Flags,
    /// Socket of the node agent.
    #[arg(
        long,
        env = "INPOD_UDS",
        default_value = "/var/run/ztunnel/ztunnel.sock"
    )]
    pub zds_socket: PathBuf,
    /// I/O back end; `auto` is epoll.
    #[arg(long, default_value_t = Choice::Auto, value_parser = back_end())]
    #[serde(serialize_with = "as_text")]
    pub io: Choice,
    /// How long a worker looks for work before it sleeps, while its waits are short: `off`, up to
    /// `200us`, or `auto` (100us, off where the process has one core or a CPU limit). Halves the
    /// latency of few connections; a worker with many, or with new ones, does not look.
    #[arg(long, env = "ZTUNNEL_SPIN", default_value_t = Spin::Auto)]
    #[serde(serialize_with = "as_text")]
    pub spin: Spin,
    /// Network of this node's pods; empty in a mesh of one network.
    #[arg(long, env = "NETWORK", default_value = "")]
    pub network: String,
    /// Socket at which a successor is handed what this process knows, and at which this process
    /// finds its own predecessor, such as `/var/run/ztunnel/handover.sock`. Empty: none, and a
    /// successor starts with nothing.
    #[arg(
        long,
        env = "HANDOVER_SOCKET",
        default_value = "",
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
    pub handover_socket: PathBuf,
    /// How long open connections may go on after a successor has taken over.
    #[arg(
        long,
        env = "DRAIN_DEADLINE",
        default_value = "1h",
        value_parser = process::config::duration
    )]
    pub drain_deadline: Duration,
    /// How long open connections may go on after SIGTERM; a few seconds less than who sends it
    /// waits before it kills.
    #[arg(
        long,
        env = "CONNECTION_TERMINATION_DEADLINE",
        default_value = "5s",
        value_parser = process::config::duration
    )]
    pub termination_deadline: Duration,
    /// Name of the proxy's own pod.
    #[arg(long, env = "POD_NAME", default_value = "ztunnel")]
    pub pod_name: String,
    /// Namespace of the proxy's own pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pub pod_namespace: String,
    /// Address of the proxy's own pod.
    #[arg(long, env = "INSTANCE_IP", default_value = "1.1.1.1")]
    pub instance_ip: String,
}

fn as_text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

/// [`DataPath::close_wait`]: applications close what was closed within milliseconds, and nobody
/// else has a reason to wait for those that do not.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// The environment variables that are ztunnel's own.
pub const VARIABLES: Variables = Variables {
    workers: "ZTUNNEL_WORKER_THREADS",
    limits: "ZTUNNEL_LIMITS",
};

impl Config {
    /// What the workers need of it.
    pub fn data_path(&self, limits: Limits) -> DataPath {
        DataPath {
            network: self.network.as_str().into(),
            cluster: self.flags.cluster_id.as_str().into(),
            trust_domain: self.flags.trust_domain.as_str().into(),
            termination_deadline: self.termination_deadline,
            close_wait: CLOSE_WAIT,
            tunnel_idle: self.flags.tunnel_idle,
            limits,
        }
    }
}

/// The part of the configuration that the data path needs.
#[derive(Clone, Debug)]
pub struct DataPath {
    /// Network of this node's pods.
    pub network: std::sync::Arc<str>,
    /// Name of this cluster.
    pub cluster: std::sync::Arc<str>,
    /// Trust domain of this mesh; peers of another one are refused.
    pub trust_domain: std::sync::Arc<str>,
    /// How long open connections may go on at shutdown.
    pub termination_deadline: Duration,
    /// How long both sides of a quiet connection, which the drain closes at its deadline, may take
    /// to close it too; what is open then is reset.
    pub close_wait: Duration,
    /// How long a tunnel of ours is kept without connections.
    pub tunnel_idle: Duration,
    /// What it may take up.
    pub limits: Limits,
}

impl DataPath {
    /// Name that discovery gives to a pod of this cluster.
    pub fn workload_uid(&self, namespace: &str, name: &str) -> WorkloadUid {
        WorkloadUid(format!("{}//Pod/{namespace}/{name}", self.cluster).into())
    }
}

/// The word of each [`Choice`], so that the help names them.
fn back_end() -> impl TypedValueParser<Value = Choice> {
    PossibleValuesParser::new(["auto", "io_uring", "epoll"]).try_map(|word| word.parse::<Choice>())
}

#[cfg(test)]
mod tests {
    use process::flags::Asked;

    use super::*;

    const NEEDED: [&str; 11] = [
        "ztunnel",
        "--node-name",
        "n1",
        "--xds-address",
        "https://127.0.0.1:15012",
        "--ca-address",
        "https://127.0.0.1:15012",
        "--root-cert",
        "/root.pem",
        "--token-file",
        "/token",
    ];

    #[test]
    fn the_defaults_are_those_of_the_stock_part() {
        let config = Config::try_parse_from(NEEDED).unwrap();
        assert_eq!(
            config.zds_socket,
            PathBuf::from("/var/run/ztunnel/ztunnel.sock")
        );
        assert_eq!(config.flags.admin_addr.to_string(), "127.0.0.1:15000");
        assert_eq!(config.termination_deadline, Duration::from_secs(5));
        assert_eq!(config.drain_deadline, Duration::from_secs(3_600));
        assert_eq!(config.handover_socket, PathBuf::new());
        let data_path = config.data_path(Limits::of(&config.flags).unwrap());
        assert_eq!(data_path.limits, Limits::default());
        let uid = data_path.workload_uid("shop", "web");
        assert_eq!(&*uid.0, "Kubernetes//Pod/shop/web");
    }

    #[test]
    fn both_back_ends_can_be_forced() {
        for (text, io) in [
            ("io_uring", Choice::IoUring),
            ("epoll", Choice::Epoll),
            ("auto", Choice::Auto),
        ] {
            let config = Config::try_parse_from(NEEDED.iter().copied().chain(["--io", text]));
            assert_eq!(config.unwrap().io, io);
        }
    }

    #[test]
    fn the_help_names_the_back_ends() {
        use clap::CommandFactory;
        // The bench reads there which ones a binary has.
        let help = Config::command().render_help().to_string();
        let (_, io) = help.split_once("--io ").unwrap();
        let values = "[default: auto] [possible values: auto, io_uring, epoll]";
        assert!(io.contains(values), "{help}");
    }

    #[test]
    fn a_node_without_a_name_does_not_start() {
        let without = NEEDED
            .iter()
            .copied()
            .filter(|word| !matches!(*word, "--node-name" | "n1"));
        assert!(Config::try_parse_from(without).is_err() || std::env::var("NODE_NAME").is_ok());
    }

    #[test]
    fn limits_and_workers_have_the_variables_of_the_stock_part() {
        let words = NEEDED.iter().copied().chain(["--limits", "/x"]);
        let Ok(Asked::Serve(config)) = Asked::<Config>::parse_from(words, VARIABLES) else {
            panic!("it shall serve");
        };
        assert!(
            Limits::of(&config.flags).is_err(),
            "a file that is not there"
        );
        assert_eq!(VARIABLES.workers, "ZTUNNEL_WORKER_THREADS");
    }

    #[test]
    fn looking_before_sleeping_is_set_within_its_bound_or_not_at_all() {
        let spin = |text| {
            let words = NEEDED.iter().copied().chain(["--spin", text]);
            Config::try_parse_from(words).map(|config| config.spin)
        };
        let default = Config::try_parse_from(NEEDED).unwrap().spin;
        assert!(default == Spin::Auto || std::env::var("ZTUNNEL_SPIN").is_ok());
        assert_eq!(spin("off").unwrap().time(), Duration::ZERO);
        let error = spin("201us").unwrap_err().to_string();
        assert!(error.contains("50us"), "{error}");
    }
}
