//! The flags of the program and what they mean. Knows no socket.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, ValueEnum, arg, value_parser};
use mesh::workload::WorkloadUid;
use netio::executor::{SPIN_MAX, spin_by_default};
use process::config::ConfigError;
use process::flags::Flags;
use serde::Serialize;

use carrier::limits::{self, Limits};

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
    /// I/O back end.
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    pub io: Io,
    /// Worker threads; as many as cores when not given.
    #[arg(
        long,
        env = "ZTUNNEL_WORKER_THREADS",
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    pub workers: Option<u16>,
    /// How long a worker looks for work before it sleeps: `off`, up to `200us`, or `auto` (50us,
    /// off where the process has one core or a CPU limit). Saves latency of few connections and
    /// costs CPU of many.
    #[arg(long, env = "ZTUNNEL_SPIN", default_value = "off", value_parser = spin)]
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
    /// How long a tunnel of ours is kept without connections; one of a peer is kept for twice as
    /// long.
    #[arg(
        long,
        env = "TUNNEL_IDLE",
        default_value = "300s",
        value_parser = process::config::duration
    )]
    pub tunnel_idle: Duration,
    /// YAML file with limits that differ from the defaults; `ztunnel limits` prints a whole one.
    #[arg(long, env = "ZTUNNEL_LIMITS", value_name = "FILE")]
    pub limits: Option<PathBuf>,
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

/// Which back end moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Io {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
}

/// How long workers look for work before they sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Spin {
    /// [`SPIN_AUTO`] where there are cores to spare, else not at all.
    Auto,
    /// So long; zero is off.
    For(Duration),
}

/// What `auto` comes to where there are cores to spare: about what a sleep and its wake-up across
/// cores cost.
const SPIN_AUTO: Duration = Duration::from_micros(50);

impl Spin {
    /// What it comes to for this process; zero is off.
    #[must_use]
    pub fn time(self) -> Duration {
        match self {
            Self::Auto if spin_by_default() => SPIN_AUTO,
            Self::Auto => Duration::ZERO,
            Self::For(time) => time,
        }
    }
}

fn spin(text: &str) -> Result<Spin, String> {
    let micros = match text {
        "auto" => return Ok(Spin::Auto),
        "off" => Some(0),
        text => text
            .strip_suffix("us")
            .and_then(|number| number.parse().ok()),
    };
    let time = micros.map(Duration::from_micros);
    time.filter(|time| *time <= SPIN_MAX)
        .map(Spin::For)
        .ok_or_else(|| {
            format!("`{text}` is none of `auto`, `off` and a time up to {SPIN_MAX:?}, as in 50us")
        })
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// To serve.
    Serve(Box<Config>),
    /// To print the limits, those of a file if one is named, and to end.
    Limits {
        /// The file.
        file: Option<PathBuf>,
        /// As the table of the documentation instead of a file.
        as_table: bool,
    },
}

impl Asked {
    /// Reads a command line, its first word included.
    ///
    /// # Errors
    /// What is wrong with it, or the help that was asked for.
    pub fn parse_from(
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let limits = clap::Command::new("limits")
            .about("Prints every limit with its value, unit and reason, as a file for --limits")
            .arg(
                arg!(--limits <FILE> "File whose limits are printed instead of the defaults")
                    .env("ZTUNNEL_LIMITS")
                    .value_parser(value_parser!(PathBuf)),
            )
            .arg(
                arg!(--table "Prints the table of docs/limits.md instead")
                    .action(ArgAction::SetTrue),
            );
        let command = Config::command()
            .subcommand(limits)
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true);
        let found = command.try_get_matches_from(words)?;
        match found.subcommand() {
            Some((_, limits)) => Ok(Self::Limits {
                file: limits.get_one("limits").cloned(),
                as_table: limits.get_flag("table"),
            }),
            None => Ok(Self::Serve(Box::new(Config::from_arg_matches(&found)?))),
        }
    }
}

impl Config {
    /// The limits: those of the file, or the defaults.
    ///
    /// # Errors
    /// All mistakes of the file.
    pub fn read_limits(&self) -> Result<Limits, ConfigError> {
        self.limits
            .as_deref()
            .map_or_else(|| Ok(Limits::default()), limits::load)
    }

    /// What the workers need of it.
    pub fn data_path(&self, limits: Limits) -> DataPath {
        DataPath {
            network: self.network.as_str().into(),
            cluster: self.flags.cluster_id.as_str().into(),
            trust_domain: self.flags.trust_domain.as_str().into(),
            termination_deadline: self.termination_deadline,
            tunnel_idle: self.tunnel_idle,
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

#[cfg(test)]
mod tests {
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
        let data_path = config.data_path(config.read_limits().unwrap());
        assert_eq!(data_path.limits, Limits::default());
        let uid = data_path.workload_uid("shop", "web");
        assert_eq!(&*uid.0, "Kubernetes//Pod/shop/web");
    }

    #[test]
    fn both_back_ends_can_be_forced() {
        for (text, io) in [
            ("io_uring", Io::IoUring),
            ("epoll", Io::Epoll),
            ("auto", Io::Auto),
        ] {
            let config = Config::try_parse_from(NEEDED.iter().copied().chain(["--io", text]));
            assert_eq!(config.unwrap().io, io);
        }
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
    fn the_limits_are_printed_without_the_flags_that_serving_needs() {
        let asked = Asked::parse_from(["ztunnel", "limits"]).unwrap();
        let all = matches!(
            asked,
            Asked::Limits {
                file: None,
                as_table: false
            }
        );
        assert!(all, "{asked:?}");
        let asked = Asked::parse_from(["ztunnel", "limits", "--limits", "/x"]).unwrap();
        assert!(
            matches!(asked, Asked::Limits { file: Some(_), .. }),
            "{asked:?}"
        );
        let asked = Asked::parse_from(NEEDED.iter().chain(&["--limits", "/x"])).unwrap();
        let Asked::Serve(config) = asked else {
            panic!("{asked:?}");
        };
        assert_eq!(config.limits, Some(PathBuf::from("/x")));
        assert!(config.read_limits().is_err(), "a file that is not there");
        assert!(Asked::parse_from(["ztunnel"]).is_err());
    }

    #[test]
    fn looking_before_sleeping_is_set_within_its_bound_or_not_at_all() {
        let spin = |text| {
            let words = NEEDED.iter().copied().chain(["--spin", text]);
            Config::try_parse_from(words).map(|config| config.spin)
        };
        assert_eq!(spin("auto").unwrap(), Spin::Auto);
        assert_eq!(spin("off").unwrap().time(), Duration::ZERO);
        assert_eq!(spin("200us").unwrap().time(), SPIN_MAX);
        for text in ["201us", "1ms", "50", "us", ""] {
            let error = spin(text).unwrap_err().to_string();
            assert!(error.contains("50us"), "{text}: {error}");
        }
    }

    #[test]
    fn zero_workers_are_refused() {
        let zero = NEEDED.iter().copied().chain(["--workers", "0"]);
        assert!(Config::try_parse_from(zero).is_err());
    }
}
