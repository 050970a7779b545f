//! Packets are lost between the nodes: dropped at random by a packet filter of the router.

use anyhow::{Context, ensure};
use scenarios::traffic::LoadReport;
use world::{Program, World};

use super::ground::Ground;

/// Short, middling, bulk, half-closed and aborted connections, at 1 % in each direction.
const MIXED: &str = "--count 60 --workers 6 --pause 5 --mixed";
/// Fewer at 10 %.
const FEWER: &str = "--count 40 --workers 10 --pause 5 --mixed";

/// No connection fails, whatever its kind.
pub fn one_percent(ground: &mut Ground) -> anyhow::Result<()> {
    let loss = Loss::start(ground, 1)?;
    let reports = both_ways(ground, MIXED);
    let lost = loss.end(ground)?;
    let [mut report, far] = reports?;
    report.add(&far);
    ensure!(report.failures() == 0 && report.streams > 0, "{report:?}");
    println!(
        "    {lost} packets lost, {} streams, {} MiB, the slowest {} ms",
        report.streams,
        (report.bytes_up + report.bytes_down) >> 20,
        report.slowest_ms
    );
    ground.works()
}

/// Nothing is corrupted; what fails has a reason in the log.
pub fn ten_percent(ground: &mut Ground) -> anyhow::Result<()> {
    let marks = [ground.mark(0), ground.mark(1)];
    let loss = Loss::start(ground, 10)?;
    let reports = both_ways(ground, FEWER);
    let lost = loss.end(ground)?;
    let [near, far] = reports?;
    for (node, report) in [&near, &far].into_iter().enumerate() {
        ensure!(report.mismatched == 0, "{report:?}");
        ensure!(report.streams > 0, "nothing came through: {report:?}");
        // Of a connection that fails, both sides tell; the client's proxy does so in any case.
        let reasons = ground.reasons_of(node, marks[node], report.failures())?;
        println!(
            "    from node {node}: {} of {} streams, {} aborted on purpose, {} MiB, the slowest \
             {} ms; failed: {:?}; in the log: {reasons:?}",
            report.streams,
            report.connections,
            report.aborted,
            (report.bytes_up + report.bytes_down) >> 20,
            report.slowest_ms,
            report.failed
        );
    }
    println!("    {lost} packets lost");
    ground.works()
}

fn both_ways(ground: &mut Ground, words: &str) -> anyhow::Result<[LoadReport; 2]> {
    let [near, far] = ground.ends();
    let near = ground.load(&near.0, &near.1, words)?;
    let far = ground.load(&far.0, &far.1, words)?;
    Ok([ground.bed.result(&near)?, ground.bed.result(&far)?])
}

/// A table of the router's packet filter.
struct Loss;

impl Loss {
    fn start(ground: &Ground, percent: u32) -> anyhow::Result<Self> {
        let link = World::link_to("node-2");
        let drop = format!("numgen random mod 100 < {percent} counter drop");
        let rules = format!(
            "table inet loss {{ chain forward {{ type filter hook forward priority 0;\n\
             iifname {link} {drop}\noifname {link} {drop}\n}}\n}}\n"
        );
        let router = ground.bed.mesh.world.router();
        router
            .run(&Program::line("nft -f -").stdin(rules))?
            .success()?;
        Ok(Loss)
    }

    /// Ends it; how many packets were lost, which must be some.
    fn end(self, ground: &Ground) -> anyhow::Result<u64> {
        let router = ground.bed.mesh.world.router();
        let list = router.text(&Program::line("nft -j list table inet loss"))?;
        router
            .run(&Program::line("nft delete table inet loss"))?
            .success()?;
        let list: serde_json::Value = serde_json::from_str(&list)?;
        let entries = list["nftables"].as_array().context("nft gives a list")?;
        let rules = entries
            .iter()
            .filter_map(|entry| entry["rule"]["expr"].as_array());
        let counts = rules
            .flatten()
            .filter_map(|part| part["counter"]["packets"].as_u64());
        let lost = counts.sum();
        ensure!(lost > 0, "no packet was lost: nothing was tried");
        Ok(lost)
    }
}
