//! The test bed: one world without a mesh for `direct` and the peers, one with culvert for each
//! ztunnel and back end. All worlds are alike and stand at the same time, so that rounds
//! interleave.
//!
//! It must not know what is measured.

mod crowd;
mod culvert;
mod pair;
mod peer;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use world::{Place, Process, World};

pub(crate) use crowd::Crowd;
use culvert::Culvert;
pub(crate) use culvert::{variants, ztunnels};
use pair::Pair;
pub(crate) use pair::{answers, nodes, pod};

use crate::tools::Target;

/// Port of iperf3 in the server pods.
pub(crate) const IPERF_PORT: u16 = 5201;
/// Port of nginx in the server pods.
pub(crate) const HTTP_PORT: u16 = 8080;
/// First port of the echo server.
pub(crate) const ECHO_PORT: u16 = 9000;
/// Ports of the echo server: a pair of addresses has 4,535 source ports towards one of them.
pub(crate) const ECHO_PORTS: u16 = 8;

/// The way of a load from a client in a pod to a server in a pod on another node.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// `direct`, `relay`, `culvert/epoll`, ...
    pub(crate) name: String,
    /// Where load programs run.
    pub(crate) client: Place,
    /// The servers themselves.
    server: IpAddr,
    /// First port of the near proxy, when a load connects to that.
    near: Option<u16>,
    /// The proxies: near, far.
    pub(crate) proxies: Vec<i32>,
    /// Where a program runs that must not be captured.
    pub(crate) outside: Place,
    /// How tunnels are made to the terminating proxy.
    pub(crate) tunnels: Option<Target>,
    /// Nodes whose ztunnels count the connections; of culvert alone.
    pub(crate) counted_by: Vec<Place>,
}

impl Path {
    /// The same for a load that the originating proxy does not see: nobody counts it.
    pub(crate) fn alone(&self) -> Path {
        Path {
            counted_by: Vec::new(),
            ..self.clone()
        }
    }

    /// The way to a service of a mesh; places: where loads run, where nothing is captured.
    pub(crate) fn to_service(name: &str, [client, outside]: [&Place; 2], service: IpAddr) -> Path {
        Path {
            name: name.to_owned(),
            client: client.clone(),
            server: service,
            near: None,
            proxies: Vec::new(),
            outside: outside.clone(),
            tunnels: None,
            counted_by: Vec::new(),
        }
    }

    /// Where a load reaches the server port `port` on this path.
    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        match self.near {
            Some(first) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), near_port(first, port)),
            None => SocketAddr::new(self.server, port),
        }
    }
}

/// All ports of the servers.
fn server_ports() -> Vec<u16> {
    let echo = (0..ECHO_PORTS).map(|index| ECHO_PORT + index);
    [IPERF_PORT, HTTP_PORT].into_iter().chain(echo).collect()
}

/// Where the near proxy takes connections for a server port.
fn near_port(first: u16, port: u16) -> u16 {
    let index = server_ports().iter().position(|p| *p == port);
    first + u16::try_from(index.unwrap_or_default()).expect("there are ten ports")
}

/// What the bed is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of the paths that are wanted; all when empty. `culvert` means all of its own.
    pub paths: Vec<String>,
    /// ztunnel binaries by name; the one of this build, named "", when empty.
    pub ztunnels: Vec<(String, PathBuf)>,
    /// Log level of ztunnel.
    pub log: String,
    /// Where Envoy is installed.
    pub envoy: PathBuf,
}

impl Options {
    pub(crate) fn wants(&self, path: &str) -> bool {
        let family = path.split('/').next().unwrap_or(path);
        self.paths.is_empty() || self.paths.iter().any(|p| p == path || p == family)
    }
}

/// The whole bed. Dropping it ends all processes and removes the worlds.
pub struct Bed {
    paths: Vec<Path>,
    /// Paths that could not be made, and why.
    failed: Vec<(String, String)>,
    // In the order of dropping: what runs in a world goes before the world.
    _peers: Vec<Process>,
    _culverts: Vec<Culvert>,
    _pair: Pair,
    _world: World,
}

impl Bed {
    /// Brings it up.
    ///
    /// # Errors
    /// When the direct path cannot be made; a peer or a culvert that does not start is a failed
    /// path instead.
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        let mut world = World::new()?;
        let nodes = nodes(&mut world)?;
        let pair = Pair::new(&nodes, "plain", &world)?;
        let direct = pair.path("direct", Vec::new());
        let mut bed = Bed {
            paths: Vec::new(),
            failed: Vec::new(),
            _peers: Vec::new(),
            _culverts: Vec::new(),
            _pair: pair,
            _world: world,
        };
        bed.add("direct", options, |bed| {
            bed.paths.push(direct.clone());
            Ok(())
        });
        bed.add("relay", options, |bed| bed.peer(peer::Kind::Relay, options));
        for (name, binary, io) in variants(&options.ztunnels)? {
            bed.add(&name, options, |bed| {
                let culvert = Culvert::new(&binary, &io, &options.log)?;
                bed.paths.push(culvert.path(&name));
                bed._culverts.push(culvert);
                Ok(())
            });
        }
        bed.add("baseline", options, |bed| {
            bed.peer(peer::Kind::Baseline, options)
        });
        bed.add("envoy", options, |bed| bed.peer(peer::Kind::Envoy, options));
        anyhow::ensure!(
            !bed.paths.is_empty(),
            "no path of {:?} could be made: {:?}",
            options.paths,
            bed.failed
        );
        Ok(bed)
    }

    pub(crate) fn paths(&self) -> &[Path] {
        &self.paths
    }

    pub(crate) fn failed(&self) -> &[(String, String)] {
        &self.failed
    }

    fn add(
        &mut self,
        name: &str,
        options: &Options,
        make: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) {
        if !options.wants(name) {
            return;
        }
        if let Err(error) = make(self) {
            eprintln!("{name}: {error:#}");
            self.failed.push((name.to_owned(), format!("{error:#}")));
        }
    }

    fn peer(&mut self, kind: peer::Kind, options: &Options) -> anyhow::Result<()> {
        let (path, processes) = peer::start(kind, &self._pair, self._world.directory(), options)
            .with_context(|| format!("{kind:?} does not start"))?;
        self.paths.push(path);
        self._peers.extend(processes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_of_the_servers_has_one_at_the_near_proxy() {
        let mut near: Vec<_> = server_ports().iter().map(|p| near_port(100, *p)).collect();
        near.dedup();
        assert_eq!(near.len(), usize::from(ECHO_PORTS) + 2);
        assert_eq!(near_port(100, IPERF_PORT), 100);
    }

    #[test]
    fn culvert_means_all_of_its_paths() {
        let options = Options {
            paths: vec!["culvert".to_owned(), "relay".to_owned()],
            ztunnels: Vec::new(),
            log: String::new(),
            envoy: PathBuf::new(),
        };
        assert!(options.wants("culvert/epoll") && options.wants("relay"));
        assert!(!options.wants("direct"));
    }
}
