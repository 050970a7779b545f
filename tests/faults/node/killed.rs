//! SIGKILL to proxies that carry connections.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::ensure;
use scenarios::traffic::{HoldReport, LoadReport};
use world::{Place, Process, Program};

use super::ground::{COMES_WITHIN, Ground};
use super::wire::Wire;

/// Proxies killed, on both nodes in turn.
const KILLS: usize = 4;
/// How long there is load before each.
const LOAD: Duration = Duration::from_millis(600);
/// How long the node is without a proxy at least.
const WITHOUT: Duration = Duration::from_millis(500);
/// Connections held over both proxies: from each of two pods, three to each of two addresses.
const HELD: u64 = 12;
/// Connections opened meanwhile, in each direction.
const WAITING: u64 = 16;

/// Connections by what ended them.
type Causes = BTreeMap<String, u64>;

/// All kills, with the wire watched over all of them.
pub fn under_load(ground: &mut Ground) -> anyhow::Result<()> {
    let wire = Wire::start(ground, "killed")?;
    for turn in 0..KILLS {
        one(ground, turn % 2)?;
    }
    let recording = wire.only_tunnels(ground)?;
    ensure!(recording.payload_bytes() > 0, "nothing went over the wire");
    Ok(())
}

fn one(ground: &mut Ground, node: usize) -> anyhow::Result<()> {
    let mut held = Vec::new();
    let mut loads = Vec::new();
    for (from, to) in ground.ends() {
        held.push(ground.bed.hold(&from, &to, 3)?);
        loads.push(ground.load(&from, &to, "--workers 4 --pause 5")?);
    }
    ground.bed.sleep(LOAD)?;
    let tunnels = tunnels(ground, 1 - node)?;
    ensure!(!tunnels.is_empty(), "nothing was tunnelled before the kill");
    let mark = ground.mark(1 - node);

    ground.bed.kill_proxy(node)?;
    let killed = Instant::now();
    let lost = ended_at_both_ends(ground, &held)?;
    let took = killed.elapsed();
    ground.eventually("the other proxy drops its tunnels", |ground| {
        Ok(self::tunnels(ground, 1 - node)?.is_disjoint(&tunnels))
    })?;
    // Those that were held, both ways.
    let reasons = ground.reasons_of(1 - node, mark, HELD)?;

    let waiting = ground.burst(WAITING)?;
    ground.bed.sleep(WITHOUT)?;
    ensure!(
        waiting.iter().all(|load| load.ended().is_none()),
        "connections did not wait for the next proxy"
    );
    ground.bed.start_proxy(node)?;
    let waited = ground.results(&waiting)?;
    ensure!(
        waited.failures() == 0 && waited.streams == 2 * WAITING,
        "of those that waited: {waited:?}"
    );
    let mut all = LoadReport::default();
    for load in &loads {
        all.add(&ground.bed.finish(load)?);
    }
    ensure!(all.mismatched == 0, "misdelivered: {all:?}");
    hung(&all.failed)?;
    ensure!(
        !self::tunnels(ground, 1 - node)?.is_empty(),
        "no tunnel was made anew"
    );
    ground.works()?;
    println!(
        "    node {node}: held connections ended at both ends after {took:?}: {lost:?}; {} short \
         ones, ended by the kill: {:?}; the other proxy: {reasons:?}",
        all.connections, all.failed
    );
    Ok(())
}

/// Held connections have ended for the clients, by a reset or an end, and for the servers.
fn ended_at_both_ends(ground: &Ground, held: &[Process]) -> anyhow::Result<Causes> {
    let mut all = HoldReport::default();
    for client in held {
        client.wait_end(COMES_WITHIN)?;
        all.add(&ground.bed.result(client)?);
    }
    ensure!(all.kept == 0 && all.tried == HELD, "{all:?}");
    hung(&all.lost)?;
    ground.eventually("the servers' ends of them have ended", |ground| {
        let ends = ground.ends();
        for (index, (server, _)) in ends.iter().enumerate() {
            let peers = &ends[index].1;
            let open = sockets(server, "sport = :9100")?;
            if open.iter().any(|(_, peer)| is_of(peer, peers)) {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    Ok(all.lost)
}

/// Nothing ended by silence or with other bytes.
fn hung(causes: &Causes) -> anyhow::Result<()> {
    let bad = |cause: &&String| cause.contains("silent") || cause.contains("mismatch");
    let found: Vec<_> = causes.keys().filter(bad).collect();
    ensure!(found.is_empty(), "{found:?} in {causes:?}");
    Ok(())
}

/// Own ends of the tunnels that a node's pod has with the other node.
fn tunnels(ground: &Ground, node: usize) -> anyhow::Result<BTreeSet<(String, String)>> {
    let [near, far] = ground.ends();
    let (place, peers) = if node == 0 { near } else { far };
    let mut found = sockets(&place, "( sport = :15008 or dport = :15008 )")?;
    found.retain(|(_, peer)| is_of(peer, &peers));
    Ok(found)
}

fn is_of(socket: &str, addresses: &[std::net::IpAddr]) -> bool {
    let ip = socket.rsplit_once(':').map_or(socket, |(ip, _)| ip);
    let ip = ip.trim_matches(['[', ']']).trim_start_matches("::ffff:");
    addresses.iter().any(|address| address.to_string() == ip)
}

/// Established TCP sockets of a place that a filter of `ss` selects: own end and peer.
fn sockets(place: &Place, filter: &str) -> anyhow::Result<BTreeSet<(String, String)>> {
    let program = Program::line("ss -Htn state established").arg(filter);
    let text = place.text(&program)?;
    let ends = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(((*words.get(2)?).to_owned(), (*words.get(3)?).to_owned()))
    };
    Ok(text.lines().filter_map(ends).collect())
}
