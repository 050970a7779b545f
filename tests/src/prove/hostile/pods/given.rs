//! A pod that adds addresses to its interface: its neighbour's, and some of nobody.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;
use cli::demo::mesh::MeshNode;
use world::Program;
use world::stack::{Binaries, agent_socket, get};

use super::{FOREIGN, POD_MIB, dial, only, results};
use crate::attack::Report;
use crate::prove::hostile::bed::{Bed, ECHO_PORT, at};
use crate::prove::hostile::{Attack, Plan};

/// An address of nobody, IPv6.
const FOREIGN_V6: &str = "2001:db8:bad::7";
/// The agent follows a change within a second; a busy machine gets more.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(30);
/// Connections from each address.
const TIMES: usize = 20;

/// The agent sees the addresses and captures them; the control plane is not told of them, so that
/// nothing comes from there and the neighbour keeps what is its own.
pub(super) fn addresses(bed: &Bed, _: &Plan, name: &str) -> anyhow::Result<Attack> {
    let neighbour = [bed.neighbour.ipv4()?, bed.neighbour.ipv6()?];
    let mut taken = neighbour.to_vec();
    taken.extend([FOREIGN.parse::<IpAddr>()?, FOREIGN_V6.parse()?]);
    let (mark, count) = (bed.mark(), taken.len() * TIMES);
    let mut owners = Vec::new();
    let attack = || {
        change(bed, "add", &taken)?;
        wait_followed(bed, &taken)?;
        let far = &bed.mesh.pods.web_v1;
        let mut dials = Vec::new();
        for from in &taken {
            let to = if from.is_ipv4() {
                far.ipv4()?
            } else {
                far.ipv6()?
            };
            let (from, times) = (from.to_string(), TIMES.to_string());
            let program = dial(bed, &["--from", &from, "--times", &times]);
            let program = program.arg(at(to, ECHO_PORT).to_string());
            dials.push(bed.start(bed.mallory.place(), &program)?);
        }
        let seen = results(bed, &dials);
        for node in &bed.mesh.nodes {
            owners.extend(owners_of(node, &taken)?);
        }
        seen
    };
    let done = bed.under(name, POD_MIB, attack, |seen: &Report| {
        let mut wrong = only(seen, &["reset", "closed"]);
        let told = bed.records(mark, count, |record| {
            record.get("error").contains("is not an address of the pod")
        });
        if told.len() != count {
            wrong.push(format!("{} of {count} refusals are in the log", told.len()));
        }
        // The neighbours asked all the time: what came for their address went to its owner.
        let moved = bed.records(mark, 0, |record| {
            !record.is_outbound() && record.get("dst.workload") == bed.mallory.name().name
        });
        if !moved.is_empty() {
            wrong.push(format!("came to the pod that took the address: {moved:?}"));
        }
        wrong
    });
    change(bed, "del", &taken)?;
    let mut done = done?;
    let honest = |(owner, address): &(String, IpAddr)| {
        *owner == bed.neighbour.name().name && neighbour.contains(address)
    };
    // Each of the two proxies knows the neighbour by both of its addresses.
    if owners.len() != 4 || !owners.iter().all(honest) {
        done.wrong.push(format!("owners of addresses: {owners:?}"));
    }
    let server = at(bed.mesh.pods.web_v1.ipv4()?, ECHO_PORT).to_string();
    let later = bed.run(bed.mallory.place(), &dial(bed, &["--times", "10", &server]))?;
    done.wrong.extend(only(&later, &["echoed"]));
    Ok(done)
}

/// Adds addresses to the hostile pod's interface, or removes them.
fn change(bed: &Bed, verb: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
    for address in addresses {
        let bits = if address.is_ipv4() { "32" } else { "128" };
        let nodad = if address.is_ipv6() && verb == "add" {
            " nodad"
        } else {
            ""
        };
        let words = format!("ip addr {verb} {address}/{bits} dev eth0{nodad}");
        bed.mallory.run(&Program::line(&words))?.success()?;
    }
    Ok(())
}

/// Waits until the agent has seen the pod with all of these.
fn wait_followed(bed: &Bed, addresses: &[IpAddr]) -> anyhow::Result<()> {
    let MeshNode { node, ztunnel, .. } = bed.node();
    let status = Program::new(Binaries::of_this_build()?.path("culvert-cni"))
        .args(["status", "--socket"])
        .arg(agent_socket(node)?);
    ztunnel.wait_until("the agent to see the addresses", FOLLOWED_WITHIN, || {
        let text = node.place().text(&status).ok()?;
        let status: serde_json::Value = serde_json::from_str(&text).ok()?;
        let pods = status["pods"].as_array()?;
        let pod = pods.iter().find(|pod| pod["uid"] == bed.mallory.uid())?;
        let ips = pod["ips"].as_array()?;
        let has = |address: &IpAddr| ips.iter().any(|ip| ip == &address.to_string());
        addresses.iter().all(has).then_some(())
    })?;
    Ok(())
}

/// Which pods a proxy believes to have these addresses.
fn owners_of(node: &MeshNode, addresses: &[IpAddr]) -> anyhow::Result<Vec<(String, IpAddr)>> {
    let dump = get(node.node.place(), "http://127.0.0.1:15000/config_dump")?;
    let dump: serde_json::Value = serde_json::from_str(&dump)?;
    let workloads = dump["workloads"].as_array().cloned().unwrap_or_default();
    ensure!(!workloads.is_empty(), "a proxy that knows no workload");
    let mut owners = Vec::new();
    for workload in &workloads {
        let name = workload["name"].as_str().unwrap_or_default();
        let ips = workload["workloadIps"].as_array();
        for ip in ips.into_iter().flatten().filter_map(|ip| ip.as_str()) {
            let ip: IpAddr = ip.parse()?;
            if addresses.contains(&ip) {
                owners.push((name.to_owned(), ip));
            }
        }
    }
    Ok(owners)
}
