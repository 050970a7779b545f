//! Our processes in a world: where their binaries are, which flags they get, when they are ready.
//!
//! Knows names, flags and endpoints; nothing of what the processes do.

use std::env;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::WorldError;
use crate::place::Place;
use crate::process::Process;
use crate::program::Program;
use crate::topology::{Host, Node, Pod, PodName};

/// The control plane's port (protocol.md 8).
const CONTROL_PORT: u16 = 15012;
/// How long a process of ours gets until its readiness endpoint says yes; a debug build on two
/// cores takes about 2 s, and ten times as long beside eight builds.
pub const READY_WITHIN: Duration = Duration::from_secs(120);

/// Readiness endpoints on the node (protocol.md 8).
const AGENT_READY: &str = "http://127.0.0.1:15010/healthz/ready";
const ZTUNNEL_READY: &str = "http://127.0.0.1:15021/healthz/ready";
/// In the netns of its pod.
const WAYPOINT_READY: &str = "http://127.0.0.1:15021/healthz/ready";
const CONTROL_READY: &str = "http://127.0.0.1:15014/healthz/ready";

/// The directory with the built programs.
#[derive(Clone, Debug)]
pub struct Binaries(PathBuf);

/// The state of a control plane on a machine of the world: made before it serves.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    binaries: Binaries,
    host: Host,
    state: PathBuf,
}

impl Binaries {
    /// Those of the same build as this executable: beside it, or one directory up for a test.
    pub fn of_this_build() -> Result<Self, WorldError> {
        let own = env::current_exe().map_err(WorldError::io("find this executable"))?;
        let mut directory = own.parent().unwrap_or(Path::new("/"));
        if directory.ends_with("deps") {
            directory = directory.parent().unwrap_or(directory);
        }
        let missing: Vec<String> = ["culvertd", "ztunnel", "culvert-cni"]
            .iter()
            .filter(|name| !directory.join(name).is_file())
            .map(|name| {
                format!(
                    "{} is not built (cargo build --workspace)",
                    directory.join(name).display()
                )
            })
            .collect();
        if missing.is_empty() {
            Ok(Binaries(directory.to_owned()))
        } else {
            Err(WorldError::Missing(missing))
        }
    }

    /// Path of one of them.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl ControlPlane {
    /// Makes the state directory with the root, so that nodes can pin it before anything serves.
    pub fn prepare(host: &Host, binaries: &Binaries) -> Result<Self, WorldError> {
        let state = host.place().recorder.directory().join("culvertd");
        let control = ControlPlane {
            binaries: binaries.clone(),
            host: host.clone(),
            state,
        };
        control.command(&["init"])?;
        Ok(control)
    }

    /// A second one on another machine, with a copy of the state: the same root and tokens.
    pub fn copy_to(&self, host: &Host) -> Result<Self, WorldError> {
        let name = format!("culvertd-{}", host.place().name());
        let state = host.place().recorder.directory().join(name);
        let what = format!("copy {} to {}", self.state.display(), state.display());
        let copy = || {
            fs::DirBuilder::new().mode(0o700).create(&state)?;
            for entry in fs::read_dir(&self.state)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    // Copies the mode too: the keys stay 0600.
                    fs::copy(entry.path(), state.join(entry.file_name()))?;
                }
            }
            Ok(())
        };
        copy().map_err(WorldError::io(what))?;
        Ok(ControlPlane {
            binaries: self.binaries.clone(),
            host: host.clone(),
            state,
        })
    }

    /// Starts serving a directory of manifests and waits until it is ready.
    pub fn serve(&self, manifests: &Path, more: &[&str]) -> Result<Process, WorldError> {
        let address = self.host.ipv4().to_string();
        let program = Program::new(self.binaries.path("culvertd"))
            .args(["serve", "--manifests"])
            .arg(manifests)
            .arg("--state")
            .arg(&self.state)
            .args([
                "--listen",
                &format!("{address}:{CONTROL_PORT}"),
                "--server-name",
                &address,
            ])
            .args(more.iter().copied());
        let process = self.host.place().start("culvertd", &program)?;
        wait_ready(&process, self.host.place(), CONTROL_READY)?;
        Ok(process)
    }

    /// What nodes call.
    pub fn url(&self) -> String {
        format!("https://{}:{CONTROL_PORT}", self.host.ipv4())
    }

    /// The public bundle that nodes pin.
    pub fn root_certificate(&self) -> PathBuf {
        self.state.join("root.pem")
    }

    /// The machine it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Makes (or rotates) the token of a node; the file's path.
    pub fn token(&self, node: &Node) -> Result<PathBuf, WorldError> {
        let file = node.directory().join("token");
        let out = file.to_string_lossy().into_owned();
        self.command(&["token", "--node", node.name(), "--out", &out])?;
        Ok(file)
    }

    /// Starts the node's agent; `install_chain` and `start_ztunnel` complete the node.
    pub fn start_agent(&self, node: &Node) -> Result<Process, WorldError> {
        let place = node.place().with_cgroup("agent")?;
        let process = place.start("agent", &self.agent_program(node)?)?;
        wait_agent(node, &process)?;
        Ok(process)
    }

    /// The command line of the node's agent, for callers that change it; it runs in the node's
    /// cgroup `agent`. See [`wait_agent`].
    pub fn agent_program(&self, node: &Node) -> Result<Program, WorldError> {
        let runtime = node.runtime()?;
        let bins = runtime.bin_dirs();
        let bins = bins
            .into_iter()
            .flat_map(|bin| ["--cni-bin-dir".into(), bin.into_os_string()]);
        let id = node.place().recorder.state().id;
        Ok(self
            .node_program(
                Program::new(self.binaries.path("culvert-cni")).arg("agent"),
                node,
            )?
            .args(["--control-plane", &self.url(), "--cni-socket"])
            .arg(agent_socket(node)?)
            .arg("--bpffs")
            .arg(node.bpffs())
            .arg("--cgroup-root")
            .arg(node.place().cgroup())
            .arg("--cni-conf-dir")
            .arg(runtime.conf_dir)
            .args(bins)
            .arg("--waypoint-dir")
            .arg(node.directory().join("waypoints"))
            .arg("--waypoint-log-dir")
            .arg(&node.place().logs)
            // The world ends what has its id in its name.
            .args(["--waypoint-netns-prefix", &format!("{id}-")]))
    }

    /// Starts the node's ztunnel with a back end; does not wait, since it may have to wait for
    /// the control plane: see [`wait_ztunnel`].
    pub fn start_ztunnel(
        &self,
        node: &Node,
        io: &str,
        more: &[&str],
    ) -> Result<Process, WorldError> {
        let binary = self.binaries.path("ztunnel");
        let program = self.ztunnel_program(&binary, node, io)?;
        node.place()
            .with_cgroup("ztunnel")?
            .start("ztunnel", &program.args(more.iter().copied()))
    }

    /// The command line of the node's ztunnel, for callers that change it, or its file; it runs in
    /// the node's cgroup `ztunnel`.
    pub fn ztunnel_program(
        &self,
        binary: &Path,
        node: &Node,
        io: &str,
    ) -> Result<Program, WorldError> {
        Ok(self.node_program(Program::new(binary), node)?.args([
            "--xds-address",
            &self.url(),
            "--ca-address",
            &self.url(),
            "--io",
            io,
        ]))
    }

    /// Chains our plugin after those of the node's CNI configuration, by its own command.
    pub fn install_chain(&self, node: &Node) -> Result<(), WorldError> {
        let runtime = node.runtime()?;
        let program = Program::new(self.binaries.path("culvert-cni"))
            .args(["install", "--conf-dir"])
            .arg(runtime.conf_dir)
            .arg("--bin-dir")
            .arg(runtime.bin_dir)
            .arg("--agent-socket")
            .arg(agent_socket(node)?);
        node.run(&program)?.success()?;
        Ok(())
    }

    /// A command of culvert-cni to the node's agent about a pod: `enrol`, `unenrol`.
    pub fn agent_command(&self, node: &Node, words: &[&str]) -> Result<String, WorldError> {
        let (verb, rest) = words.split_first().unwrap_or((&"status", &[]));
        let program = Program::new(self.binaries.path("culvert-cni"))
            .arg(*verb)
            .arg("--socket")
            .arg(agent_socket(node)?)
            .args(rest.iter().copied());
        node.place().text(&program)
    }

    /// Starts a waypoint by hand in a pod of its node: the one of the Gateway `namespace/name` in
    /// the pod's namespace, under the service account of the Gateway's name. Does not wait: see
    /// [`wait_waypoint`].
    pub fn start_waypoint(
        &self,
        node: &Node,
        pod: &Pod,
        gateway: &str,
        flags: &[&str],
    ) -> Result<Process, WorldError> {
        let PodName { namespace, name } = pod.name();
        let program = Program::new(self.binaries.path("waypoint"))
            .args(["--gateway", &format!("{namespace}/{gateway}")])
            .args(["--pod-name", name, "--pod-namespace", namespace])
            .args(["--service-account", gateway, "--pod-uid", pod.uid()])
            .args(["--xds-address", &self.url(), "--ca-address", &self.url()])
            .args(flags.iter().copied());
        pod.start("waypoint", &self.credentials(program, node)?)
    }

    fn node_program(&self, program: Program, node: &Node) -> Result<Program, WorldError> {
        let program = self.credentials(program, node)?;
        Ok(program.arg("--zds-socket").arg(socket(node, "zds")?))
    }

    /// With what a process of a node shows the control plane.
    fn credentials(&self, program: Program, node: &Node) -> Result<Program, WorldError> {
        let token = node.directory().join("token");
        if !token.exists() {
            self.token(node)?;
        }
        Ok(program
            .args(["--node-name", node.name(), "--root-cert"])
            .arg(self.root_certificate())
            .arg("--token-file")
            .arg(token))
    }

    fn command(&self, words: &[&str]) -> Result<(), WorldError> {
        let (verb, rest) = words.split_first().unwrap_or((&"init", &[]));
        let program = Program::new(self.binaries.path("culvertd"))
            .arg(*verb)
            .arg("--state")
            .arg(&self.state)
            .args(rest.iter().copied());
        self.host.place().run(&program)?.success()?;
        Ok(())
    }
}

/// Waits until a started ztunnel is ready.
pub fn wait_ztunnel(node: &Node, process: &Process) -> Result<(), WorldError> {
    wait_ready(process, node.place(), ZTUNNEL_READY)
}

/// Waits until a started waypoint is ready.
pub fn wait_waypoint(pod: &Pod, process: &Process) -> Result<(), WorldError> {
    wait_ready(process, pod.place(), WAYPOINT_READY)
}

/// Waits until a started agent is ready.
pub fn wait_agent(node: &Node, process: &Process) -> Result<(), WorldError> {
    wait_ready(process, node.place(), AGENT_READY)
}

/// The socket that the plugin calls the agent on.
pub fn agent_socket(node: &Node) -> Result<PathBuf, WorldError> {
    socket(node, "cni")
}

/// `GET` inside a place, by curl; the body when the status is below 400.
pub fn get(place: &Place, url: &str) -> Result<String, WorldError> {
    place.text(&Program::line("curl -sS -f --max-time 5").arg(url))
}

/// A socket's path in a directory of its own with mode 0700.
fn socket(node: &Node, name: &str) -> Result<PathBuf, WorldError> {
    let directory = node.directory().join(name);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(WorldError::io(format!("make {}", directory.display())))?;
    Ok(directory.join(format!("{name}.sock")))
}

fn wait_ready(process: &Process, place: &Place, url: &str) -> Result<(), WorldError> {
    let what = format!("{} to be ready ({url})", process.name());
    process.wait_until(&what, READY_WITHIN, || get(place, url).ok().map(drop))
}
