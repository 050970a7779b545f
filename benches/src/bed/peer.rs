//! Starts the two proxies of a peer: near one in the client's pod, far one in the server's, where
//! ztunnel's sockets are too.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path as FilePath;

use world::{Process, Program};

use super::pair::{Pair, answers};
use super::{ECHO_PORT, HTTP_PORT, Options, Path, near_port, server_ports};
use crate::peers::certificates::Certificates;
use crate::peers::{Forward, WORKERS, envoy};
use crate::tools::Target;

/// Which peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Relay,
    Baseline,
    Envoy,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Relay => "relay",
            Kind::Baseline => "baseline",
            Kind::Envoy => "envoy",
        }
    }

    /// First port of the near proxy, and of the far one in its pod: of each peer its own, outside
    /// of the ephemeral ports.
    fn first_port(self) -> u16 {
        match self {
            Kind::Relay => 20_000,
            Kind::Baseline => 20_100,
            Kind::Envoy => 20_200,
        }
    }
}

/// What both proxies are told.
struct Plan {
    /// From the near proxy's ports to the servers.
    forwards: Vec<Forward>,
    /// Where the far proxy takes tunnels.
    tunnels: SocketAddr,
    certificates: Certificates,
}

/// Starts both and waits until a request comes through.
pub(super) fn start(
    kind: Kind,
    pair: &Pair,
    files: &FilePath,
    options: &Options,
) -> anyhow::Result<(Path, Vec<Process>)> {
    let first = kind.first_port();
    let server = pair.address();
    let directory = files.join(kind.name());
    let local = IpAddr::from(Ipv4Addr::LOCALHOST);
    let forwards = server_ports().into_iter().map(|port| Forward {
        listen: SocketAddr::new(local, near_port(first, port)),
        to: SocketAddr::new(server, port),
    });
    let plan = Plan {
        forwards: forwards.collect(),
        tunnels: SocketAddr::new(server, first),
        certificates: Certificates::make(&directory)?,
    };
    let (near, far) = match kind {
        Kind::Relay => relays(&plan)?,
        Kind::Baseline => baselines(&plan)?,
        Kind::Envoy => envoys(&plan, &directory, options)?,
    };
    let far = pair.server.start(&format!("{}-far", kind.name()), &far)?;
    let near = pair.client.start(&format!("{}-near", kind.name()), &near)?;
    let target = Target {
        peer: plan.tunnels,
        authority: SocketAddr::new(server, ECHO_PORT),
        certificates: directory,
    };
    let path = Path {
        near: Some(first),
        tunnels: (kind != Kind::Relay).then_some(target),
        ..pair.path(kind.name(), vec![near.pid(), far.pid()])
    };
    answers(pair.client.place(), &near, path.address(HTTP_PORT))?;
    Ok((path, vec![near, far]))
}

fn relays(plan: &Plan) -> anyhow::Result<(Program, Program)> {
    let far_port = |forward: &Forward| SocketAddr::new(plan.tunnels.ip(), forward.listen.port());
    let relay = Program::new(std::env::current_exe()?).arg("relay");
    let near = plan.forwards.iter();
    let near = near.map(|forward| format!("{}={}", forward.listen, far_port(forward)));
    let far = plan.forwards.iter();
    let far = far.map(|forward| format!("{}={}", far_port(forward), forward.to));
    Ok((relay.clone().args(near), relay.args(far)))
}

fn baselines(plan: &Plan) -> anyhow::Result<(Program, Program)> {
    let directory = plan.certificates.directory();
    let tunnels = plan.tunnels.to_string();
    let program = |verb| {
        let program = Program::new(std::env::current_exe()?).arg(verb);
        anyhow::Ok(program.arg(&tunnels).arg(directory))
    };
    let forwards = plan.forwards.iter();
    let forwards = forwards.map(|forward| format!("{}={}", forward.listen, forward.to));
    Ok((
        program("baseline-near")?.args(forwards),
        program("baseline-far")?,
    ))
}

fn envoys(
    plan: &Plan,
    directory: &FilePath,
    options: &Options,
) -> anyhow::Result<(Program, Program)> {
    let binary = envoy::install(&options.envoy)?;
    let targets: Vec<_> = plan.forwards.iter().map(|forward| forward.to).collect();
    let near = envoy::near(&plan.forwards, plan.tunnels, &plan.certificates);
    let far = envoy::far(plan.tunnels, &targets, &plan.certificates);
    let program = |name: &str, config: serde_json::Value| {
        let file = directory.join(format!("{name}.json"));
        fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
        anyhow::Ok(
            Program::new(&binary)
                .args(["--concurrency", &WORKERS.to_string()])
                .args(["--disable-hot-restart", "--log-level", "error", "-c"])
                .arg(file),
        )
    };
    Ok((program("near", near)?, program("far", far)?))
}
