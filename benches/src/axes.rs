//! What is measured: axes, and the cases of each.
//!
//! A case is run on one path for one round and gives its figures. It must not know other paths or
//! rounds: who compares is the report.

mod bulk;
mod connections;
mod fairness;
mod memory;
mod requests;

use std::time::Duration;

use anyhow::Context;
use world::Program;

use crate::bed::Path;
use crate::counted;
use crate::figures::Figures;
use crate::tools::Summary;
use crate::usage::{self, Usage};

/// Longer than any start-up and tear-down of a load program.
const SLACK: Duration = Duration::from_secs(30);

/// How a run is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Of each single measurement of a rate.
    pub(crate) length: Duration,
    /// Only the axes and cases an engineer decides by.
    pub(crate) quick: bool,
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Case {
    /// Memory of the proxies before any load of this run.
    Idle,
    /// iperf3 with that many streams, towards the client when reversed.
    Bulk { streams: u32, reversed: bool },
    /// wrk with that many connections that stay open.
    Requests { connections: u32 },
    /// Requests at a constant rate: half of what the direct path does with as many connections.
    Paced { connections: u32 },
    /// A connection for each request, that many at the same time.
    Fresh { connections: u32 },
    /// Ping-pong flows beside one bulk stream.
    Fairness,
}

/// What a case may look up besides its path.
pub(crate) struct Around<'a> {
    pub(crate) scale: Scale,
    pub(crate) direct: Option<&'a Path>,
}

impl Case {
    /// All of a run, in the order they are measured.
    pub(crate) fn all(scale: Scale) -> Vec<Case> {
        let streams: &[u32] = if scale.quick { &[1, 4] } else { &[1, 4, 16] };
        let directions: &[bool] = if scale.quick {
            &[false]
        } else {
            &[false, true]
        };
        let bulk = directions.iter().flat_map(|reversed| {
            streams.iter().map(|streams| Case::Bulk {
                streams: *streams,
                reversed: *reversed,
            })
        });
        let several = [1, 16, 64];
        let requests = several.map(|connections| Case::Requests { connections });
        let fresh = several.map(|connections| Case::Fresh { connections });
        let mut cases = vec![Case::Idle];
        cases.extend(bulk.chain(requests));
        if !scale.quick {
            cases.extend([1, 16].map(|connections| Case::Paced { connections }));
        }
        cases.extend(fresh);
        if !scale.quick {
            cases.push(Case::Fairness);
        }
        cases
    }

    /// The axis it belongs to: what `--only` names.
    pub(crate) fn axis(self) -> &'static str {
        match self {
            Case::Idle => "memory",
            Case::Bulk { .. } => "bulk",
            Case::Requests { .. } => "requests",
            Case::Paced { .. } => "paced",
            Case::Fresh { .. } => "connections",
            Case::Fairness => "fairness",
        }
    }

    /// Its name, unique within its axis.
    pub(crate) fn name(self) -> String {
        match self {
            Case::Idle => "idle".to_owned(),
            Case::Bulk { streams, reversed } => {
                let direction = if reversed { "download" } else { "upload" };
                format!("{streams} streams, {direction}")
            }
            Case::Requests { connections } | Case::Paced { connections } => {
                format!("{connections} connections")
            }
            Case::Fresh { connections } => format!("{connections} at a time"),
            Case::Fairness => "16 flows beside one elephant".to_owned(),
        }
    }

    /// Runs it once on a path.
    pub(crate) fn run(self, path: &Path, around: &Around<'_>) -> anyhow::Result<Figures> {
        let length = around.scale.length;
        match self {
            Case::Idle => memory::idle(path),
            Case::Bulk { streams, reversed } => bulk::run(path, (streams, reversed), length),
            Case::Requests { connections } => requests::closed_loop(path, connections, length),
            Case::Paced { connections } => {
                let direct = around.direct.context("paced needs the path direct")?;
                requests::paced(path, direct, connections, length)
            }
            Case::Fresh { connections } => connections::run(path, connections, length),
            Case::Fairness => fairness::run(path, length),
        }
    }
}

/// Runs a load and measures what was used meanwhile; on a path of culvert at least `at_least`
/// connections must have gone through tunnels, on both nodes, or it is an error.
fn measured<T>(
    path: &Path,
    at_least: impl FnOnce(&T) -> u64,
    load: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Usage)> {
    let tunnelled = counted::tunnelled(path)?;
    let before = usage::now(&path.proxies)?;
    let result = load()?;
    let used = usage::now(&path.proxies)? - before;
    counted::check(path, &tunnelled, at_least(&result))?;
    Ok((result, used))
}

/// Runs one of our own load programs in the client's pod.
fn own_load(path: &Path, words: &[String], length: Duration) -> anyhow::Result<Summary> {
    let program = Program::new(std::env::current_exe()?)
        .arg("load")
        .args(words.iter().cloned())
        .limit(length + SLACK);
    let text = path.client.text(&program)?;
    serde_json::from_str(&text).with_context(|| format!("output of load {words:?}:\n{text}"))
}

/// Figures by name.
fn figures<const N: usize>(pairs: [(&str, f64); N]) -> Figures {
    let pairs = pairs.into_iter();
    pairs
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The part of a summary in which all loads agree: latencies.
fn latencies(summary: &Summary) -> Figures {
    figures([("p50_us", summary.p50_us), ("p99_us", summary.p99_us)])
}

/// CPU-µs per unit of work, of proxies and machine.
fn cpu_us_per(work: f64, used: Usage) -> Figures {
    figures([
        ("proxy_cpu_us_each", used.proxies.as_secs_f64() * 1e6 / work),
        (
            "machine_cpu_us_each",
            used.machine.as_secs_f64() * 1e6 / work,
        ),
    ])
}
