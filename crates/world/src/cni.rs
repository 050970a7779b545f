//! Calling CNI plugins as a container runtime does (CNI specification 1.0.0, sections 2 to 4).
//!
//! Reads the first `*.conflist` of a configuration directory at each call, runs the chain with
//! prevResult, keeps the result for DEL, and calls DEL in reverse order.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::place::Place;
use crate::program::Program;
use crate::requirements::CNI_PLUGINS;

/// Longer than the time that a plugin of ours waits for its agent (30 s), so that its own error
/// is seen.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Why a chain did not come through.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// No usable conflist in the directory.
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
    /// It could not be started or the world was interrupted.
    #[error("plugin {plugin} did not run: {why}")]
    NotRun {
        /// Type of the plugin in the chain.
        plugin: String,
        /// The world's error.
        why: String,
    },
}

/// A sandbox as the runtime knows it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The runtime's id of the pod sandbox.
    pub container_id: String,
    /// Path of the network namespace.
    pub netns: PathBuf,
    /// `KEY=value;...`, as the kubelet's runtimes give it.
    pub args: String,
}

/// The runtime of one node.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Namespace and cgroup that the plugins run in.
    pub place: Place,
    /// Directory with the conflist.
    pub conf_dir: PathBuf,
    /// Where plugins are looked for after the distribution's directory.
    pub bin_dir: PathBuf,
}

impl Runtime {
    /// ADD through the whole chain; the last result. After a failure the caller must DEL.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Value, CniError> {
        let list = self.list()?;
        let mut previous = None;
        for plugin in &list.plugins {
            previous = Some(self.call("ADD", &list, plugin, (sandbox, previous.as_ref()))?);
        }
        previous.ok_or_else(|| self.no_configuration("it has no plugins"))
    }

    /// DEL through the chain in reverse order, with the result of ADD if there was one.
    pub fn del(&self, sandbox: &Sandbox, added: Option<&Value>) -> Result<(), CniError> {
        let list = self.list()?;
        for plugin in list.plugins.iter().rev() {
            self.call("DEL", &list, plugin, (sandbox, added))?;
        }
        Ok(())
    }

    fn list(&self) -> Result<List, CniError> {
        let entries =
            fs::read_dir(&self.conf_dir).map_err(|e| self.no_configuration(&e.to_string()))?;
        let mut files: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "conflist")
            })
            .collect();
        files.sort();
        let file = files
            .first()
            .ok_or_else(|| self.no_configuration("no *.conflist"))?;
        let value: Value = fs::read(file)
            .map_err(|e| e.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string()))
            .map_err(|why| self.no_configuration(&why))?;
        Ok(List {
            version: value["cniVersion"].clone(),
            name: value["name"].clone(),
            plugins: value["plugins"].as_array().cloned().unwrap_or_default(),
        })
    }

    fn call(
        &self,
        command: &str,
        list: &List,
        plugin: &Value,
        (sandbox, previous): (&Sandbox, Option<&Value>),
    ) -> Result<Value, CniError> {
        let kind = plugin["type"].as_str().unwrap_or_default().to_owned();
        let program = self
            .program(command, &kind, sandbox)
            .stdin(list.stdin(plugin, previous));
        let output = self.place.run(&program).map_err(|e| CniError::NotRun {
            plugin: kind.clone(),
            why: e.to_string(),
        })?;
        let broken = |why: String| CniError::Broken {
            plugin: kind.clone(),
            command: command.to_owned(),
            why,
        };
        let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        match answer {
            Some(result) if output.ok() => Ok(result),
            None if output.ok() && command != "ADD" => Ok(Value::Null),
            Some(error) if error["code"].is_u64() && !output.timed_out => Err(CniError::Refused {
                plugin: kind.clone(),
                command: command.to_owned(),
                code: error["code"].as_u64().unwrap_or_default(),
                msg: error["msg"].as_str().unwrap_or_default().to_owned(),
                details: error["details"].as_str().unwrap_or_default().to_owned(),
            }),
            _ => Err(broken(format!(
                "{}, stdout {:?}, stderr {:?}",
                output.status,
                output.text(),
                output.stderr.trim()
            ))),
        }
    }

    fn program(&self, command: &str, kind: &str, sandbox: &Sandbox) -> Program {
        let ours = self.bin_dir.join(kind);
        let path = if ours.is_file() {
            ours
        } else {
            Path::new(CNI_PLUGINS).join(kind)
        };
        let mut search = OsString::from(CNI_PLUGINS);
        search.push(":");
        search.push(&self.bin_dir);
        Program::new(path)
            .without_inherited_env()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &sandbox.container_id)
            .env("CNI_NETNS", &sandbox.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", &sandbox.args)
            .env("CNI_PATH", search)
            .limit(CALL_LIMIT)
    }

    fn no_configuration(&self, why: &str) -> CniError {
        CniError::NoConfiguration(self.conf_dir.clone(), why.to_owned())
    }
}

struct List {
    version: Value,
    name: Value,
    plugins: Vec<Value>,
}

impl List {
    /// The plugin's own configuration with the list's name and version and the previous result.
    fn stdin(&self, plugin: &Value, previous: Option<&Value>) -> Vec<u8> {
        let mut stdin = plugin.clone();
        stdin["cniVersion"] = self.version.clone();
        stdin["name"] = self.name.clone();
        if let Some(previous) = previous {
            stdin["prevResult"] = previous.clone();
        }
        stdin.to_string().into_bytes()
    }
}

/// The conflist of a node: bridge as gateway, host-local ranges of both families, no ipMasq.
pub(crate) fn bridge_conflist(subnet_v4: &str, subnet_v6: &str, data: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": data,
                "ranges": [[{ "subnet": subnet_v4 }], [{ "subnet": subnet_v6 }]],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            },
        }],
    })
}
