//! What is measured: axes, and the cases of each.
//!
//! A case is run on one path for one round and gives its figures. It must not know other paths or
//! rounds: who compares is the report.

mod bulk;
mod cold;
pub(crate) mod configuration;
mod connections;
mod fairness;
mod growth;
pub(crate) mod memory;
pub(crate) mod pods;
pub(crate) mod requests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use world::Program;

use crate::bed::Path;
use crate::counted;
use crate::figures::Figures;
use crate::tools::Summary;
use crate::usage::{self, Usage};

use growth::Held;

/// Longer than any start-up and tear-down of a load program.
pub(crate) const SLACK: Duration = Duration::from_secs(30);

/// Growth is no figure to reach, and long.
const GROWTH_ROUNDS: usize = 2;

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
    /// iperf3 with that many streams, towards the client when reversed.
    Bulk { streams: u32, reversed: bool },
    /// wrk with that many connections that stay open.
    Requests { connections: u32 },
    /// Requests at a constant rate: half of what the direct path does with as many connections.
    Paced { connections: u32 },
    /// A connection for each request, that many at the same time.
    Fresh { connections: u32 },
    /// Tunnels to the terminating proxy, each closed when its CONNECT was answered.
    Cold,
    /// Ping-pong flows beside one bulk stream.
    Fairness,
    /// Connections and bytes while others are held open.
    Growth(Held),
}

/// What a case may look up besides its path.
pub(crate) struct Around<'a> {
    pub(crate) scale: Scale,
    pub(crate) direct: Option<&'a Path>,
    /// Rate of the direct path by connections, measured once a round: the machine's speed is that
    /// of the round.
    pub(crate) rates: RefCell<BTreeMap<u32, f64>>,
}

impl Case {
    /// All of a run, in the order they are measured.
    pub(crate) fn all(scale: Scale) -> Vec<Case> {
        let streams: &[u32] = if scale.quick { &[1, 4] } else { &[1, 4, 16] };
        let upload = streams.iter().map(|streams| Case::Bulk {
            streams: *streams,
            reversed: false,
        });
        let download = streams.iter().map(|streams| Case::Bulk {
            streams: *streams,
            reversed: true,
        });
        let several = [1, 16, 64];
        let requests = several.map(|connections| Case::Requests { connections });
        let fresh = several.map(|connections| Case::Fresh { connections });
        let mut cases: Vec<_> = upload.collect();
        if !scale.quick {
            cases.extend(download);
        }
        cases.extend(requests);
        if !scale.quick {
            cases.extend(several.map(|connections| Case::Paced { connections }));
        }
        cases.extend(fresh);
        if !scale.quick {
            cases.extend([Case::Cold, Case::Fairness]);
            let held = [1, 1000, 5000].map(Held::Connections);
            cases.extend(held.map(Case::Growth));
            cases.push(Case::Growth(Held::Tunnels(500)));
        }
        cases
    }

    /// The axis it belongs to: what `--only` names.
    pub(crate) fn axis(self) -> &'static str {
        match self {
            Case::Bulk { .. } => "bulk",
            Case::Requests { .. } => "requests",
            Case::Paced { .. } => "paced",
            Case::Fresh { .. } => "connections",
            Case::Cold => "cold",
            Case::Fairness => "fairness",
            Case::Growth(_) => "growth",
        }
    }

    /// Its name, unique within its axis.
    pub(crate) fn name(self) -> String {
        match self {
            Case::Bulk { streams, reversed } => {
                let direction = if reversed { "download" } else { "upload" };
                format!("{streams} streams, {direction}")
            }
            Case::Requests { connections } | Case::Paced { connections } => {
                format!("{connections} connections")
            }
            Case::Fresh { connections } => format!("{connections} at a time"),
            Case::Cold => "16 at a time".to_owned(),
            Case::Fairness => "16 flows beside one elephant".to_owned(),
            Case::Growth(Held::Connections(count)) => format!("{count} connections open"),
            Case::Growth(Held::Tunnels(count)) => format!("{count} tunnels open"),
        }
    }

    /// Runs it once on a path.
    pub(crate) fn run(self, path: &Path, around: &Around<'_>) -> anyhow::Result<Figures> {
        let length = around.scale.length;
        match self {
            Case::Bulk { streams, reversed } => bulk::run(path, (streams, reversed), length),
            Case::Requests { connections } => requests::closed_loop(path, connections, length),
            Case::Paced { connections } => {
                let known = around.rates.borrow().get(&connections).copied();
                let rate = match known {
                    Some(rate) => rate,
                    None => {
                        let direct = around.direct.context("paced needs the path direct")?;
                        requests::rate(direct, connections, length / 2)?
                    }
                };
                around.rates.borrow_mut().insert(connections, rate);
                requests::paced(path, rate, connections, length)
            }
            Case::Fresh { connections } => connections::run(path, connections, length),
            Case::Cold => cold::run(path, length),
            Case::Fairness => fairness::run(path, length),
            // Two measurements of half the length.
            Case::Growth(held) => growth::run(path, held, length / 2),
        }
    }

    /// Whether it can be run on a path.
    pub(crate) fn is_for(self, path: &Path) -> bool {
        match self {
            Case::Cold => cold::is_for(path),
            // Whoever has tunnels may grow; of Envoy nobody asks it.
            Case::Growth(_) => cold::is_for(path) && path.name != "envoy",
            _ => true,
        }
    }

    /// Rounds of a run of so many.
    pub(crate) fn rounds(self, rounds: usize) -> usize {
        match self {
            Case::Growth(_) => rounds.min(GROWTH_ROUNDS),
            _ => rounds,
        }
    }
}

/// Runs a load and measures what was used meanwhile; on a path of culvert at least `at_least`
/// connections must have gone through tunnels, on both nodes, or it is an error.
pub(crate) fn measured<T>(
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

/// Runs one of our own load programs against the terminating proxy of a path.
fn load_at_peer(
    path: &Path,
    verb: &str,
    words: &[String],
    length: Duration,
) -> anyhow::Result<Summary> {
    let program = cold::program(path, verb, words)?.limit(length + SLACK);
    let text = path.outside.text(&program)?;
    serde_json::from_str(&text).with_context(|| format!("output of load {verb}:\n{text}"))
}

/// Figures by name.
pub(crate) fn figures<const N: usize>(pairs: [(&str, f64); N]) -> Figures {
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
pub(crate) fn cpu_us_per(work: f64, used: Usage) -> Figures {
    figures([
        ("proxy_cpu_us_each", used.proxies.as_secs_f64() * 1e6 / work),
        (
            "machine_cpu_us_each",
            used.machine.as_secs_f64() * 1e6 / work,
        ),
    ])
}
