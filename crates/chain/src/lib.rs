//! Calling CNI plugins as a container runtime does (CNI specification 1.0.0, sections 2 to 4).
//!
//! Reads the configuration that is in force in a directory, runs the chain with prevResult for ADD,
//! and in reverse order for DEL. How a program is started is the caller's business ([`Runner`]);
//! the crate knows no network namespace, no cgroup and no mesh.

mod configuration;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

pub use configuration::Chain;

/// Why a chain did not come through.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// No usable configuration in the directory.
    #[error("no CNI configuration in {0}: {1}")]
    NoConfiguration(PathBuf, String),
    /// The plugin said why, in a CNI error object.
    #[error("plugin {plugin} refused {command}: {msg} (code {code}) {details}")]
    Refused {
        /// Type of the plugin in the chain.
        plugin: String,
        /// ADD or DEL.
        command: String,
        /// Error code of the specification, or of the plugin from 100.
        code: u64,
        /// Short message.
        msg: String,
        /// Longer message, may be empty.
        details: String,
    },
    /// It ended badly without an error object, or with an unreadable result.
    #[error("plugin {plugin} broke the protocol on {command}: {why}")]
    Broken {
        /// Type of the plugin in the chain.
        plugin: String,
        /// ADD or DEL.
        command: String,
        /// What it did.
        why: String,
    },
    /// It could not be started.
    #[error("plugin {plugin} did not run: {why}")]
    NotRun {
        /// Type of the plugin in the chain.
        plugin: String,
        /// The runner's error.
        why: String,
    },
}

/// A sandbox as the runtime knows it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The runtime's id of the pod sandbox.
    pub container_id: String,
    /// Path of the network namespace; empty once it is gone.
    pub netns: PathBuf,
    /// `KEY=value;...`, as the kubelet's runtimes give it; see [`pod_args`].
    pub args: String,
}

/// One call of one plugin.
#[derive(Debug)]
pub struct Call {
    /// The plugin.
    pub program: PathBuf,
    /// All of its environment but PATH.
    pub env: Vec<(&'static str, OsString)>,
    /// What it reads.
    pub stdin: Vec<u8>,
}

/// What a plugin that was run left.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Whether it ended by itself, in time, with status 0.
    pub ok: bool,
    /// Whether it was ended because its time was over.
    pub timed_out: bool,
    /// How it ended, for a message.
    pub status: String,
    /// All it wrote on stdout.
    pub stdout: Vec<u8>,
    /// All it wrote on stderr.
    pub stderr: String,
}

/// Starts plugins: in which place, with which limit of time.
pub trait Runner {
    /// Runs a plugin to its end.
    ///
    /// # Errors
    /// A sentence, when it could not be started.
    fn run(&self, call: Call) -> Result<Ran, String>;
}

/// What kubelet's runtimes put into CNI_ARGS for a pod.
pub fn pod_args(namespace: &str, name: &str, container_id: &str, uid: &str) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
         K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={uid}"
    )
}

/// The addresses of a result of ADD.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_a_result_are_those_of_its_ips() {
        let result: Value = serde_json::from_str(
            r#"{"ips": [{"address": "10.1.2.3/24"}, {"address": "fd00::3/64"}, {}]}"#,
        )
        .unwrap();
        let expected: Vec<IpAddr> = vec!["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
        assert!(addresses(&Value::Null).is_empty());
    }
}
