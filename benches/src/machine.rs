//! What a report was measured on: machine, kernel, commit, command.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// What a reader needs to judge the figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Cores the run could use.
    pub cores: usize,
    /// Memory in MB.
    pub memory_mb: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Commit of the sources, with `+changes` when the tree had some.
    pub commit: String,
    /// Command line of the run.
    pub command: String,
    /// Seconds since 1970.
    pub at: u64,
    /// Load average of the last minute before the run: above 1 it was not quiet.
    pub load_before: f64,
}

/// This machine, now.
pub(crate) fn describe() -> anyhow::Result<Machine> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let memory = value(&memory, "MemTotal").context("no MemTotal")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(Machine {
        processor: value(&cpus, "model name").unwrap_or_default(),
        cores: std::thread::available_parallelism()?.get(),
        memory_mb: memory.trim_end_matches(" kB").parse::<u64>()? / 1024,
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        commit: commit(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        at: now.as_secs(),
        load_before: 0.0,
    })
}

/// The load average of the last minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|one| one.parse().ok()).unwrap_or(f64::NAN)
}

/// `key   : value`.
fn value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A build outside of a work tree has none.
fn commit() -> String {
    let git = |words: &[&str]| {
        let output = Command::new("git")
            .args(words)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    // The page itself is what a run writes.
    let rest = [":/", ":(top,exclude)docs/performance.*"];
    let changed = git(&[
        &["status", "--porcelain", "--untracked-files=no", "--"],
        &rest[..],
    ]
    .concat());
    match changed.as_deref() {
        Some("") => commit,
        _ => format!("{commit}+changes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_behind_their_key() {
        let text = "processor\t: 0\nmodel name\t: A B\n";
        assert_eq!(value(text, "model name"), Some("A B".to_owned()));
        assert_eq!(value(text, "flags"), None);
    }
}
