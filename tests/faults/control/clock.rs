//! Clocks that jump past the end of certificates and back, by Debian's `faketime`: the processes
//! run with a wall clock of their own, which moves while they run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use scenarios::faults::{Bed, Start};
use scenarios::traffic::HoldReport;
use scenarios::{Scenario, scenario};
use world::Process;

use super::gone::FOUND_WITHIN;

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// A leaf lives for a day.
const PAST_THE_END: &str = "+2d";
const NOW: &str = "+0";
/// How long the work of a process is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Clock ticks of the kernel in a second (USER_HZ).
const TICKS_PER_SECOND: u64 = 100;

pub fn scenarios() -> Vec<Scenario<Bed>> {
    vec![scenario(
        "clocks that jump past the end of certificates refuse with that reason until the CA's \
         agrees, and so back",
        jump,
    )]
}

/// A wall clock of some processes.
struct Clock(PathBuf);

impl Clock {
    fn new(bed: &Bed, name: &str) -> anyhow::Result<Self> {
        let clock = Clock(bed.world.directory().join(name));
        clock.set(NOW)?;
        Ok(clock)
    }

    fn set(&self, offset: &str) -> anyhow::Result<()> {
        // In one step for who reads it.
        let new = self.0.with_extension("new");
        fs::write(&new, offset)?;
        Ok(fs::rename(new, &self.0)?)
    }

    /// A process that lives by it. The monotonic clock stays the kernel's: that one never jumps.
    fn start(&self) -> anyhow::Result<Start> {
        ensure!(
            Path::new(LIBRARY).is_file(),
            "{LIBRARY} is missing: run setup.sh"
        );
        let env = [
            ("LD_PRELOAD", LIBRARY),
            ("FAKETIME_TIMESTAMP_FILE", &*self.0.to_string_lossy()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ];
        Ok(Start {
            env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
            ..Start::default()
        })
    }
}

fn jump(bed: &mut Bed) -> anyhow::Result<()> {
    let (nodes, ca) = (
        Clock::new(bed, "clock-nodes")?,
        Clock::new(bed, "clock-ca")?,
    );
    restart_all(bed, &nodes.start()?, &ca.start()?)?;
    bed.until_right(FOUND_WITHIN)?;
    let held = bed.hold(&bed.client, 2)?;

    nodes.set(PAST_THE_END)?;
    let reason = bed.refused(&bed.client, &["no certificate", "ended"])?;
    ensure!(reason.contains("demo/sa/client"), "of whom? {reason}");
    works_little(bed)?;

    ca.set(PAST_THE_END)?;
    bed.until_right(FOUND_WITHIN)?;
    works_little(bed)?;

    nodes.set(NOW)?;
    ca.set(NOW)?;
    bed.until_right(FOUND_WITHIN)?;
    works_little(bed)?;

    let held: HoldReport = bed.finish(&held)?;
    ensure!(held.kept == held.tried, "live connections: {held:?}");
    restart_all(bed, &Start::default(), &Start::default())?;
    bed.until_right(FOUND_WITHIN)
}

fn restart_all(bed: &mut Bed, nodes: &Start, ca: &Start) -> anyhow::Result<()> {
    bed.end_culvertd(Signal::SIGTERM)?;
    bed.start_culvertd(ca)?;
    for node in [0, 1] {
        bed.end_ztunnel(node, Signal::SIGTERM)?;
        bed.start_ztunnel(node, nodes)?;
    }
    Ok(())
}

/// None of them works without end, as with a timer that is always due: in a while without traffic
/// each uses less than half of a core.
fn works_little(bed: &Bed) -> anyhow::Result<()> {
    let ztunnels = bed.parts.iter().filter_map(|part| part.ztunnel.as_ref());
    let processes: Vec<&Process> = ztunnels.chain(bed.culvertd.as_ref()).collect();
    ensure!(processes.len() == 3, "a process has ended");
    // What a change has set off may take a while; a timer that is always due takes for ever.
    let deadline = Instant::now() + FOUND_WITHIN;
    while let Err(busy) = worked_little(bed, &processes) {
        ensure!(Instant::now() < deadline, "{busy:#}");
    }
    Ok(())
}

fn worked_little(bed: &Bed, processes: &[&Process]) -> anyhow::Result<()> {
    let start = Instant::now();
    let before = processes.iter().map(|it| ticks(it));
    let before: Vec<u64> = before.collect::<anyhow::Result<_>>()?;
    bed.sleep(LOOK)?;
    for (process, before) in processes.iter().zip(before) {
        let used = ticks(process)?.saturating_sub(before);
        let whole = start.elapsed().as_secs() * TICKS_PER_SECOND;
        ensure!(
            used < whole / 2,
            "{} used {used} ticks of {whole}",
            process.name()
        );
    }
    Ok(())
}

/// User and system time of a process: fields 14 and 15 of its stat.
fn ticks(process: &Process) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid()))?;
    let (_, rest) = stat.rsplit_once(')').context("no command in the stat")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    let (user, system) = (next(), next());
    Ok(user.context("no user time")? + system.context("no system time")?)
}
