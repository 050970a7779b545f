//! The container runtime of a node: its CNI configuration, called by `crates/chain` in a place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chain::{Call, Chain, Ran, Runner};
use serde_json::{Value, json};

use crate::place::Place;
use crate::program::Program;
use crate::requirements::CNI_PLUGINS;

pub use chain::{CniError, Sandbox};

/// Longer than the time that a plugin of ours waits for its agent (30 s), so that its own error
/// is seen.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// The runtime of one node.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Namespace and cgroup that the plugins run in.
    pub place: Place,
    /// Directory with the conflist, read at each call.
    pub conf_dir: PathBuf,
    /// Where plugins are looked for before the distribution's directory.
    pub bin_dir: PathBuf,
}

impl Runtime {
    /// ADD through the whole chain; the last result. After a failure the caller must DEL.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Value, CniError> {
        self.chain()?.add(sandbox, self)
    }

    /// DEL through the chain in reverse order, with the result of ADD if there was one.
    pub fn del(&self, sandbox: &Sandbox, added: Option<&Value>) -> Result<(), CniError> {
        self.chain()?.del(sandbox, added, self)
    }

    /// Where plugins are looked for.
    pub fn bin_dirs(&self) -> [PathBuf; 2] {
        [self.bin_dir.clone(), PathBuf::from(CNI_PLUGINS)]
    }

    fn chain(&self) -> Result<Chain, CniError> {
        Chain::read(&self.conf_dir, &self.bin_dirs())
    }
}

impl Runner for Runtime {
    fn run(&self, call: Call) -> Result<Ran, String> {
        let program = Program::new(call.program).without_inherited_env();
        let program = call
            .env
            .into_iter()
            .fold(program, |program, (key, value)| program.env(key, value));
        let program = program.stdin(call.stdin).limit(CALL_LIMIT);
        let output = self
            .place
            .run(&program)
            .map_err(|error| error.to_string())?;
        Ok(Ran {
            ok: output.ok(),
            timed_out: output.timed_out,
            status: output.status.to_string(),
            stdout: output.stdout,
            stderr: output.stderr,
        })
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
