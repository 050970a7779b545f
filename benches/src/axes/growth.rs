//! What a connection and a byte cost while many others are open: it must stay flat.

use std::time::Duration;

use world::{Process, Program};

use super::{SLACK, bulk, cold, connections};
use crate::bed::{ECHO_PORT, ECHO_PORTS, Path};
use crate::figures::Figures;

/// At the same time, while their cost is measured.
const FRESH: u32 = 16;
const STREAMS: u32 = 4;

/// What is held open meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Held {
    Connections(usize),
    Tunnels(usize),
}

pub(super) fn run(path: &Path, held: Held, length: Duration) -> anyhow::Result<Figures> {
    let holder = match held {
        Held::Connections(count) => hold(path, count)?,
        Held::Tunnels(count) => hold_tunnels(path, count)?,
    };
    wait(&holder, "open")?;
    let mut all = Figures::new();
    let parts = [
        ("connection", connections::run(path, FRESH, length)?),
        ("bulk", bulk::run(path, (STREAMS, false), length)?),
    ];
    for (part, figures) in parts {
        let cpu = figures
            .into_iter()
            .filter(|(name, _)| name.starts_with("proxy_cpu"));
        all.extend(cpu.map(|(name, value)| (format!("{name}_{part}"), value)));
    }
    Ok(all)
}

/// Holds idle connections over several ports; see [`wait`].
pub(super) fn hold(path: &Path, connections: usize) -> anyhow::Result<Process> {
    let ports = (0..ECHO_PORTS).map(|index| ECHO_PORT + index);
    let program = Program::new(std::env::current_exe()?)
        .args(["load", "hold", &connections.to_string()])
        .args(ports.map(|port| path.address(port).to_string()));
    let name = name(path, &format!("hold-{connections}"));
    Ok(path.client.start(&name, &program)?)
}

/// Holds idle tunnels to the terminating proxy.
pub(super) fn hold_tunnels(path: &Path, tunnels: usize) -> anyhow::Result<Process> {
    let program = cold::program(path, "hold-tunnels", &[tunnels.to_string()])?;
    Ok(path.outside.start(&name(path, "hold-tunnels"), &program)?)
}

/// Paths share pods, and a name is that of a log.
fn name(path: &Path, what: &str) -> String {
    format!("{what}-{}", path.name.replace('/', "-"))
}

/// Waits until a holder says so.
pub(super) fn wait(holder: &Process, word: &str) -> anyhow::Result<()> {
    holder.wait_for_line(&[word], SLACK)?;
    Ok(())
}
