//! A node's link is taken away and given back.

use std::time::{Duration, Instant};

use anyhow::ensure;
use scenarios::prove::bed::addresses;
use scenarios::traffic::{HoldReport, LoadReport};
use world::{Program, World};

use super::ground::Ground;

/// Less than the 30 s after which a silent tunnel is given up (docs/faults-node.md).
const DOWN_FOR: Duration = Duration::from_secs(10);

/// Ten seconds without node-2's link.
pub fn down_and_up(ground: &mut Ground) -> anyhow::Result<()> {
    ground.works()?;
    let mut held = Vec::new();
    for (from, to) in ground.ends() {
        held.push(ground.bed.hold(&from, &to, 4)?);
    }
    let pods = &ground.bed.mesh.pods;
    let intruder = pods.intruder.place().clone();
    let server = addresses(&[&pods.web_v2]);
    let mark = ground.mark(0);

    link(ground, "down")?;
    let down = Instant::now();
    // No tunnel of this pod is there yet: it fails to make one, or waits.
    let new = ground.load(&intruder, &server, "--count 6 --workers 6 --pause 0")?;
    let during = ground.burst(4)?;
    let left = DOWN_FOR.saturating_sub(down.elapsed());
    ground.bed.sleep(left)?;
    link(ground, "up")?;

    let up = Instant::now();
    let after = ground.load(&intruder, &server, "--count 6 --workers 6 --pause 0")?;
    let after: LoadReport = ground.bed.result(&after)?;
    ensure!(
        after.failures() == 0 && after.streams == 6,
        "after it is up: {after:?}"
    );
    let works = up.elapsed();
    let new: LoadReport = ground.bed.result(&new)?;
    let during = ground.results(&during)?;
    ensure!(
        new.mismatched + during.mismatched == 0,
        "{new:?} {during:?}"
    );
    let reasons = ground.reasons_of(0, mark, new.failures())?;
    let mut report = HoldReport::default();
    for client in &held {
        report.add(&ground.bed.finish(client)?);
    }
    ensure!(
        report.kept == report.tried && report.tried == 16,
        "{report:?}"
    );
    println!(
        "    {} of {} held kept; new ones meanwhile: {} of 6 without a tunnel served, {} of 8 \
         with one; reasons {reasons:?}; {works:?} after it was up six new ones were done",
        report.kept, report.tried, new.streams, during.streams
    );
    ground.works()
}

/// Sets the router's end; what the kernel forgets of routes and addresses is given back.
fn link(ground: &Ground, state: &str) -> anyhow::Result<()> {
    let router = ground.bed.mesh.world.router();
    let link = World::link_to("node-2");
    let script = if state == "down" {
        "ip -4 route save dev $LINK > $SAVED.4; ip -6 route save dev $LINK > $SAVED.6
         echo 1 > /proc/sys/net/ipv6/conf/$LINK/keep_addr_on_down
         ip link set $LINK down"
    } else {
        "ip link set $LINK up
         ip -4 route restore < $SAVED.4 2> /dev/null || true
         ip -6 route restore < $SAVED.6 2> /dev/null || true
         ip -4 route show dev $LINK | grep -q 10.244.2.0/24
         ip -6 route show dev $LINK | grep -q fd00:10:244:2::/64"
    };
    let saved = ground.bed.mesh.world.directory().join("routes");
    let program = Program::new("sh")
        .args(["-ec", script])
        .env("LINK", link)
        .env("SAVED", saved);
    router.run(&program)?.success()?;
    Ok(())
}
