//! What the demo must show, each as a check on a mesh that is up.
//!
//! A check drives real programs and says what it saw; it fails only when it cannot look.

pub mod plaintext;
pub mod policy;
pub mod routes;
pub mod traffic;
pub mod wire;

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use world::{Pod, Program};

use crate::demo::servers::IPERF_PORT;
use crate::demo::{BackEnd, Claim, DemoError, Mesh, Progress, rulesets};

/// Seconds of the iperf3 run: long enough for the windows to open, short beside the demo.
const IPERF_SECONDS: u32 = 2;

/// How long proxies have nothing to do before their idle memory is measured: they look every 2 s
/// whether they idle.
const IDLE_FOR: Duration = Duration::from_secs(5);

/// All checks, in an order that leaves the mesh as the next needs it.
pub fn everything(mesh: &Mesh, progress: &dyn Progress) -> Result<BackEnd, DemoError> {
    let mut all = BackEnd::default();
    // Before any traffic: with all pods enrolled, certificates fetched, everything known.
    progress.step("both proxies idle");
    let start = Instant::now();
    let interrupt = mesh.world.interrupt();
    interrupt.wait_for("idle proxies", IDLE_FOR * 2, || {
        Ok((start.elapsed() >= IDLE_FOR).then_some(()))
    })?;
    let idle = mesh.nodes.iter().map(|node| rss_mib(node.ztunnel.pid()));
    all.measure("ztunnel_rss_idle", idle.fold(0.0, f64::max), "MiB");
    progress.step("200 requests through the Service, with captures running");
    all.extend(traffic::through_the_service(mesh)?);
    progress.step("outside the mesh, and servers that speak first");
    all.extend(traffic::passthrough(mesh)?);
    progress.step("plaintext from the legacy pod: PERMISSIVE");
    all.extend(plaintext::permissive_accepts(mesh)?);
    progress.step("plaintext from the legacy pod: STRICT");
    all.extend(plaintext::strict_refuses(mesh)?);
    progress.step("a policy pushed while connections live");
    all.extend(policy::push_closes_and_denies(mesh)?);
    progress.step("rule sets of every pod and node, before and after");
    all.extend(no_iptables(mesh)?);
    all.extend(routes::routes(mesh, progress)?);
    progress.step("iperf3 through the mesh");
    measure(mesh, &mut all)?;
    Ok(all)
}

/// `no_iptables`: the rule sets of every pod and node are byte-equal to those from before.
pub fn no_iptables(mesh: &Mesh) -> Result<BackEnd, DemoError> {
    let nodes = mesh.nodes.iter().map(|node| node.node.place());
    let pods = mesh.pods.all();
    let places: Vec<_> = nodes.chain(pods.iter().map(|pod| pod.place())).collect();
    let mut changed = Vec::new();
    for place in &places {
        let now = rulesets::read(place)?;
        let before = mesh
            .rules_before
            .iter()
            .find(|(name, _)| name == place.name());
        if before.is_none_or(|(_, before)| *before != now) {
            changed.push(place.name().to_owned());
        }
    }
    let mut found = BackEnd::default();
    let seen = if changed.is_empty() {
        format!("rule sets of {} pods and nodes byte-equal", places.len())
    } else {
        format!("changed in {}", changed.join(", "))
    };
    found.find(Claim::NoIptables, changed.is_empty(), seen);
    Ok(found)
}

/// Numbers that are no claims.
fn measure(mesh: &Mesh, all: &mut BackEnd) -> Result<(), DemoError> {
    let adds = mesh
        .pods
        .all()
        .map(|pod| pod.add_took().as_secs_f64() * 1000.0);
    all.measure("pod_add_median", median(&adds), "ms");
    all.measure("iperf3_client_to_web_v2", iperf(mesh)?, "Gbit/s");
    for (node, name) in mesh
        .nodes
        .iter()
        .zip(["ztunnel_node_1_rss_at_end", "ztunnel_node_2_rss_at_end"])
    {
        all.measure(name, rss_mib(node.ztunnel.pid()), "MiB");
    }
    Ok(())
}

/// Bits per second, received, of one stream.
fn iperf(mesh: &Mesh) -> Result<f64, DemoError> {
    let program = Program::line("iperf3 --json --client")
        .arg(mesh.pods.web_v2.ipv4()?.to_string())
        .args(["--port".to_owned(), IPERF_PORT.to_string()])
        .args(["--time".to_owned(), IPERF_SECONDS.to_string()]);
    let text = mesh.pods.client.place().text(&program)?;
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    let answer = || DemoError::Answer {
        what: "iperf3".to_owned(),
        answer: text.clone(),
    };
    Ok(bits.ok_or_else(answer)? / 1e9)
}

/// Resident memory of a process; 0 when it is gone.
fn rss_mib(pid: i32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// The middle value; 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// An address as a URL holds it.
pub(crate) fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// The address of the family of `like`.
pub(crate) fn same_family(pod: &Pod, like: IpAddr) -> Result<IpAddr, DemoError> {
    Ok(if like.is_ipv4() {
        pod.ipv4()?
    } else {
        pod.ipv6()?
    })
}
