//! What processes and the machine have used: CPU time and resident memory, from /proc.

use std::iter::Sum;
use std::ops::Sub;
use std::time::Duration;

use anyhow::Context;

/// CPU time at one moment, or of a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Of the proxies of a path: user and system time of all their threads.
    pub(crate) proxies: Duration,
    /// Of the whole machine: everything but idle time. Interrupts are in it, whoever they hit.
    pub(crate) machine: Duration,
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, before: Usage) -> Usage {
        Usage {
            proxies: self.proxies.saturating_sub(before.proxies),
            machine: self.machine.saturating_sub(before.machine),
        }
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Usage>>(parts: I) -> Usage {
        parts.fold(Usage::default(), |sum, part| Usage {
            proxies: sum.proxies + part.proxies,
            machine: sum.machine + part.machine,
        })
    }
}

/// What has been used so far.
pub(crate) fn now(proxies: &[i32]) -> anyhow::Result<Usage> {
    let cpu = proxies.iter().copied().map(cpu);
    Ok(Usage {
        proxies: cpu.sum::<anyhow::Result<_>>()?,
        machine: ticks(busy(&std::fs::read_to_string("/proc/stat")?)?)?,
    })
}

/// CPU time of a process with all its threads, user and system.
pub(crate) fn cpu(pid: i32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    // proc_pid_stat(5): the name may hold anything, so count from its closing parenthesis.
    let (_, rest) = text
        .rsplit_once(')')
        .context("/proc/<pid>/stat without a name")?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let mut sum = 0;
    for index in [11, 12] {
        sum += fields
            .get(index)
            .context("a short /proc/<pid>/stat")?
            .parse::<u64>()?;
    }
    ticks(sum)
}

/// Resident memory in bytes.
pub(crate) fn rss_bytes(pid: i32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Ticks of all CPUs that were not idle: user, nice, system, irq, softirq, steal.
fn busy(stat: &str) -> anyhow::Result<u64> {
    let line = stat.lines().next().context("an empty /proc/stat")?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    anyhow::ensure!(fields.len() >= 8, "a short /proc/stat");
    Ok([0, 1, 2, 5, 6, 7].into_iter().map(|i| fields[i]).sum())
}

fn ticks(ticks: u64) -> anyhow::Result<Duration> {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_the_time_of_guests_are_not_busy() {
        let stat = "cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        assert_eq!(busy(stat).unwrap(), 1 + 2 + 4 + 8 + 16 + 32);
    }

    #[test]
    fn our_own_process_has_memory() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(rss_bytes(own).unwrap() > 100_000);
        assert!(cpu(own).is_ok());
    }
}
