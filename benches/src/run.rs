//! One run: every case on every path, round by round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::axes::{Around, Case, Scale};
use crate::bed::{Bed, Path};
use crate::figures::{Figures, collect};
use crate::machine;
use crate::report::{Report, Row};

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often each case is run on each path.
    pub rounds: usize,
    /// Of each single measurement of a rate.
    pub length: Duration,
    /// Only what an engineer decides by.
    pub quick: bool,
    /// Axes that are wanted; all when empty.
    pub only: Vec<String>,
}

/// Runs the plan on a bed.
///
/// # Errors
/// When the machine cannot be described; a case that fails is a failed row.
pub fn run(bed: &Bed, plan: &Plan) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let mut machine = machine::describe()?;
    machine.load_before = machine::load();
    let scale = Scale {
        length: plan.length,
        quick: plan.quick,
    };
    let around = Around {
        scale,
        direct: bed.paths().iter().find(|path| path.name == "direct"),
    };
    let mut rows = Vec::new();
    for case in Case::all(scale) {
        if plan.only.is_empty() || plan.only.iter().any(|axis| axis == case.axis()) {
            eprintln!(
                "{:4.0} s  {}: {}",
                begun.elapsed().as_secs_f64(),
                case.axis(),
                case.name()
            );
            rows.extend(rounds(case, bed.paths(), &around, plan.rounds));
            rows.extend(bed.failed().iter().map(|(path, why)| Row {
                failed: Some(why.clone()),
                ..row(case, path)
            }));
        }
    }
    Ok(Report {
        machine,
        rounds: plan.rounds,
        seconds: plan.length.as_secs_f64(),
        took_s: begun.elapsed().as_secs_f64(),
        rows,
    })
}

/// A path that fails in one round is left out of the following ones.
fn rounds(case: Case, paths: &[Path], around: &Around<'_>, rounds: usize) -> Vec<Row> {
    let mut runs: BTreeMap<usize, Vec<Figures>> = BTreeMap::new();
    let mut failed = BTreeMap::new();
    for round in 0..rounds {
        for turn in 0..paths.len() {
            // Another one begins in each round: none has the same neighbour always.
            let index = (turn + round) % paths.len();
            if failed.contains_key(&index) {
                continue;
            }
            match case.run(&paths[index], around) {
                Ok(mut figures) => {
                    // A path without proxies has none of their figures.
                    let proxied = !paths[index].proxies.is_empty();
                    figures.retain(|name, _| proxied || !name.starts_with("proxy_"));
                    runs.entry(index).or_default().push(figures);
                }
                Err(error) => {
                    eprintln!("        {}: {error:#}", paths[index].name);
                    failed.insert(index, format!("{error:#}"));
                }
            }
        }
    }
    let rows = paths.iter().enumerate().map(|(index, path)| Row {
        figures: collect(runs.get(&index).map_or(&[], Vec::as_slice)),
        failed: failed.remove(&index),
        ..row(case, &path.name)
    });
    rows.collect()
}

fn row(case: Case, path: &str) -> Row {
    Row {
        axis: case.axis().to_owned(),
        case: case.name(),
        path: path.to_owned(),
        figures: BTreeMap::new(),
        failed: None,
    }
}
