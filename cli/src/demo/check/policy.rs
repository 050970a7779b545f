//! A policy that refuses an account, pushed while connections of that and another account live.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use world::WorldError;

use crate::demo::access_log::records;
use crate::demo::live::{Live, exchange};
use crate::demo::manifest::{NO_INTRUDER, NO_INTRUDER_NAME};
use crate::demo::mesh::WEB_V4;
use crate::demo::{BackEnd, Claim, DemoError, Mesh};

/// A pushed policy has closed what it denies within this.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);
/// A refused connection is in the log within this.
const LOGGED_WITHIN: Duration = Duration::from_secs(60);
/// The manifest's file while the policy is on.
const POLICY_FILE: &str = "60-policy.yaml";
const INTRUDER: &str = "spiffe://cluster.local/ns/demo/sa/intruder";

/// `policy_push_closed` and `policy_denies`.
pub fn push_closes_and_denies(mesh: &Mesh) -> Result<BackEnd, DemoError> {
    let targets = [
        ("service", WEB_V4),
        ("v1", mesh.pods.web_v1.ipv4()?),
        ("v2", mesh.pods.web_v2.ipv4()?),
        ("v2-ipv6", mesh.pods.web_v2.ipv6()?),
    ];
    let open = |pod, name: &str| -> Result<Vec<Live>, DemoError> {
        let live = |(target, address): &(&str, IpAddr)| {
            Ok(Live::open(
                &mesh.programs,
                pod,
                &format!("{name}-to-{target}"),
                *address,
            )?)
        };
        targets.iter().map(live).collect()
    };
    let allowed = open(&mesh.pods.client, "live")?;
    let denied = open(&mesh.pods.intruder, "live")?;

    mesh.manifests.put(POLICY_FILE, NO_INTRUDER)?;
    let mut found = closed_exactly(&allowed, &denied);
    found.extend(denies(mesh)?);
    mesh.manifests.remove(POLICY_FILE)?;
    Ok(found)
}

fn closed_exactly(allowed: &[Live], denied: &[Live]) -> BackEnd {
    let start = Instant::now();
    let end = start + CLOSED_WITHIN;
    let mut closed = 0;
    for live in denied {
        let over = live.wait_over(end.saturating_duration_since(Instant::now()));
        closed += usize::from(over.is_ok());
    }
    let took = start.elapsed();
    let go_on = allowed.iter().filter(|live| live.goes_on()).count();
    let mut found = BackEnd::default();
    found.find(
        Claim::PolicyPushClosed,
        closed == denied.len() && go_on == allowed.len(),
        format!(
            "{closed} of {} denied connections closed, {go_on} of {} others go on",
            denied.len(),
            allowed.len()
        ),
    );
    found.measure(
        "policy_push_closed_after",
        took.as_secs_f64() * 1000.0,
        "ms",
    );
    found
}

/// `policy_denies`: a new connection of the intruder is refused, the client's is not, and the
/// record names the policy.
fn denies(mesh: &Mesh) -> Result<BackEnd, DemoError> {
    let (reached, _) = exchange(&mesh.programs, &mesh.pods.intruder, WEB_V4)?;
    let (client, _) = exchange(&mesh.programs, &mesh.pods.client, WEB_V4)?;
    let logged = || Ok(Some(refusals(mesh)).filter(|count| *count > 0));
    let named = match mesh
        .world
        .interrupt()
        .wait_for("the record", LOGGED_WITHIN, logged)
    {
        Err(WorldError::TimedOut { .. }) => 0,
        other => other?,
    };
    let seen = match (reached, client, named) {
        (true, _, _) => "the intruder was served".to_owned(),
        (_, false, _) => "the client was refused too".to_owned(),
        (_, _, 0) => format!("the intruder was refused, but no record names {NO_INTRUDER_NAME}"),
        _ => format!("sa/intruder refused, the log names {NO_INTRUDER_NAME}"),
    };
    let mut found = BackEnd::default();
    found.find(Claim::PolicyDenies, !reached && client && named > 0, seen);
    Ok(found)
}

/// Records of refused new connections of the intruder that name the policy.
fn refusals(mesh: &Mesh) -> usize {
    // Not the late rejections of connections that lived when the policy came.
    let refused = format!("connection denied by policy {NO_INTRUDER_NAME}");
    let logs = mesh.nodes.iter().map(|node| node.ztunnel.log());
    logs.flat_map(|log| records(&log))
        .filter(|record| {
            record.get("src.identity") == INTRUDER && record.get("error").starts_with(&refused)
        })
        .count()
}
