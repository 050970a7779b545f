//! Pushed routes: a discovery server of the bench gives our waypoint 10,000 of them, and then
//! single changes. An acknowledgement means "in use".

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use mesh::route::{ParentKey, ServicePort};
use mesh::service::ServiceKey;
use proto::routed::AnyRoute;
use proto::wire::discovery::Resource;
use proto::{
    ADDRESS_TYPE_URL, AUTHORIZATION_TYPE_URL, ROUTE_TYPE_URL, Routed, TARGET_POLICY_TYPE_URL,
};
use tokio::time::timeout;
use world::{Program, World};

use super::HTTP_PORT;
use super::lookup::route;
use super::manifests::MANY;
use crate::axes::figures;
use crate::figures::Figures;
use crate::peers::certificates::Certificates;
use crate::tools::feeder::stream::{Conversation, Server};
use crate::usage;

/// Name of the only case.
pub(super) const CASE: &str = "one of 10000 routes";
/// Where the server listens, in a network namespace of its own.
const ADDRESS: &str = "127.0.0.1:15012";
/// For the waypoint to call, and for each acknowledgement.
const PATIENCE: Duration = Duration::from_secs(60);
/// Until a quiet waypoint has given back what it does not need.
const SETTLE: Duration = Duration::from_secs(5);
/// Single changes; CPU time is known in steps of 10 ms only.
const CHANGES: usize = 200;
/// Between two: what comes in a burst may be gathered, what comes alone should not wait.
const PAUSE: Duration = Duration::from_millis(20);

/// One round in a network namespace of its own.
pub(super) fn round(waypoint: &Path) -> anyhow::Result<Figures> {
    let mut world = World::new()?;
    let host = world.host("feeder")?;
    let program = Program::new(std::env::current_exe()?)
        .args(["waypoint-load", "push"])
        .arg(waypoint)
        .arg(world.directory())
        .limit(PATIENCE * 3);
    let text = host.place().text(&program)?;
    serde_json::from_str(&text).with_context(|| format!("output of the feeder:\n{text}"))
}

/// Starts the waypoint, feeds it and gives the figures; files go into `directory`.
pub(super) async fn feed(waypoint: PathBuf, directory: PathBuf) -> anyhow::Result<Figures> {
    let certificates = Certificates::make(&directory.join("feeder"))?;
    let mut server = Server::start(ADDRESS.parse()?, &certificates)?;
    let waypoint = Waypoint::start(&waypoint, &certificates, &directory)?;
    let result = async {
        let conversation = timeout(PATIENCE, server.conversation()).await;
        let mut conversation = conversation.context("the waypoint does not call")??;
        let kinds = [
            AUTHORIZATION_TYPE_URL,
            ADDRESS_TYPE_URL,
            TARGET_POLICY_TYPE_URL,
            ROUTE_TYPE_URL,
        ];
        let begun = timeout(PATIENCE, conversation.begin_with(&kinds)).await;
        begun.context("no subscriptions")??;
        tokio::time::sleep(SETTLE).await;
        measure(&mut conversation, waypoint.pid).await
    };
    let result = result.await;
    result.with_context(|| {
        let log = fs::read_to_string(directory.join("waypoint.log")).unwrap_or_default();
        let from = log.len().saturating_sub(1000);
        format!("log: {}", log.get(from..).unwrap_or_default())
    })
}

async fn measure(conversation: &mut Conversation, pid: i32) -> anyhow::Result<Figures> {
    let empty = usage::rss_bytes(pid)? as f64;
    let all = (0..MANY).map(|n| resource(n, 0)).collect();
    let first = push(conversation, all).await?;
    tokio::time::sleep(SETTLE).await;
    let full = usage::rss_bytes(pid)? as f64;
    let cpu = usage::cpu(pid)?;
    let mut times = Vec::new();
    for change in 1..=CHANGES {
        tokio::time::sleep(PAUSE).await;
        let changed = resource(change * 7919 % MANY, change);
        times.push(push(conversation, vec![changed]).await?);
    }
    times.sort();
    let cpu = usage::cpu(pid)? - cpu;
    Ok(figures([
        ("first_push_ms", first.as_secs_f64() * 1e3),
        ("mb_above_empty", (full - empty) / 1e6),
        ("change_ms", times[CHANGES / 2].as_secs_f64() * 1e3),
        (
            "change_p99_ms",
            times[CHANGES * 99 / 100].as_secs_f64() * 1e3,
        ),
        ("change_cpu_ms", cpu.as_secs_f64() * 1e3 / CHANGES as f64),
    ]))
}

/// From the response to its acknowledgement.
async fn push(
    conversation: &mut Conversation,
    resources: Vec<Resource>,
) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let acknowledged = timeout(PATIENCE, conversation.send(ROUTE_TYPE_URL, resources)).await;
    acknowledged.context("no acknowledgement")??;
    Ok(begun.elapsed())
}

/// Route `n` of one service in one of its versions.
fn resource(n: usize, version: usize) -> Resource {
    let service = ServiceKey {
        namespace: "mesh".into(),
        hostname: "server.mesh.svc.cluster.local".into(),
    };
    let mut route = route(n);
    route.rules[0].backends[0].weight += u32::try_from(version).unwrap_or_default();
    let routed = Routed {
        parent: ParentKey::Producer(ServicePort {
            service,
            port: HTTP_PORT,
        }),
        route: AnyRoute::Http(Arc::new(route)),
    };
    proto::encode::routed(&routed, &version.to_string())
}

struct Waypoint {
    child: Child,
    pid: i32,
}

impl Waypoint {
    fn start(binary: &Path, certificates: &Certificates, directory: &Path) -> anyhow::Result<Self> {
        let token = directory.join("token");
        let mut file = fs::OpenOptions::new();
        let mut file = file
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&token)?;
        std::io::Write::write_all(&mut file, "5".repeat(64).as_bytes())?;
        let url = format!("https://{ADDRESS}");
        let log = fs::File::create(directory.join("waypoint.log"))?;
        let child = Command::new(binary)
            .args(["--gateway", "mesh/waypoint", "--pod-name", "waypoint"])
            .args(["--pod-namespace", "mesh", "--service-account", "waypoint"])
            .args(["--node-name", "bench", "--log", "warn", "--io", "epoll"])
            .args(["--workers", "1", "--xds-address", &url])
            .args(["--ca-address", &url, "--root-cert"])
            .arg(certificates.root())
            .arg("--token-file")
            .arg(&token)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = i32::try_from(child.id())?;
        Ok(Waypoint { child, pid })
    }
}

impl Drop for Waypoint {
    fn drop(&mut self) {
        // It may have ended; both say so.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_takes_every_route_that_is_fed() {
        let first = proto::decode::routed(&resource(3, 0)).unwrap();
        let changed = proto::decode::routed(&resource(3, 9)).unwrap();
        assert_eq!(first.name(), changed.name());
        assert_ne!(first, changed);
    }
}
