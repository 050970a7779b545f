//! A mesh of culvert: two nodes, an enrolled pair of pods, one ztunnel build on one back end.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::process::Command;

use anyhow::Context;
use world::stack::{Binaries, ControlPlane, wait_ztunnel};
use world::{Node, Process, Program, World};

use super::pair::{Pair, nodes};
use super::{ECHO_PORT, Path};
use crate::peers::certificates::Certificates;
use crate::tools::Target;

/// Where ztunnel terminates HBONE for the pods of its node.
const HBONE_PORT: u16 = 15008;
/// Namespace `mesh` is enrolled.
const MANIFESTS: &str = include_str!("../bed.yaml");

/// A standing mesh. Dropping it ends its processes and removes its world.
pub(super) struct Culvert {
    // In the order of dropping: what runs in the world goes before the world.
    pair: Pair,
    proxies: Vec<Process>,
    _others: Vec<Process>,
    nodes: [Node; 2],
    /// Of the client pod, for tunnels that its ztunnel does not make.
    certificates: PathBuf,
    _world: World,
}

/// Name of the path, binary and back end: each binary with each back end it has.
pub(crate) fn variants(
    ztunnels: &[(String, PathBuf)],
) -> anyhow::Result<Vec<(String, PathBuf, String)>> {
    let mut variants = Vec::new();
    for (name, binary) in self::ztunnels(ztunnels)? {
        for io in back_ends(&binary)? {
            let path = match name.as_str() {
                "" => format!("culvert/{io}"),
                name => format!("culvert/{name}/{io}"),
            };
            variants.push((path, binary.clone(), io));
        }
    }
    Ok(variants)
}

/// Those that were named, else the one of this build without a name.
pub(crate) fn ztunnels(named: &[(String, PathBuf)]) -> anyhow::Result<Vec<(String, PathBuf)>> {
    if named.is_empty() {
        let own = Binaries::of_this_build()?.path("ztunnel");
        return Ok(vec![(String::new(), own)]);
    }
    Ok(named.to_vec())
}

/// The values of its flag `--io` but `auto`, from its own help.
fn back_ends(binary: &FilePath) -> anyhow::Result<Vec<String>> {
    let output = Command::new(binary).arg("-h").output();
    let output = output.with_context(|| format!("{} -h", binary.display()))?;
    let help = String::from_utf8_lossy(&output.stdout);
    let back_ends = values_of_io(&help);
    anyhow::ensure!(
        !back_ends.is_empty(),
        "{} -h names no back end:\n{help}",
        binary.display()
    );
    Ok(back_ends)
}

fn values_of_io(help: &str) -> Vec<String> {
    let after = help.split_once("--io ").map_or("", |(_, after)| after);
    let values = after.split_once("[possible values: ");
    let values = values.and_then(|(_, values)| values.split_once(']'));
    let values = values.map_or("", |(values, _)| values);
    values
        .split(',')
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty() && value != "auto")
        .collect()
}

impl Culvert {
    pub(super) fn new(ztunnel: &FilePath, io: &str, log: &str) -> anyhow::Result<Self> {
        let mut world = World::new()?;
        let manifests = world.directory().join("manifests");
        fs::create_dir_all(&manifests)?;
        fs::write(manifests.join("bed.yaml"), MANIFESTS)?;
        let binaries = Binaries::of_this_build()?;
        let control = ControlPlane::prepare(&world.host("control")?, &binaries)?;
        let mut others = vec![control.serve(&manifests, &[])?];
        let mut proxies = Vec::new();
        let nodes = nodes(&mut world)?;
        for node in &nodes {
            others.push(control.start_agent(node)?);
            control.install_chain(node)?;
            let program = program(&control, ztunnel, node).args(["--io", io, "--log", log]);
            let place = node.place().with_cgroup("ztunnel")?;
            let proxy = place.start("ztunnel", &program)?;
            wait_ztunnel(node, &proxy)?;
            proxies.push(proxy);
        }
        let certificates = world.directory().join("certificates");
        let state = control.root_certificate();
        let state = state.parent().unwrap_or(&state);
        Certificates::of_the_mesh(
            state,
            "spiffe://cluster.local/ns/mesh/sa/client",
            &certificates,
        )?;
        Ok(Culvert {
            pair: Pair::new(&nodes, "mesh", &world)?,
            certificates,
            proxies,
            _others: others,
            nodes,
            _world: world,
        })
    }

    pub(super) fn path(&self, name: &str) -> Path {
        let proxies = self.proxies.iter().map(Process::pid).collect();
        let server = self.pair.address();
        Path {
            tunnels: Some(Target {
                peer: SocketAddr::new(server, HBONE_PORT),
                authority: SocketAddr::new(server, ECHO_PORT),
                certificates: self.certificates.clone(),
            }),
            counted_by: self.nodes.iter().map(|node| node.place().clone()).collect(),
            ..self.pair.path(name, proxies)
        }
    }
}

/// A ztunnel that may be of another build; the agent of the node has made token and socket.
pub(super) fn program(control: &ControlPlane, ztunnel: &FilePath, node: &Node) -> Program {
    let url = control.url();
    Program::new(ztunnel)
        .args(["--node-name", node.name()])
        .args(["--xds-address", &url, "--ca-address", &url])
        .arg("--root-cert")
        .arg(control.root_certificate())
        .arg("--token-file")
        .arg(node.directory().join("token"))
        .arg("--zds-socket")
        .arg(node.directory().join("zds/zds.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_ends_are_read_from_the_help() {
        let help = "  --log <LOG>  x [possible values: a]\n      --io <IO>\n  I/O back end \
                    [default: auto] [possible values: auto, io_uring, epoll]\n";
        assert_eq!(values_of_io(help), ["io_uring", "epoll"]);
        assert!(values_of_io("no such flag").is_empty());
    }
}
