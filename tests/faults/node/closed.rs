//! A node without its agent and without its proxy: nobody holds the pods' listeners.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use scenarios::prove::bed::addresses;
use scenarios::traffic::LoadReport;
use world::World;
use world::capture::Capture;

use super::ground::Ground;
use super::wire::Wire;

/// How long nothing may come through: some SYNs of each connection.
const CLOSED_FOR: Duration = Duration::from_secs(3);
/// Connections that are tried.
const TRIED: u64 = 8;

/// Kills both, tries all ways out of a captured pod and into one, and starts both again.
pub fn without_both(ground: &mut Ground) -> anyhow::Result<()> {
    let wire = Wire::start(ground, "closed")?;
    ground.works()?;
    ground.bed.kill_agent(0)?;
    ground.bed.kill_proxy(0)?;

    let world = &ground.bed.mesh.world;
    let file = world.directory().join("outside.pcap");
    let link = Capture::start(world.router(), &World::link_to("outside"), &file)?;
    let (pods, outside) = (&ground.bed.mesh.pods, &ground.bed.mesh.outside);
    let client = pods.client.place().clone();
    let (legacy, machine) = (pods.legacy.place().clone(), outside.place().clone());
    let out = [outside.ipv4(), outside.ipv6()];
    let (inside, server) = (addresses(&[&pods.web_v1]), addresses(&[&pods.web_v2]));

    let words = format!("--count {TRIED} --workers {TRIED} --pause 0");
    let to: Vec<IpAddr> = server.iter().chain(&out).copied().collect();
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = to.into_iter().partition(IpAddr::is_ipv4);
    let outbound = [
        ground.load(&client, &v4, &words)?,
        ground.load(&client, &v6, &words)?,
    ];
    let inbound = [
        ground.load(&legacy, &inside, &words)?,
        ground.load(&machine, &inside, &words)?,
    ];
    // The recording shows plaintext: that of a pod that is not captured.
    let control = ground.load(&legacy, &out, &words)?;
    ground.bed.sleep(CLOSED_FOR)?;
    let refused = ground.results(&inbound)?;
    ensure!(
        refused.streams == 0 && refused.failures() == 2 * TRIED,
        "into a captured pod: {refused:?}"
    );
    let plain: LoadReport = ground.bed.result(&control)?;
    ensure!(
        plain.streams == TRIED,
        "the pod that is not captured: {plain:?}"
    );
    let recording = link.finish()?;
    let of_legacy = addresses(&[&ground.bed.mesh.pods.legacy]);
    let of_client = addresses(&[&ground.bed.mesh.pods.client]);
    ensure!(!recording.between(&of_legacy, &out).segments.is_empty());
    let leaked = recording.between(&of_client, &out).segments;
    let leaked: BTreeSet<_> = leaked
        .iter()
        .map(|segment| (segment.source, segment.destination))
        .collect();
    ensure!(leaked.is_empty(), "in plaintext: {leaked:?}");

    let back = Instant::now();
    ground.bed.start_agent(0)?;
    ground.bed.start_proxy(0)?;
    let mut ends = Vec::new();
    for load in &outbound {
        let report: LoadReport = ground.bed.result(load)?;
        // The kernel refuses some at once, for want of a listener; the others wait.
        let refused = report.failed.get("connect: ConnectionRefused");
        let refused = refused.copied().unwrap_or_default();
        ensure!(
            report.failures() == refused && report.streams + refused == TRIED,
            "after both came back: {report:?}"
        );
        ends.push((report.streams, refused));
    }
    println!(
        "    out of the pod, (served, refused): IPv4 {:?}, IPv6 {:?}; {:?} after the start",
        ends[0],
        ends[1],
        back.elapsed()
    );
    ground.works()?;
    wire.only_tunnels(ground).map(drop)
}
