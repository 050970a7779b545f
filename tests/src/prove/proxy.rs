//! The proxies of a bed: started, replaced in every way that there is, killed.
//!
//! It must not know what they carry meanwhile.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use cli::demo::mesh::Mesh;
use nix::sys::signal::Signal;
use serde::Serialize;
use world::stack::{Binaries, READY_WITHIN, get};
use world::{Process, Program};

use super::bed::{Bed, GONE_WITHIN};

/// A proxy whose connections have ended ends within this.
const DRAINED_WITHIN: Duration = Duration::from_secs(180);
/// Longer than any proof: connections of a replaced proxy are never cut.
const DRAIN: &str = "1h";
/// Tunnels without streams end after this, so that their sockets are not taken for leaked ones.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(10);
/// Each proxy has ports of its own while two run, for readiness and metrics, from here.
const FIRST_PORT: u16 = 16_000;
/// Proxies with ports of their own; older ones have ended when the numbers begin again.
const PORT_PAIRS: u16 = 1_000;
/// Says also when a peer's tunnel takes no new streams.
const LOG: &str = "info,carrier::tunnel=debug";
/// A proxy's log says this when a peer sent GOAWAY.
const GOAWAY: &str = "tunnel takes no new streams";
/// Added to the program: other bytes, the same behaviour.
const ANOTHER_VERSION: &[u8] = b"\0another version";

/// What is different about the next proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Nothing.
    Nothing,
    /// Another file with other bytes.
    Binary,
    /// Other flags: another back end, another number of workers.
    Flags,
}

/// How one proxy makes way for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The next one asks for snapshot and certificates, and tells the first to stop.
    Handover,
    /// The next one starts with nothing; SIGTERM tells the first to stop.
    Signal,
}

/// One replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Index of the node.
    pub node: usize,
    /// What is different.
    pub change: Change,
    /// How.
    pub way: Way,
}

impl Swap {
    /// By the handover socket.
    pub const fn by_handover(node: usize, change: Change) -> Self {
        let way = Way::Handover;
        Swap { node, change, way }
    }

    /// Without it.
    pub const fn by_signal(node: usize) -> Self {
        Swap {
            node,
            change: Change::Nothing,
            way: Way::Signal,
        }
    }
}

/// What was started so far.
#[derive(Debug, Default)]
pub struct Started {
    proxies: u16,
    /// By node: which handover socket its proxies meet at. Another one is none to the next.
    sockets: [u16; 2],
}

/// A proxy that may not be ready yet.
pub struct Begun {
    /// The process.
    pub process: Process,
    node: usize,
    ready: String,
}

impl Bed {
    /// SIGKILL to a node's proxy; nothing is started.
    pub fn kill_proxy(&self, node: usize) -> anyhow::Result<()> {
        let ztunnel = &self.mesh.nodes[node].ztunnel;
        ztunnel.signal(Signal::SIGKILL)?;
        ztunnel.wait_end(GONE_WITHIN)?;
        Ok(())
    }

    /// Starts a proxy beside or after the node's; does not wait.
    pub fn begin_proxy(&mut self, node: usize, change: Change) -> anyhow::Result<Begun> {
        let port = FIRST_PORT + 2 * (self.started.proxies % PORT_PAIRS);
        self.started.proxies = self.started.proxies.wrapping_add(1);
        // The admin address stays: it can be shared, and `tunnelled` asks there.
        let [ready, metrics] = [port, port + 1].map(|port| format!("127.0.0.1:{port}"));
        let binary = match change {
            Change::Binary => self.other_binary()?,
            _ => Binaries::of_this_build()?.path("ztunnel"),
        };
        let (io, workers) = match change {
            Change::Flags => ("io_uring", "1"),
            _ => ("auto", "2"),
        };
        let Mesh { nodes, control, .. } = &self.mesh;
        let part = &nodes[node];
        let program = control
            .ztunnel_program(&binary, &part.node, io)?
            .args(["--workers", workers, "--log", LOG])
            .arg("--tunnel-idle")
            .arg(format!("{}s", TUNNEL_IDLE.as_secs()))
            .args(["--ready-addr", &ready, "--metrics-addr", &metrics])
            .arg("--handover-socket")
            .arg(self.handover_socket(node))
            // What SIGTERM leaves to live connections; after a handover it is 1 h anyway.
            .env("CONNECTION_TERMINATION_DEADLINE", DRAIN);
        let place = part.node.place().with_cgroup("ztunnel")?;
        Ok(Begun {
            process: place.start("ztunnel", &program)?,
            node,
            ready: format!("http://{ready}/healthz/ready"),
        })
    }

    /// Waits until a proxy is ready, and makes it the node's; gives the one before.
    pub fn settle_proxy(&mut self, begun: Begun) -> anyhow::Result<Process> {
        let part = &mut self.mesh.nodes[begun.node];
        let what = "the next proxy to be ready";
        begun.process.wait_until(what, READY_WITHIN, || {
            get(part.node.place(), &begun.ready).ok().map(drop)
        })?;
        Ok(std::mem::replace(&mut part.ztunnel, begun.process))
    }

    /// Starts a proxy after the node's was killed; returns when it is ready.
    pub fn start_proxy(&mut self, node: usize) -> anyhow::Result<()> {
        let begun = self.begin_proxy(node, Change::Nothing)?;
        self.settle_proxy(begun).map(drop)
    }

    /// What the readiness page says: status and text. None while nobody answers.
    pub fn readiness(&self, begun: &Begun) -> anyhow::Result<Option<(u16, String)>> {
        let program = Program::line("curl -sS --max-time 5 -w \n%{http_code}").arg(&begun.ready);
        let output = self.mesh.nodes[begun.node].node.run(&program)?;
        if !output.ok() {
            return Ok(None);
        }
        let page = output.text();
        let (text, status) = page.rsplit_once('\n').context("a page without a status")?;
        Ok(Some((status.trim().parse()?, text.trim().to_owned())))
    }

    /// Replaces a node's proxy; the one before drains. When this returns it accepts no more.
    pub fn swap(&mut self, swap: Swap) -> anyhow::Result<()> {
        if swap.way == Way::Signal {
            // Nobody is met there.
            self.started.sockets[swap.node] += 1;
        }
        let begun = self.begin_proxy(swap.node, swap.change)?;
        let old = self.settle_proxy(begun)?;
        match swap.way {
            Way::Signal => old.signal(Signal::SIGTERM)?,
            Way::Handover => {
                let new = &self.mesh.nodes[swap.node].ztunnel;
                let stopped = ["the predecessor has stopped to accept"];
                new.wait_for_line(&stopped, READY_WITHIN)?;
            }
        }
        self.draining.push(old);
        Ok(())
    }

    /// Waits until all replaced proxies have ended by themselves, with code 0.
    pub fn drained(&mut self) -> anyhow::Result<usize> {
        let mut count = 0;
        for old in std::mem::take(&mut self.draining) {
            let status = old.wait_end(DRAINED_WITHIN);
            let status = status.with_context(|| format!("{} drains", old.pid()))?;
            ensure!(status.success(), "a replaced proxy ended with {status}");
            count += 1;
        }
        Ok(count)
    }

    /// How often the proxy of a node has logged that a peer's tunnel takes no new streams.
    pub fn goaways(&self, node: usize) -> usize {
        self.mesh.nodes[node].ztunnel.log().matches(GOAWAY).count()
    }

    fn handover_socket(&self, node: usize) -> PathBuf {
        let directory = self.mesh.nodes[node].node.directory().join("handover");
        directory.join(format!("{}.sock", self.started.sockets[node]))
    }

    /// A copy of the program with other bytes under another path, as an upgrade brings it.
    fn other_binary(&self) -> anyhow::Result<PathBuf> {
        // The same name: a proxy's cgroup is one of programs of its name.
        let directory = self.mesh.world.directory().join("next");
        let path = directory.join("ztunnel");
        if !path.exists() {
            fs::create_dir_all(&directory)?;
            fs::copy(Binaries::of_this_build()?.path("ztunnel"), &path)?;
            let mut file = fs::OpenOptions::new().append(true).open(&path)?;
            file.write_all(ANOTHER_VERSION)?;
        }
        Ok(path)
    }
}
