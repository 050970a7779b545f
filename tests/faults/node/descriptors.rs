//! Processes that may open no further file.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use scenarios::traffic::HoldReport;
use world::{Process, Program};

use super::ground::{Ground, Traces};

/// How long a process is without.
const WITHOUT: Duration = Duration::from_secs(2);
/// Connections tried meanwhile, in each direction.
const TRIED: u64 = 24;
/// Descriptors that are left in the second half: some connections begin, and get no further.
const SOME: u64 = 5;
/// Longer than a proxy keeps sockets that it made and did not use.
const UNUSED_KEPT: Duration = Duration::from_millis(1_500);
/// Codes of an ADD that nobody answered, and of one that failed.
const TRY_LATER: u64 = 11;
const NOT_CAPTURED: u64 = 100;
/// What the kernel says.
const NONE_LEFT: &str = "Too many open files";
/// A Service that is added while the control plane cannot open it.
const LATE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: late, namespace: demo}
spec:
  clusterIP: 10.96.0.77
  selector: {app: web, version: v2}
  ports: [{name: traffic, port: 77, targetPort: 9100}]
";

/// Without any, and with a few.
pub fn of_the_proxy(ground: &mut Ground) -> anyhow::Result<()> {
    ground.works()?;
    let mut held = Vec::new();
    for (from, to) in ground.ends() {
        held.push(ground.bed.hold(&from, &to, 2)?);
    }
    for spare in [0, SOME] {
        let mark = ground.mark(0);
        let limit = Limit::set(ground, &ground.bed.mesh.nodes[0].ztunnel, spare)?;
        let busy = cpu_ms(limit.pid)?;
        let loads = ground.burst(TRIED)?;
        ground.bed.sleep(WITHOUT)?;
        let busy = cpu_ms(limit.pid)? - busy;
        let said = ground.eventually("the log says why", |ground| {
            let log = ground.bed.mesh.nodes[0].ztunnel.log();
            Ok(log.get(mark..).unwrap_or_default().contains(NONE_LEFT))
        });
        let waiting = loads[0].ended().is_none();
        limit.lift(ground)?;
        said.with_context(|| format!("{spare} left"))?;
        let [out, into] = [&loads[..1], &loads[1..]].map(|loads| ground.results(loads));
        let (out, into) = (out?, into?);
        ensure!(out.mismatched + into.mismatched == 0, "{out:?} {into:?}");
        let reasons = ground.reasons_of(0, mark, out.failures() + into.failures())?;
        if spare == 0 {
            ensure!(
                waiting && out.failures() == 0,
                "those that waited: {out:?} {reasons:?}"
            );
        }
        ground.works()?;
        println!(
            "    {spare} left: {} of {TRIED} from the pod served, {} of {TRIED} to it; failed \
             {:?} {:?}, reasons {reasons:?}; {busy} ms CPU in {WITHOUT:?}",
            out.streams, into.streams, out.failed, into.failed
        );
    }
    let mut report = HoldReport::default();
    for client in &held {
        report.add(&ground.bed.finish(client)?);
    }
    ensure!(
        report.kept == report.tried && report.tried == 8,
        "{report:?}"
    );
    Ok(())
}

/// Without any the ADD is not answered, with a few it fails and is undone.
pub fn of_the_agent(ground: &mut Ground) -> anyhow::Result<()> {
    for (spare, wanted) in [(0, TRY_LATER), (SOME, NOT_CAPTURED)] {
        let pod = ground.spare()?;
        let limit = Limit::set(ground, &ground.bed.mesh.nodes[0].agent, spare)?;
        let busy = cpu_ms(limit.pid)?;
        let refused = ground.refused(&pod);
        let busy = cpu_ms(limit.pid)? - busy;
        limit.lift(ground)?;
        if spare == 0 {
            // A runtime calls DEL after an ADD that nobody answered.
            pod.delete()?;
        }
        let settled = ground.eventually("nothing of the pod is left", |ground| {
            Ok(ground.traces(&pod)? == Traces::default() && ground.phase(&pod)?.is_empty())
        });
        let left = ground.traces(&pod)?;
        if spare > 0 {
            pod.delete()?;
        }
        let (code, text) = refused?;
        ensure!(code == wanted, "{spare} left: {code}: {text}");
        ensure!(spare == 0 || text.contains(NONE_LEFT), "{text}");
        settled.with_context(|| format!("{spare} left, after {text}: {left:?}"))?;
        println!("    {spare} left: {busy} ms CPU until: {text}");
        ground.adds().context("with descriptors again")?;
    }
    ground.works()
}

/// Without any it reads no manifests, and serves what it has.
pub fn of_the_control_plane(ground: &mut Ground) -> anyhow::Result<()> {
    let limit = Limit::set(ground, &ground.bed.mesh.culvertd, 0)?;
    let busy = cpu_ms(limit.pid)?;
    ground.bed.mesh.manifests.put("91-late.yaml", LATE)?;
    ground.bed.sleep(WITHOUT)?;
    let busy = cpu_ms(limit.pid)? - busy;
    let said = ground.eventually("culvertd says that it cannot read", |ground| {
        Ok(ground.bed.mesh.culvertd.log().contains(NONE_LEFT))
    });
    let known = known(ground, 0)?;
    let works = ground.works();
    limit.lift(ground)?;
    said?;
    works?;
    ensure!(
        known.contains("\"web\"") && !known.contains("\"late\""),
        "{known}"
    );
    ensure!(ground.bed.mesh.culvertd.ended().is_none());
    ground.eventually("the manifest is read", |ground| {
        Ok(self::known(ground, 0)?.contains("\"late\""))
    })?;
    ground.bed.mesh.manifests.remove("91-late.yaml")?;
    println!("    {busy} ms CPU in {WITHOUT:?}");
    ground.adds()
}

/// Names of the services that a node's proxy knows.
fn known(ground: &Ground, node: usize) -> anyhow::Result<String> {
    let place = ground.bed.mesh.nodes[node].node.place();
    let dump = world::stack::get(place, "http://127.0.0.1:15000/config_dump")?;
    let dump: serde_json::Value = serde_json::from_str(&dump)?;
    let services = dump["services"].as_array().context("a dump has services")?;
    let names: Vec<_> = services.iter().map(|service| &service["name"]).collect();
    Ok(serde_json::to_string(&names)?)
}

/// A lowered soft limit of a running process.
struct Limit {
    pid: i32,
    before: String,
}

impl Limit {
    /// So that it may open `spare` more than it has now.
    fn set(ground: &Ground, process: &Process, spare: u64) -> anyhow::Result<Self> {
        let pid = process.pid();
        settle(ground, pid)?;
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().nth(3));
        let before = soft.context("its limit of open files")?.to_owned();
        let limit = Limit { pid, before };
        limit.write(ground, &with_free(pid, spare)?.to_string())?;
        Ok(limit)
    }

    fn lift(self, ground: &Ground) -> anyhow::Result<()> {
        self.write(ground, &self.before)
    }

    fn write(&self, ground: &Ground, soft: &str) -> anyhow::Result<()> {
        let program = Program::new("prlimit")
            .args([format!("--pid={}", self.pid), format!("--nofile={soft}:")]);
        ground.bed.mesh.world.router().run(&program)?.success()?;
        Ok(())
    }
}

/// Until no descriptor is closed any more: a proxy keeps unused sockets for up to a second
/// (`netio`, socket/stock.rs), and each one that it closes would be one more than `spare`.
fn settle(ground: &Ground, pid: i32) -> anyhow::Result<()> {
    let mut before = open(pid)?;
    loop {
        ground.bed.sleep(UNUSED_KEPT)?;
        let now = open(pid)?;
        if now.is_superset(&before) {
            return Ok(());
        }
        before = now;
    }
}

/// Numbers of the open descriptors.
fn open(pid: i32) -> anyhow::Result<BTreeSet<u64>> {
    let mut used = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        used.extend(entry?.file_name().to_string_lossy().parse::<u64>());
    }
    Ok(used)
}

/// The limit is one of numbers, not of a count: the number below which so many are free.
fn with_free(pid: i32, spare: u64) -> anyhow::Result<u64> {
    let used = open(pid)?;
    let mut free = (0..).filter(|number| !used.contains(number));
    let index = usize::try_from(spare)?;
    free.nth(index).context("numbers have no end")
}

/// CPU time that a process has used.
fn cpu_ms(pid: i32) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |index| rest.split_whitespace().nth(index)?.parse::<u64>().ok();
    let ticks = field(11)
        .zip(field(12))
        .context("stat has utime and stime")?;
    // USER_HZ is 100 on Linux.
    Ok((ticks.0 + ticks.1) * 10)
}
