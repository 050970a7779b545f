//! What an agent finds when more than itself has gone meanwhile: a namespace, a record's text, all
//! that a node loses when it is switched off.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use netio::cgroup::Cgroup;
use serde_json::Value;
use world::Pod;

use super::bed::{Bed, Real, Told, leases};
use super::life::{alive, kill, netns_named, netns_of};

/// File of the pod that goes with its node.
const GUEST: &str = "70-guest.yaml";

/// The one waypoint that there is.
fn only(bed: &Bed) -> anyhow::Result<Real> {
    let mut real = bed.real()?;
    ensure!(real.len() == 1, "{real:?}");
    Ok(real.remove(0))
}

/// Waits for one waypoint that serves in the namespace of its name, and is no process of `before`.
fn wait_other(bed: &Bed, what: &str, before: &Real) -> anyhow::Result<Real> {
    bed.wait(what, || {
        let now = only(bed).ok()?;
        let pid = *now.pids.first()?;
        let is_housed = netns_of(pid).ok()? == netns_named(&now.sandbox).ok()?;
        let told = bed.told().ok()?;
        let serves = told.len() == 1 && told.iter().all(Told::serves);
        (serves && is_housed && !before.pids.contains(&pid)).then_some(now)
    })
}

pub fn homeless(bed: &mut Bed) -> anyhow::Result<()> {
    let before = only(bed)?;
    bed.kill_agent(before.node);
    netio::netns::delete(&before.sandbox)?;
    bed.start_agent(before.node)?;
    let after = wait_other(bed, "a waypoint in a namespace that has a name", &before)?;
    ensure!(!alive(before.pids[0]), "the one without a home runs on");
    // The same while the agent looks on: only a process that ends shows it.
    netio::netns::delete(&after.sandbox)?;
    kill(after.pids[0])?;
    wait_other(bed, "a waypoint in another namespace again", &after).map(drop)
}

pub fn unreadable(bed: &mut Bed) -> anyhow::Result<()> {
    let before = only(bed)?;
    bed.kill_agent(before.node);
    let record = record_of(bed, &before)?;
    fs::write(&record, "{")?;
    bed.start_agent(before.node)?;
    let after = wait_other(bed, "another in place of the one without a record", &before)?;
    ensure!(after.container_id != before.container_id, "{after:?}");
    bed.wait("all of the one without a record to be gone", || {
        let is_gone = netio::netns::names()
            .ok()?
            .iter()
            .all(|name| *name != before.sandbox)
            && !bed.cgroups(before.node).join(&before.sandbox).exists()
            && !record.exists()
            && !alive(before.pids[0]);
        let leases = leases(&bed.parts[before.node].node).ok()?;
        let is_free = leases
            .iter()
            .all(|lease| !lease.contains(&before.container_id));
        (is_gone && is_free).then_some(())
    })
}

pub fn rebooted(bed: &mut Bed) -> anyhow::Result<()> {
    let before = only(bed)?;
    let node = &bed.parts[before.node].node;
    let guest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: guest, namespace: shop}}\n\
         spec: {{nodeName: {}, serviceAccountName: guest}}\n",
        node.name()
    );
    bed.manifests.put(GUEST, &guest)?;
    let guest = node.pod("shop/guest")?;
    let records = node.directory().join("cni/pods");
    let record = records.join(format!("{}.json", guest.uid()));
    ensure!(record.exists(), "{}", record.display());

    switch_off(bed, &before, &guest)?;
    let after = wait_other(bed, "the waypoint to run again", &before)?;
    ensure!(
        after.container_id == before.container_id,
        "by the record that was kept: {after:?}"
    );
    bed.wait("the Gateway to be programmed", || {
        let said = bed.conditions().ok()?;
        said.contains("1 of 1 replicas ready").then_some(())
    })?;
    ensure!(!record.exists(), "a record is left of the pod that is gone");
    let node = &bed.parts[before.node].node;
    ensure!(
        !node.bpffs().join(guest.uid()).exists(),
        "pins are left of the pod that is gone"
    );
    let status = bed.control.agent_command(node, &["status"])?;
    ensure!(!status.contains("\"guest\""), "{status}");
    let own = ["\"client\"", "\"web\""][before.node];
    ensure!(status.contains(own), "the pod that stayed: {status}");
    bed.wait(
        "the pod that stayed to be captured, by real connections",
        || bed.control.agent_command(node, &["verify"]).ok(),
    )?;
    // The runtime comes to delete what it knew of.
    let mut gone = guest.as_sandbox().clone();
    gone.netns = PathBuf::new();
    node.runtime()?.del(&gone, None)?;
    Ok(bed.manifests.remove(GUEST)?)
}

/// Takes from a node what the kernel keeps, and starts its agent again: what is on disk stays.
fn switch_off(bed: &mut Bed, before: &Real, guest: &Pod) -> anyhow::Result<()> {
    bed.kill_agent(before.node);
    for pid in &before.pids {
        kill(*pid)?;
    }
    netio::netns::delete(&before.sandbox)?;
    Cgroup::open(bed.cgroups(before.node).join(&before.sandbox))?.remove()?;
    let name = guest.place().netns().file_name().context("a name")?;
    netio::netns::delete(&name.to_string_lossy())?;
    forget_pins(bed.parts[before.node].node.bpffs())?;
    bed.start_agent(before.node)
}

/// The file of a waypoint's record.
fn record_of(bed: &Bed, of: &Real) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(bed.parts[of.node].node.directory().join("waypoints"))? {
        let path = entry?.path();
        let text = fs::read(&path)?;
        let record: Option<Value> = serde_json::from_slice(&text).ok();
        if record.is_some_and(|record| record["container_id"] == *of.container_id) {
            return Ok(path);
        }
    }
    anyhow::bail!("no record of {of:?}")
}

/// Removes every pin below a directory of a bpffs, and the directories.
fn forget_pins(dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget_pins(&entry.path())?;
            fs::remove_dir(entry.path())?;
        } else if !entry.file_name().to_string_lossy().ends_with(".debug") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
