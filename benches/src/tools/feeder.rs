//! A discovery server that feeds one ztunnel, and measures what configuration costs it.
//!
//! An acknowledgement means "in use" (it is sent after the snapshot was published), so that the
//! time until it comes is the time to apply.

pub(crate) mod stream;
mod workloads;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::time::timeout;

use crate::figures::Figures;
use crate::peers::WORKERS;
use crate::peers::certificates::Certificates;
use crate::usage;
use stream::{Conversation, Server};

/// Where it listens, in a network namespace of its own.
const ADDRESS: &str = "127.0.0.1:15012";
/// Until a quiet ztunnel has given back what it does not need.
const SETTLE: Duration = Duration::from_secs(5);
/// For ztunnel to call, and for each acknowledgement.
const PATIENCE: Duration = Duration::from_secs(30);
/// Single changes; CPU time is known in steps of 10 ms only.
const CHANGES: usize = 200;

/// Starts the ztunnel, feeds it and gives the figures; files go into `directory`.
///
/// # Errors
/// When ztunnel does not start, call or acknowledge.
pub fn run(workloads: usize, ztunnel: &Path, directory: &Path) -> anyhow::Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let certificates = Certificates::make(&directory.join("feeder"))?;
        let mut server = Server::start(ADDRESS.parse()?, &certificates)?;
        let mut ztunnel = Ztunnel::start(ztunnel, &certificates, directory)?;
        let result = async {
            let conversation = timeout(PATIENCE, server.conversation()).await;
            let conversation = conversation.context("ztunnel does not call")??;
            measure(workloads, conversation, &ztunnel).await
        };
        let result = result.await;
        result.with_context(|| format!("log of ztunnel: {}", ztunnel.log(directory)))
    })
}

async fn measure(
    count: usize,
    mut conversation: Conversation,
    ztunnel: &Ztunnel,
) -> anyhow::Result<Figures> {
    timeout(PATIENCE, conversation.begin())
        .await
        .context("no subscriptions")??;
    tokio::time::sleep(SETTLE).await;
    let empty = usage::rss_bytes(ztunnel.pid)?;
    let all = workloads::all(count);
    let mut figures = Figures::new();
    let mut set = |name: &str, value: f64| {
        figures.insert(name.to_owned(), value);
    };
    let cpu = usage::cpu(ztunnel.pid)?;
    let took = push(&mut conversation, all.clone()).await?;
    set("first_push_ms", took.as_secs_f64() * 1e3);
    set(
        "first_push_cpu_ms",
        (usage::cpu(ztunnel.pid)? - cpu).as_secs_f64() * 1e3,
    );
    tokio::time::sleep(SETTLE).await;
    set(
        "mb_above_empty",
        (usage::rss_bytes(ztunnel.pid)? as f64 - empty as f64) / 1e6,
    );
    set("proxy_rss_mb", usage::rss_bytes(ztunnel.pid)? as f64 / 1e6);
    let cpu = usage::cpu(ztunnel.pid)?;
    let mut times = Vec::new();
    for index in 0..CHANGES {
        let changed = workloads::changed(count, index);
        times.push(push(&mut conversation, vec![changed]).await?);
    }
    times.sort();
    let cpu = usage::cpu(ztunnel.pid)? - cpu;
    set("change_ms", times[CHANGES / 2].as_secs_f64() * 1e3);
    set("change_cpu_ms", cpu.as_secs_f64() * 1e3 / CHANGES as f64);
    set("lookup_ns", workloads::lookup_ns(&all)?);
    Ok(figures)
}

/// From the response to its acknowledgement.
async fn push(
    conversation: &mut Conversation,
    resources: Vec<proto::wire::discovery::Resource>,
) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let acknowledged = timeout(PATIENCE, conversation.push(resources)).await;
    acknowledged.context("no acknowledgement")??;
    Ok(begun.elapsed())
}

struct Ztunnel {
    child: Child,
    pid: i32,
}

impl Ztunnel {
    fn start(binary: &Path, certificates: &Certificates, directory: &Path) -> anyhow::Result<Self> {
        let token = directory.join("token");
        let mut file = OpenOptions::new();
        let mut file = file
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&token)?;
        writeln!(file, "{}", "5".repeat(64))?;
        let url = format!("https://{ADDRESS}");
        let log = File::create(directory.join("ztunnel.log"))?;
        let child = Command::new(binary)
            .args(["--node-name", "bench", "--log", "warn", "--io", "epoll"])
            .args(["--workers", &WORKERS.to_string()])
            .args(["--xds-address", &url, "--ca-address", &url, "--root-cert"])
            .arg(certificates.root())
            .arg("--token-file")
            .arg(&token)
            .arg("--zds-socket")
            .arg(directory.join("nobody.sock"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = i32::try_from(child.id())?;
        Ok(Ztunnel { child, pid })
    }

    /// The end of what it wrote.
    fn log(&mut self, directory: &Path) -> String {
        let text = fs::read_to_string(directory.join("ztunnel.log")).unwrap_or_default();
        let from = text.len().saturating_sub(1000);
        text.get(from..).unwrap_or_default().to_owned()
    }
}

impl Drop for Ztunnel {
    fn drop(&mut self) {
        // It may have ended; both say so.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}
