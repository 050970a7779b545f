//! The agent's flags for the waypoints that it runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use process::config::duration;
use process::otlp::TracingFlags;

use super::AgentArgs;
use crate::waypoint::Settings;

/// Directory of waypoints' cgroups below the agent's cgroup root.
const CGROUP: &str = "culvert-waypoints";
/// The waypoint's own flag for how long it drains.
const DRAIN_FLAG: &str = "--drain-deadline";
/// A waypoint ends what is left by itself so long before it would be killed.
const END_MARGIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Args)]
pub(super) struct WaypointArgs {
    /// The waypoint program; another file there replaces the running ones, one after another
    /// [default: `waypoint` beside this program, or in PATH].
    #[arg(long, value_name = "FILE")]
    waypoint_binary: Option<PathBuf>,
    /// What every waypoint is told; the OTEL_ variables of the agent's environment are theirs too.
    #[command(flatten)]
    tracing: TracingFlags,
    /// One more argument for every waypoint; may be repeated. Waypoints started with other
    /// arguments are replaced.
    #[arg(long = "waypoint-arg", value_name = "ARG", allow_hyphen_values = true)]
    waypoint_args: Vec<String>,
    /// Directory of the records of waypoints.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/culvert/waypoints")]
    waypoint_dir: PathBuf,
    /// Directory of their log files [default: they write where the agent writes].
    #[arg(long, value_name = "DIR")]
    waypoint_log_dir: Option<PathBuf>,
    /// What the names of their network namespaces begin with.
    #[arg(long, value_name = "TEXT", default_value = "culvert-")]
    waypoint_netns_prefix: String,
    /// Directory of cgroup2 that theirs are made in [default: `culvert-waypoints` in
    /// --cgroup-root].
    #[arg(long, value_name = "DIR")]
    waypoint_cgroup: Option<PathBuf>,
    /// How long a waypoint that shall end may serve what it has before it is killed.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    waypoint_drain_deadline: Duration,
    /// The runtime's CNI configuration directory, for the sandboxes of waypoints.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// A directory of CNI plugins; may be repeated.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: Vec<PathBuf>,
}

impl WaypointArgs {
    pub(super) fn settings(&self, agent: &AgentArgs) -> Settings {
        let files = [
            ("--root-cert", &agent.root_cert),
            ("--token-file", &agent.token_file),
        ];
        let texts = [
            ("--node-name", &agent.node_name),
            ("--xds-address", &agent.control_plane),
            ("--ca-address", &agent.control_plane),
        ];
        let texts = texts.map(|(flag, text)| [flag.to_owned(), text.clone()]);
        // A path that is no text cannot be told; the waypoint's own error then names it.
        let files = files.map(|(flag, path)| [flag.to_owned(), path.display().to_string()]);
        let told = texts.into_iter().chain(files).flatten();
        let told = told.chain(self.traced());
        let mut arguments: Vec<String> = told.chain(self.waypoint_args.clone()).collect();
        if !arguments
            .iter()
            .any(|argument| argument.starts_with(DRAIN_FLAG))
        {
            let grace = self.waypoint_drain_deadline.saturating_sub(END_MARGIN);
            let grace = grace.max(self.waypoint_drain_deadline / 2);
            arguments.push(format!("{DRAIN_FLAG}={}ms", grace.as_millis()));
        }
        let cgroup = || agent.cgroup_root.join(CGROUP);
        Settings {
            binary: self.waypoint_binary.clone(),
            arguments,
            state_dir: self.waypoint_dir.clone(),
            cni_conf_dir: self.cni_conf_dir.clone(),
            cni_bin_dirs: self.cni_bin_dir.clone(),
            netns_prefix: self.waypoint_netns_prefix.clone(),
            cgroup: self.waypoint_cgroup.clone().unwrap_or_else(cgroup),
            log_dir: self.waypoint_log_dir.clone(),
            drain_deadline: self.waypoint_drain_deadline,
        }
    }

    /// The flags of tracing, for waypoints.
    fn traced(&self) -> impl Iterator<Item = String> + use<> {
        let TracingFlags {
            tracing_endpoint,
            tracing_sampling,
        } = self.tracing.clone();
        let endpoint = tracing_endpoint.map(|url| format!("--tracing-endpoint={url}"));
        let sampling = tracing_sampling.map(|percent| format!("--tracing-sampling={percent}"));
        [endpoint, sampling].into_iter().flatten()
    }
}
