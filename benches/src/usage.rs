//! What a process has used: CPU time and resident memory, from /proc.

use std::time::Duration;

use anyhow::Context;

/// CPU time of a process with all its threads, user and system.
pub(crate) fn cpu(pid: i32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc_pid_stat(5): the name may hold anything, so count from its closing parenthesis.
    let (_, rest) = text
        .rsplit_once(')')
        .context("/proc/<pid>/stat without a name")?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let mut ticks = 0;
    for index in [11, 12] {
        ticks += fields
            .get(index)
            .context("a short /proc/<pid>/stat")?
            .parse::<u64>()?;
    }
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Resident memory in KiB.
pub(crate) fn rss_kib(pid: i32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
