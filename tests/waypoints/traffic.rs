//! Requests through waypoints that the nodes run.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;
use world::stack::get;
use world::{Process, Program};

use super::bed::{Bed, GATEWAY, Told};
use super::life;

/// The Service.
const VIP: &str = "10.96.0.80";
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// Longer than the patience of one request.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// Requests that shall have come through before anything is changed, and between two changes: every
/// worker's several.
const SOME: u64 = 60;
/// File of what the load has seen so far.
const PROGRESS: &str = "load.json";

/// What `load.py` says at its end.
#[derive(Debug, Deserialize)]
struct Load {
    requests: u64,
    failed: u64,
    peers: BTreeMap<IpAddr, u64>,
    reasons: BTreeMap<String, u64>,
}

pub fn through(bed: &mut Bed) -> anyhow::Result<()> {
    let web = bed
        .web
        .start("web", &script(bed, "web.py", include_str!("web.py"))?)?;
    web.wait_for_line(&["listening"], STARTS_WITHIN)?;
    bed.servers.push(web);
    bed.wait("an answer without a waypoint", || peer(bed).ok())?;
    bed.put_waypoint()?;
    bed.gateway("")?;
    let waypoint = bed.wait_serving(&["shop/gate-0"])?.remove(0);
    // What the waypoint is ready for reaches the clients' proxy a moment later.
    bed.wait("the server to see the waypoint", || {
        peer(bed).ok().filter(|peer| waypoint.ips.contains(peer))
    })?;
    let real = bed.real_of("gate-0")?;
    life::kill(real.pids[0])?;
    bed.wait("the waypoint to be back after it was killed", || {
        let other = bed.real_of("gate-0").ok()?.pids != real.pids;
        let peer = peer(bed).ok().filter(|peer| waypoint.ips.contains(peer));
        peer.filter(|_| other).map(drop)
    })
}

pub fn replaced(bed: &mut Bed) -> anyhow::Result<()> {
    bed.wait_serving(&["shop/gate-0"])?;
    let load = start_load(bed)?;
    some(bed)?;
    bed.gateway("culvert.io/restartedAt: once")?;
    wait_others(bed, &["shop/gate-0"], 1)?;
    some(bed)?;
    let before = names(&bed.told()?);
    bed.put_waypoint()?;
    wait_others(
        bed,
        &before.iter().map(String::as_str).collect::<Vec<_>>(),
        1,
    )?;
    some(bed)?;
    bed.gateway("culvert.io/restartedAt: once, culvert.io/replicas: '2'")?;
    wait_others(bed, &[], 2)?;
    some(bed)?;
    bed.gateway("culvert.io/restartedAt: once, culvert.io/replicas: '1'")?;
    wait_others(bed, &[], 1)?;
    some(bed)?;
    let load = end_load(&load)?;
    println!(
        "    {} requests through {} waypoints, {} failed",
        load.requests,
        load.peers.len(),
        load.failed
    );
    ensure!(load.failed == 0, "{:#?}", load.reasons);
    ensure!(
        load.peers.len() >= 3,
        "each waypoint served some: {load:#?}"
    );
    Ok(())
}

pub fn gone(bed: &mut Bed) -> anyhow::Result<()> {
    bed.manifests.remove(GATEWAY)?;
    life::gone(bed)?;
    let client = bed.client.ipv4()?;
    bed.wait("the server to see the client", || {
        peer(bed).ok().filter(|peer| *peer == client)
    })
    .map(drop)
}

/// Waits until so many serve, alone, and none of `before` is there.
fn wait_others(bed: &Bed, before: &[&str], count: usize) -> anyhow::Result<()> {
    bed.wait(&format!("{count} others than {before:?}"), || {
        let told = bed.told().ok()?;
        let other = |pod: &Told| pod.serves() && !before.contains(&pod.pod.as_str());
        let right = told.len() == count && told.iter().all(other);
        (right && bed.real().ok()?.len() == count).then_some(())
    })
}

fn names(told: &[Told]) -> Vec<String> {
    told.iter().map(|pod| pod.pod.clone()).collect()
}

/// Whom the server sees when the client asks the Service.
fn peer(bed: &Bed) -> anyhow::Result<IpAddr> {
    let answer: Value = serde_json::from_str(&get(bed.client.place(), &format!("http://{VIP}/"))?)?;
    Ok(answer["peer"].as_str().context("a peer")?.parse()?)
}

fn start_load(bed: &Bed) -> anyhow::Result<Process> {
    let program = script(bed, "load.py", include_str!("load.py"))?
        .args([VIP, "80"])
        .arg(bed.world.directory().join(PROGRESS));
    let load = bed.client.start("load", &program)?;
    load.wait_for_line(&["asking"], STARTS_WITHIN)?;
    Ok(load)
}

/// Waits until so many more requests came through, and each waypoint that serves had one: however
/// slow the machine is.
fn some(bed: &Bed) -> anyhow::Result<()> {
    let progress = || -> Option<Load> {
        let text = fs::read(bed.world.directory().join(PROGRESS)).ok()?;
        serde_json::from_slice(&text).ok()
    };
    let count = |load: &Load| load.peers.values().sum::<u64>();
    let before = bed.wait("the load's first word", || progress().as_ref().map(count))?;
    bed.wait("requests through every waypoint", || {
        let (load, told) = (progress()?, bed.told().ok()?);
        let had_one = |pod: &Told| pod.ips.iter().any(|ip| load.peers.contains_key(ip));
        let all = told.iter().filter(|pod| pod.serves()).all(had_one);
        // What fails is looked at in the end; it must not be waited for here.
        (load.failed > 0 || all && count(&load) >= before + SOME).then_some(())
    })
}

fn end_load(load: &Process) -> anyhow::Result<Load> {
    load.signal(Signal::SIGTERM)?;
    load.wait_end(ENDS_WITHIN)?;
    let log = load.log();
    let said = log.lines().find_map(|line| line.strip_prefix("result "));
    Ok(serde_json::from_str(said.with_context(|| log.clone())?)?)
}

fn script(bed: &Bed, name: &str, text: &str) -> anyhow::Result<Program> {
    let path: PathBuf = bed.world.directory().join(name);
    fs::write(&path, text)?;
    // Not from PATH: a shim of a version manager there wants a home directory.
    Ok(Program::new("/usr/bin/python3").arg(path))
}
