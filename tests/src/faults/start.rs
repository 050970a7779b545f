//! Starting and ending the processes of a bed, as a scenario wants them.

use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use world::stack::{Binaries, ControlPlane, wait_ztunnel};
use world::{Node, Process, Program};

use super::{Bed, Part};

/// A process that was told to end has ended within this.
const GONE_WITHIN: Duration = Duration::from_secs(90);

/// How a process is started, other than by default.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Where a ztunnel finds discovery and CA. Default: culvertd.
    pub url: Option<String>,
    /// Environment, beyond the inherited one.
    pub env: Vec<(String, String)>,
    /// Arguments after ours.
    pub flags: Vec<String>,
    /// Words before the program, as `prlimit --nofile=64:64`.
    pub wrap: Vec<String>,
}

impl Start {
    /// With these arguments after ours.
    pub fn flags(words: &str) -> Self {
        Start {
            flags: words.split_whitespace().map(str::to_owned).collect(),
            ..Start::default()
        }
    }

    fn program(&self, binaries: &Binaries, name: &str) -> Program {
        let path = binaries.path(name).into_os_string();
        let mut words = self.wrap.iter().map(Into::into).chain([path]);
        let first = words.next().unwrap_or_default();
        let program = Program::new(first).args(words);
        let env = self.env.iter();
        env.fold(program, |program, (key, value)| program.env(key, value))
    }
}

/// The command line of a node's ztunnel.
pub(super) fn ztunnel(
    binaries: &Binaries,
    (control, node): (&ControlPlane, &Node),
    start: &Start,
) -> anyhow::Result<Program> {
    let url = start.url.clone().unwrap_or_else(|| control.url());
    // The agent was started before: it made the directory and the token.
    Ok(start
        .program(binaries, "ztunnel")
        .args(["--node-name", node.name(), "--root-cert"])
        .arg(control.root_certificate())
        .arg("--token-file")
        .arg(node.directory().join("token"))
        .arg("--zds-socket")
        .arg(node.directory().join("zds/zds.sock"))
        .args(["--xds-address", &url, "--ca-address", &url])
        .args(start.flags.iter().cloned()))
}

pub(super) fn in_its_cgroup(node: &Node, program: &Program) -> anyhow::Result<Process> {
    let place = node.place().with_cgroup("ztunnel")?;
    Ok(place.start("ztunnel", program)?)
}

pub(super) fn ready(part: &Part) -> anyhow::Result<()> {
    let ztunnel = part.ztunnel.as_ref().context("no ztunnel runs")?;
    Ok(wait_ztunnel(&part.node, ztunnel)?)
}

impl Bed {
    /// Starts the control plane and waits until it is ready; what `start` says is after our flags.
    pub fn start_culvertd(&mut self, start: &Start) -> anyhow::Result<()> {
        self.launch_culvertd(start)?;
        let culvertd = self.culvertd.as_ref().context("just started")?;
        let what = "culvertd to be ready";
        culvertd.wait_until(what, GONE_WITHIN, || {
            (self.culvertd_readiness().0 == 200).then_some(())
        })?;
        Ok(())
    }

    /// Starts the control plane, which may refuse to serve.
    pub fn launch_culvertd(&mut self, start: &Start) -> anyhow::Result<()> {
        let host = self.control.host();
        let address = host.ipv4().to_string();
        let listen = format!("{address}:15012");
        let state = self.control.root_certificate();
        let state = state.parent().context("the bundle is in the state")?;
        let program = start
            .program(&self.binaries, "culvertd")
            .args(["serve", "--manifests"])
            .arg(self.manifests.directory())
            .arg("--state")
            .arg(state)
            .args(["--listen", &listen, "--server-name", &address])
            .args(start.flags.iter().cloned());
        self.culvertd = Some(host.place().start("culvertd", &program)?);
        Ok(())
    }

    /// Ends the control plane by a signal.
    pub fn end_culvertd(&mut self, signal: Signal) -> anyhow::Result<()> {
        end(self.culvertd.take(), signal)
    }

    /// Starts a node's proxy, which may not become ready; the one before has ended.
    pub fn launch_ztunnel(&mut self, node: usize, start: &Start) -> anyhow::Result<()> {
        let part = &mut self.parts[node];
        let program = ztunnel(&self.binaries, (&self.control, &part.node), start)?;
        part.ztunnel = Some(in_its_cgroup(&part.node, &program)?);
        Ok(())
    }

    /// Starts a node's proxy and waits until it is ready.
    pub fn start_ztunnel(&mut self, node: usize, start: &Start) -> anyhow::Result<()> {
        self.launch_ztunnel(node, start)?;
        self.wait_ready(node)
    }

    /// Waits until a node's proxy is ready.
    pub fn wait_ready(&self, node: usize) -> anyhow::Result<()> {
        ready(&self.parts[node])
    }

    /// Ends a node's proxy by a signal.
    pub fn end_ztunnel(&mut self, node: usize, signal: Signal) -> anyhow::Result<()> {
        end(self.parts[node].ztunnel.take(), signal)
    }

    /// Starts a node's agent and waits until it is ready.
    pub fn start_agent(&mut self, node: usize) -> anyhow::Result<()> {
        let part = &mut self.parts[node];
        part.agent = Some(self.control.start_agent(&part.node)?);
        Ok(())
    }

    /// Ends a node's agent by a signal.
    pub fn end_agent(&mut self, node: usize, signal: Signal) -> anyhow::Result<()> {
        end(self.parts[node].agent.take(), signal)
    }
}

fn end(process: Option<Process>, signal: Signal) -> anyhow::Result<()> {
    let process = process.context("it does not run")?;
    process.signal(signal)?;
    process.wait_end(GONE_WITHIN)?;
    Ok(())
}
