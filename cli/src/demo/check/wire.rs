//! What the links carry, and which identities both proxies logged.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use world::capture::{Capture, Recording};
use world::{Interrupt, World, WorldError};

use crate::demo::access_log::{Record, records};
use crate::demo::{BackEnd, Claim, DemoError, Mesh};

/// The tunnel's port.
const HBONE_PORT: u16 = 15008;
/// The bridge that the CNI chain makes on a node.
const BRIDGE: &str = "cni0";
/// A record is written when its connection has ended on that side.
const LOGGED_WITHIN: Duration = Duration::from_secs(60);

const CLIENT: &str = "spiffe://cluster.local/ns/demo/sa/client";
const WEB: &str = "spiffe://cluster.local/ns/demo/sa/web";

/// Captures on the link between the nodes and on the bridge of the client's node.
#[derive(Debug)]
pub struct Wire {
    between_nodes: Capture,
    same_node: Capture,
}

impl Wire {
    /// Starts both.
    pub fn start(mesh: &Mesh) -> Result<Self, DemoError> {
        let directory = mesh.world.directory();
        let link = World::link_to("node-2");
        let router = mesh.world.router();
        let node = mesh.nodes[0].node.place();
        Ok(Wire {
            between_nodes: Capture::start(router, &link, &directory.join("link.pcap"))?,
            same_node: Capture::start(node, BRIDGE, &directory.join("bridge.pcap"))?,
        })
    }

    /// Ends both; `wire_encrypted`.
    pub fn finish(self, mesh: &Mesh, marker: &str) -> Result<BackEnd, DemoError> {
        let mut found = BackEnd::default();
        let pods = &mesh.pods;
        let link = self.between_nodes.finish()?;
        judge(&mut found, "between the nodes", &link, marker, |all| {
            all.between(&pods.client.addresses(), &pods.web_v2.addresses())
        });
        let bridge = self.same_node.finish()?;
        judge(&mut found, "on the client's node", &bridge, marker, |all| {
            all.between(&pods.client.addresses(), &pods.web_v1.addresses())
        });
        Ok(found)
    }
}

/// Whether a recording holds the marker in the clear.
pub fn readable(recording: &Recording, marker: &str) -> bool {
    recording.occurrences(marker.as_bytes()) > 0
}

fn judge(
    found: &mut BackEnd,
    place: &str,
    all: &Recording,
    marker: &str,
    pods: impl Fn(&Recording) -> Recording,
) {
    let of_pods = pods(all);
    let occurrences = all.occurrences(marker.as_bytes());
    let kib = of_pods.payload_bytes() / 1024;
    let strange = of_pods.strange_to(HBONE_PORT);
    let seen = match &strange {
        None => format!("{kib} KiB, port {HBONE_PORT} only, marker seen {occurrences} times"),
        Some(strange) => format!("{strange}, marker seen {occurrences} times"),
    };
    let ok = strange.is_none() && kib > 0 && occurrences == 0;
    found.find(Claim::WireEncrypted, ok, format!("{place}: {seen}"));
}

/// `identities_ok`: both sides' records of the client's connections to the web pods, at least
/// `connections` on either side.
pub fn expected_identities(mesh: &Mesh, connections: usize) -> Result<BackEnd, DemoError> {
    let wanted = |records: &[Record]| {
        let outbound = records.iter().filter(|record| record.is_outbound()).count();
        outbound >= connections && records.len() - outbound >= connections
    };
    let look = || {
        let records = of_client(mesh);
        Ok(wanted(&records).then_some(records))
    };
    let interrupt: &Interrupt = mesh.world.interrupt();
    let records = match interrupt.wait_for("the access logs", LOGGED_WITHIN, look) {
        Err(WorldError::TimedOut { .. }) => of_client(mesh),
        other => other?,
    };
    let complete = wanted(&records);
    let outbound = records.iter().filter(|record| record.is_outbound()).count();
    let strange: BTreeSet<(&str, &str)> = records
        .iter()
        .map(|record| (record.get("src.identity"), record.get("dst.identity")))
        .filter(|identities| *identities != (CLIENT, WEB))
        .collect();
    let inbound = records.len() - outbound;
    let seen = match strange.first() {
        None => format!("{outbound} outbound and {inbound} inbound records: sa/client to sa/web"),
        Some((source, destination)) => format!("a record from {source:?} to {destination:?}"),
    };
    let mut found = BackEnd::default();
    found.find(Claim::Identities, complete && strange.is_empty(), seen);
    Ok(found)
}

/// The records of both proxies about connections from the client to the web pods.
fn of_client(mesh: &Mesh) -> Vec<Record> {
    let client: Vec<IpAddr> = mesh.pods.client.addresses();
    let of = |record: &Record| {
        record.source_ip().is_some_and(|ip| client.contains(&ip))
            && record.get("dst.workload").starts_with("web-")
    };
    let logs = mesh.nodes.iter().map(|node| node.ztunnel.log());
    logs.flat_map(|log| records(&log)).filter(of).collect()
}
