//! What the attacked proxy uses: memory, descriptors, CPU, log. Reads /proc, knows no attack.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use world::Process;

/// Resident memory that an attack may leave behind, MiB: free heap of a busy process is given back
/// only when it idles.
pub const KEPT_MIB: f64 = 24.0;
/// Descriptors that may be open more than before: tunnels between pods are kept for five minutes.
pub const KEPT_FDS: usize = 48;
/// The proxy is as before within this after an attack.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(45);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Clock ticks of /proc/PID/stat in a second: USER_HZ is 100 on every architecture of ours.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the proxy used: before, at the highest, and after everything settled.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    /// Resident memory, MiB.
    pub rss_mib: [f64; 3],
    /// Open descriptors.
    pub fds: [usize; 3],
    /// Cores busy with it while the attack ran.
    pub cpu_cores: f64,
    /// Written to its log meanwhile, KiB.
    pub log_kib: u64,
}

/// One look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Look {
    /// Resident memory, MiB.
    pub rss_mib: f64,
    /// Open descriptors.
    pub fds: usize,
}

/// Looks at a process now.
///
/// # Errors
/// It is gone.
pub fn look(process: &Process) -> anyhow::Result<Look> {
    let directory = format!("/proc/{}", process.pid());
    let gone = || format!("{} is gone", process.name());
    let status = fs::read_to_string(format!("{directory}/status")).with_context(gone)?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = rss.and_then(|rss| rss.split_whitespace().next()?.parse::<f64>().ok());
    Ok(Look {
        rss_mib: kib.with_context(gone)? / 1024.0,
        fds: fs::read_dir(format!("{directory}/fd"))
            .with_context(gone)?
            .count(),
    })
}

/// CPU time of a process so far.
fn cpu(process: &Process) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid()))?;
    // Behind the name in parentheses; user and system time are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
}

/// Runs `work` and looks at the process before and meanwhile; [`Usage::settle`] looks at it after.
pub fn around<T>(
    process: &Process,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Usage)> {
    let before = look(process)?;
    let log = fs::metadata(process.log_path())?.len();
    let (start, cpu_before) = (Instant::now(), cpu(process)?);
    let over = AtomicBool::new(false);
    let (result, highest) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut highest = before;
            while !over.load(Ordering::Relaxed) {
                if let Ok(now) = look(process) {
                    highest.rss_mib = highest.rss_mib.max(now.rss_mib);
                    highest.fds = highest.fds.max(now.fds);
                }
                std::thread::sleep(LOOK_EVERY);
            }
            highest
        });
        let result = work();
        over.store(true, Ordering::Relaxed);
        (result, watching.join().unwrap_or(before))
    });
    let result = result?;
    let busy = (cpu(process)? - cpu_before).as_secs_f64();
    let cpu_cores = busy / start.elapsed().as_secs_f64();
    let log_kib = (fs::metadata(process.log_path())?.len() - log) / 1024;
    let now = look(process)?;
    let usage = Usage {
        rss_mib: [before.rss_mib, highest.rss_mib, now.rss_mib],
        fds: [before.fds, highest.fds, now.fds],
        cpu_cores,
        log_kib,
    };
    Ok((result, usage))
}

impl Usage {
    /// Looks until the process is about as before, or [`SETTLES_WITHIN`] is over. Nobody asks it
    /// for anything meanwhile: free heap is given back by a process that idles.
    pub fn settle(&mut self, process: &Process) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let now = look(process)?;
            self.rss_mib[2] = now.rss_mib;
            self.fds[2] = now.fds;
            let small = now.rss_mib <= self.rss_mib[0] + KEPT_MIB;
            let closed = now.fds <= self.fds[0] + KEPT_FDS;
            if (small && closed) || start.elapsed() > SETTLES_WITHIN {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What is beyond the bounds; `peak_mib` is how much the memory may grow meanwhile.
    pub fn wrong(&self, peak_mib: f64) -> Vec<String> {
        let mut wrong = Vec::new();
        let [before, highest, after] = self.rss_mib;
        if highest > before + peak_mib {
            wrong.push(format!(
                "memory rose from {before:.1} to {highest:.1} MiB, more than {peak_mib} MiB"
            ));
        }
        if after > before + KEPT_MIB {
            wrong.push(format!("memory stayed at {after:.1} after {before:.1} MiB"));
        }
        let [before, _, after] = self.fds;
        if after > before + KEPT_FDS {
            wrong.push(format!("{after} descriptors stay open, {before} before"));
        }
        wrong
    }
}
