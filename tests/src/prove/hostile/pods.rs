//! Attacks from inside of an enrolled pod: on the proxy's listeners, on capture, on other pods and
//! on the node.

mod given;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use world::stack::{Binaries, agent_socket, get};
use world::{Process, Program};

use super::bed::{Bed, ECHO_PORT, at};
use super::{Attack, Plan, Run};
use crate::attack::Report;

/// How much the proxy may grow meanwhile, MiB.
const POD_MIB: f64 = 48.0;
/// First port of a scan.
const SCANNED: u16 = 20_000;
/// Ports that one process takes: below the descriptors that a process may have.
const HOARD: u16 = 16_128;
/// First port that a proxy may connect from.
const FIRST_PORT: u16 = 1024;
/// How long the proxy takes a search's word for it that all ports are taken (half a second), and a
/// little more.
const WORD_HOLDS: Duration = Duration::from_millis(700);
/// The mark that the proxy's own connections have, and that of captured ones (steering).
const MARKS: [u32; 2] = [0x539, 0x53a];
/// An address of nobody.
const FOREIGN: &str = "203.0.113.7";

/// Every attack of this module with its name.
pub const ALL: &[(&str, Run)] = &[
    ("connections to the proxy's listeners", own_listeners),
    ("marks of the proxy", marks),
    ("addresses of others", addresses_of_others),
    ("addresses that a pod gave itself", given::addresses),
    ("all source ports taken", source_ports),
    ("scan of a pod's ports through the mesh", scan),
    ("ports of the node", ports_of_the_node),
    ("readiness held by idle connections", readiness),
    ("the agent's sockets", agents_sockets),
];

/// Dials, and counts what became of each.
fn dial(bed: &Bed, words: &[&str]) -> Program {
    bed.attacker().arg("dial").args(words.iter().copied())
}

/// The listeners are bound to loopback in the pod: a connection to one of them is reset, and
/// leads nowhere.
fn own_listeners(bed: &Bed, _: &Plan, name: &str) -> anyhow::Result<Attack> {
    let pod = &bed.mallory;
    let sockets = pod.place().text(&Program::line("ss -Hltn"))?;
    let local = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    let listeners: Vec<String> = local
        .filter(|local| local.starts_with("127.0.0.1:") || local.starts_with("[::1]:"))
        .map(str::to_owned)
        .collect();
    anyhow::ensure!(listeners.len() >= 6, "the listeners of the pod: {sockets}");
    // The proxy says the same at most 100 times in a second.
    let times = 96 / listeners.len();
    let count = listeners.len() * times;
    let program = dial(bed, &["--times", &times.to_string()]).args(listeners);
    let mark = bed.mark();
    let attack = || bed.run(pod.place(), &program);
    bed.under(name, POD_MIB, attack, |seen| {
        let mut wrong = only(seen, &["reset", "closed"]);
        let told = bed.records(mark, count, |record| {
            record
                .get("error")
                .contains("made to the proxy's own listener")
        });
        if told.len() != count {
            wrong.push(format!("{} of {count} refusals are in the log", told.len()));
        }
        wrong
    })
}

/// An application that marks its sockets as the proxy does is captured all the same.
fn marks(bed: &Bed, _: &Plan, name: &str) -> anyhow::Result<Attack> {
    let pod = &bed.mallory;
    let far = &bed.mesh.pods.web_v1;
    let to = [far.ipv4()?, far.ipv6()?].map(|ip| at(ip, ECHO_PORT).to_string());
    let mark = bed.mark();
    let mut told = Vec::new();
    let attack = || {
        let mut seen = Report::default();
        for value in MARKS {
            let program = dial(bed, &["--times", "20", "--mark", &value.to_string()]);
            let (report, lines) = bed.run_and_tell(pod.place(), &program.args(&to))?;
            seen.add(report);
            told.extend(lines);
        }
        Ok(seen)
    };
    let attack = bed.under(name, POD_MIB, attack, |seen| only(seen, &["echoed"]))?;
    let sources: Vec<&str> = told
        .iter()
        .filter_map(|line| line.strip_prefix("from "))
        .collect();
    let carried = bed.records(mark, sources.len(), |record| {
        let tunnelled = !record.get("dst.hbone_addr").is_empty();
        record.is_outbound() && tunnelled && sources.contains(&record.get("src.addr"))
    });
    let mut attack = attack;
    if sources.is_empty() || carried.len() != sources.len() {
        let (some, all) = (carried.len(), sources.len());
        attack.wrong.push(format!(
            "{some} of {all} connections went through the tunnel"
        ));
    }
    Ok(attack)
}

/// A pod that binds another's address, or nobody's, is refused.
fn addresses_of_others(bed: &Bed, _: &Plan, name: &str) -> anyhow::Result<Attack> {
    let pod = &bed.mallory;
    let (v4, v6) = (bed.neighbour.ipv4()?, bed.neighbour.ipv6()?);
    let far = &bed.mesh.pods.web_v1;
    let mark = bed.mark();
    let attack = || {
        let mut dials = Vec::new();
        for from in [v4, v6, FOREIGN.parse()?] {
            let to = if from.is_ipv4() {
                far.ipv4()?
            } else {
                far.ipv6()?
            };
            let words = ["--from", &from.to_string(), "--times", "25"];
            let program = dial(bed, &words).arg(at(to, ECHO_PORT).to_string());
            dials.push(bed.start(pod.place(), &program)?);
        }
        results(bed, &dials)
    };
    bed.under(name, POD_MIB, attack, |seen| {
        let mut wrong = only(seen, &["reset", "closed"]);
        let told = bed.records(mark, 75, |record| {
            record.get("error").contains("is not an address of the pod")
        });
        if told.len() != 75 {
            wrong.push(format!("{} of 75 refusals are in the log", told.len()));
        }
        wrong
    })
}

/// A pod that takes every port from which the proxy would connect to it in a client's name is not
/// reached by that client, and is when it lets go.
fn source_ports(bed: &Bed, _: &Plan, name: &str) -> anyhow::Result<Attack> {
    let (pod, client) = (&bed.mallory, &bed.mesh.pods.client);
    let server = at(pod.ipv4()?, ECHO_PORT).to_string();
    let holders = hoards(bed, client.ipv4()?)?;
    let mark = bed.mark();
    let program = dial(bed, &["--times", "60", &server]);
    let attack = || bed.run(client.place(), &program);
    let attack = bed.under(name, POD_MIB, attack, |seen| {
        let mut wrong = only(seen, &["reset", "closed"]);
        let told = bed.records(mark, 60, |record| {
            record.get("error").contains("source_ports_exhausted")
        });
        if told.len() != 60 {
            wrong.push(format!("{} of 60 refusals are in the log", told.len()));
        }
        wrong
    });
    for holder in &holders {
        holder.signal(Signal::SIGTERM)?;
        holder.wait_end(crate::attack::PATIENCE)?;
    }
    let mut attack = attack?;
    bed.mesh.world.interrupt().sleep(WORD_HOLDS)?;
    let later = bed.run(client.place(), &dial(bed, &["--times", "10", &server]))?;
    attack.wrong.extend(only(&later, &["echoed"]));
    Ok(attack)
}

/// Holders of every port above 1023 of an address, in the hostile pod.
fn hoards(bed: &Bed, address: IpAddr) -> anyhow::Result<Vec<Process>> {
    let mut holders = Vec::new();
    let mut from = FIRST_PORT;
    loop {
        let through = from.saturating_add(HOARD - 1);
        let [first, last] = [from, through].map(|port| port.to_string());
        let words = ["--from", &first, "--through", &last];
        let program = bed
            .attacker()
            .args(["hoard", "--address", &address.to_string()]);
        let holder = bed.start(bed.mallory.place(), &program.args(words))?;
        holder.wait_for_line(&["holding"], crate::attack::PATIENCE)?;
        holders.push(holder);
        match through.checked_add(1) {
            Some(next) => from = next,
            None => return Ok(holders),
        }
    }
}

/// Closed ports of another pod: each is refused, and nothing of it stays.
fn scan(bed: &Bed, plan: &Plan, name: &str) -> anyhow::Result<Attack> {
    let ports = format!(
        "{}:{SCANNED}-{}",
        bed.victim().ipv4()?,
        SCANNED + plan.ports - 1
    );
    let program = dial(bed, &["--lanes", "64", &ports]);
    let attack = || bed.run(bed.mallory.place(), &program);
    bed.under(name, POD_MIB, attack, |seen| {
        only(seen, &["reset", "closed", "refused"])
    })
}

/// What listens on the node's loopback is not reached from a pod, whichever way it is called.
fn ports_of_the_node(bed: &Bed, _: &Plan, name: &str) -> anyhow::Result<Attack> {
    let node = bed.node().node.place();
    let addresses = node.text(&Program::line("hostname -I"))?;
    let mut hosts: Vec<String> = addresses
        .split_whitespace()
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .map(|ip| at(ip, 0).to_string())
        .collect();
    hosts.extend(["127.0.0.1:0", "[::1]:0"].map(str::to_owned));
    anyhow::ensure!(hosts.len() > 3, "the node's addresses: {addresses}");
    // The proxy's admin port, the agent's and the control plane's readiness.
    let to = hosts.iter().flat_map(|host| {
        let host = host.trim_end_matches('0').to_owned();
        [15000, 15010, 15014].map(|port| format!("{host}{port}"))
    });
    let program = dial(bed, &["--times", "5"]).args(to);
    let attack = || bed.run(bed.mallory.place(), &program);
    bed.under(name, POD_MIB, attack, |seen| {
        only(seen, &["reset", "closed", "refused"])
    })
}

/// Idle connections of a pod to the proxy's readiness port do not keep the kubelet from it.
fn readiness(bed: &Bed, _: &Plan, name: &str) -> anyhow::Result<Attack> {
    let node = bed.node().node.place();
    let addresses = node.text(&Program::line("hostname -I"))?;
    let first = addresses.split_whitespace().next().context("an address")?;
    let to = format!("{first}:15021");
    let words = ["--lanes", "300", "--times", "300", "--within", "4000", &to];
    let program = dial(bed, &words);
    let mut ready = Vec::new();
    let attack = || {
        let attacker = bed.start(bed.mallory.place(), &program)?;
        for _ in 0..3 {
            bed.mesh.world.interrupt().sleep(Duration::from_secs(1))?;
            ready.push(get(node, "http://127.0.0.1:15021/healthz/ready").is_ok());
        }
        bed.result(&attacker)
    };
    let mut attack = bed.under(name, POD_MIB, attack, |_| Vec::new())?;
    if ready.contains(&false) {
        attack
            .wrong
            .push(format!("the node's own readiness probe: {ready:?}"));
    }
    Ok(attack)
}

/// The agent's sockets are root's: another user does not get in, not even where somebody has
/// loosened the modes; and none of them is in the abstract namespace, which pods would share.
fn agents_sockets(bed: &Bed, _: &Plan, name: &str) -> anyhow::Result<Attack> {
    let node = &bed.node().node;
    let cni = agent_socket(node)?;
    let zds = node.directory().join("zds/zds.sock");
    let status = Program::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(Binaries::of_this_build()?.path("culvert-cni"))
        .args(["status", "--socket"])
        .arg(&cni);
    let listen = Program::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["/usr/bin/python3", "-c", HEAR])
        .arg(&zds);
    let place = bed.mallory.place();
    let attack = || {
        let mut seen = Report::default();
        let mut ask = |how: &str| {
            for (what, program) in [("cni", &status), ("zds", &listen)] {
                let output = place.run(program)?;
                seen.connections += 1;
                let mark = if output.ok() { "was let in" } else { "refused" };
                seen.answered(format!("{what} {how}: {mark}"));
            }
            anyhow::Ok(())
        };
        ask("as it is")?;
        let loosened = [loosen(&cni)?, loosen(&zds)?];
        let asked = ask("loosened");
        for (path, mode) in loosened.into_iter().flatten() {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        asked?;
        let abstracts = place.text(&Program::line("ss -Hxl"))?;
        let ours = abstracts.lines().filter(|line| line.contains("culvert"));
        seen.answers
            .insert("abstract sockets".to_owned(), ours.count() as u64);
        Ok(seen)
    };
    bed.under(name, POD_MIB, attack, |seen| {
        let bad = |(what, count): (&String, &u64)| {
            let open = what.ends_with("was let in") || what == "abstract sockets";
            (open && *count > 0).then(|| format!("{what}: {count}"))
        };
        seen.answers.iter().filter_map(bad).collect()
    })
}

/// Connects to a ZDS socket and exits with 0 when the agent says something.
const HEAR: &str = "\
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.settimeout(5)
s.connect(sys.argv[1])
s.send(b'\\x01')
sys.exit(0 if s.recv(1) else 1)
";

/// Opens a socket and its directory to everybody; the modes from before.
fn loosen(socket: &Path) -> anyhow::Result<Vec<(std::path::PathBuf, u32)>> {
    let directory = socket.parent().context("a directory")?;
    let mut before = Vec::new();
    for (path, mode) in [(directory, 0o755), (socket, 0o777)] {
        before.push((
            path.to_owned(),
            std::fs::metadata(path)?.permissions().mode(),
        ));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(before)
}

fn results(bed: &Bed, attackers: &[Process]) -> anyhow::Result<Report> {
    let mut seen = Report::default();
    for attacker in attackers {
        seen.add(bed.result(attacker)?);
    }
    Ok(seen)
}

/// Nothing else came of any connection, and there were some.
fn only(seen: &Report, answers: &[&str]) -> Vec<String> {
    let other: BTreeMap<_, _> = seen
        .answers
        .iter()
        .filter(|(answer, _)| !answers.contains(&answer.as_str()))
        .collect();
    if seen.connections == 0 {
        return vec!["nothing was tried".to_owned()];
    }
    if other.is_empty() {
        return Vec::new();
    }
    vec![format!("not only {answers:?}: {other:?}")]
}
