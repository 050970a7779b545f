//! A node with a thousand enrolled pods: what each costs its ztunnel and its agent.
//!
//! One round: to make and to remove the namespaces takes longer than all that is measured. Nothing
//! is sent; what connections cost is measured elsewhere.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use world::Process;

use super::figures;
use crate::bed::{Crowd, Options, variants};
use crate::figures::Figures;
use crate::run::Runs;
use crate::usage::{cpu, rss_bytes};

/// The bound of a ztunnel is 1,024.
const PODS: usize = 1000;
/// Name of the only case.
pub(crate) const CASE: &str = "1000 pods enrolled";
/// Until a proxy has given back what it does not need.
const SETTLE: Duration = Duration::from_secs(5);
/// How long CPU time of idle processes is counted: it is known in steps of 10 ms only.
const IDLE: Duration = Duration::from_secs(20);
/// A proxy drains for a while; here it has no connections.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// One round of each back end of each ztunnel, on the same namespaces; with their names.
pub(crate) fn round(options: &Options) -> anyhow::Result<(Runs, Vec<String>)> {
    let mut variants = variants(&options.ztunnels)?;
    variants.retain(|(name, ..)| options.wants(name));
    let mut runs = Runs::default();
    if !variants.is_empty() {
        let crowd = Crowd::new(PODS);
        let agent = crowd.as_ref().map_or(Ok(0.0), agent_rss);
        for (name, binary, io) in &variants {
            let result = match (&crowd, &agent) {
                (Ok(crowd), Ok(agent)) => one(crowd, binary, (io, &options.log), *agent),
                (Err(error), _) | (_, Err(error)) => Err(anyhow::anyhow!("{error:#}")),
            };
            runs.add(name, result);
        }
    }
    Ok((runs, variants.into_iter().map(|(name, ..)| name).collect()))
}

/// What is known of a process at a moment.
struct Seen {
    rss: f64,
    files: f64,
    cpu: Duration,
}

impl Seen {
    fn of(process: &Process) -> anyhow::Result<Self> {
        let pid = process.pid();
        let files = fs::read_dir(format!("/proc/{pid}/fd")).context("open files of a process")?;
        Ok(Seen {
            rss: rss_bytes(pid)? as f64,
            files: files.count() as f64,
            cpu: cpu(pid)?,
        })
    }
}

fn agent_rss(crowd: &Crowd) -> anyhow::Result<f64> {
    std::thread::sleep(SETTLE);
    Ok(rss_bytes(crowd.agent.pid())? as f64)
}

/// `agent`: resident bytes of the agent before it had any pod.
fn one(
    crowd: &Crowd,
    ztunnel: &Path,
    (io, log): (&str, &str),
    agent: f64,
) -> anyhow::Result<Figures> {
    let proxy = crowd.start(ztunnel, io, log)?;
    std::thread::sleep(SETTLE);
    let empty = Seen::of(&proxy)?;
    let begun = Instant::now();
    let took = crowd.enrol()?;
    let enrolled_in = begun.elapsed();
    let worked = Seen::of(&proxy)?;
    std::thread::sleep(SETTLE);
    let full = Seen::of(&proxy)?;
    let agent = rss_bytes(crowd.agent.pid())? as f64 - agent;
    std::thread::sleep(IDLE);
    let idle = Seen::of(&proxy)?.cpu.saturating_sub(full.cpu);
    crowd.release()?;
    proxy.stop(STOP_WITHIN)?;
    let pods = PODS as f64;
    let cpu_ms = worked.cpu.saturating_sub(empty.cpu).as_secs_f64() * 1e3;
    Ok(figures([
        ("empty_rss_mb", empty.rss / 1e6),
        ("proxy_rss_mb", full.rss / 1e6),
        ("bytes_per_pod", (full.rss - empty.rss) / pods),
        ("files_per_pod", (full.files - empty.files) / pods),
        ("agent_bytes_per_pod", agent / pods),
        ("enrol_all_s", enrolled_in.as_secs_f64()),
        ("enrol_one_ms", took[took.len() / 2].as_secs_f64() * 1e3),
        ("enrol_proxy_cpu_ms", cpu_ms / pods),
        (
            "idle_proxy_cpu_ms_s",
            idle.as_secs_f64() * 1e3 / IDLE.as_secs_f64(),
        ),
    ]))
}
