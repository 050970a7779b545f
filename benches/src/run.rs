//! One run: every case on every path, round by round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::axes::{Around, Case, Scale, configuration, memory, pods};
use crate::bed::{Bed, Options, Path};
use crate::figures::{Figures, collect};
use crate::machine;
use crate::report::{Report, Row};

/// What goes before and after each measurement, as seen on two cores.
const AROUND: Duration = Duration::from_millis(250);

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

impl Plan {
    pub(crate) fn wants(&self, axis: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|one| one == axis)
    }
}

/// Runs the plan on the paths of the options.
///
/// # Errors
/// When the machine cannot be described or the direct path not be made; a case that fails is a
/// failed row.
pub fn run(options: &Options, plan: &Plan) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let say = |what: &str| eprintln!("{:4.0} s  {what}", begun.elapsed().as_secs_f64());
    let mut machine = machine::describe()?;
    machine.load_before = machine::load();
    let mut rows = Vec::new();
    let scale = Scale {
        length: plan.length,
        quick: plan.quick,
    };
    let mut cases = Case::all(scale);
    cases.retain(|case| plan.wants(case.axis()));
    if !cases.is_empty() {
        let bed = Bed::new(options)?;
        say(&expected(&cases, &bed, plan));
        for case in cases {
            say(&format!("{}: {}", case.axis(), case.name()));
            rows.extend(rounds(case, &bed, scale, plan.rounds));
        }
    }
    if !plan.quick && plan.wants("memory") {
        say("memory");
        rows.extend(memory_rows(options, plan.rounds));
    }
    if !plan.quick && plan.wants("pods") {
        say("pods");
        let (runs, names) = pods::round(options)?;
        rows.extend(runs.rows(("pods", pods::CASE), names.iter().map(String::as_str)));
    }
    if !plan.quick && plan.wants("configuration") {
        say("configuration");
        rows.extend(configuration_rows(options, plan.rounds)?);
    }
    Ok(Report {
        machine,
        rounds: plan.rounds,
        seconds: plan.length.as_secs_f64(),
        took_s: begun.elapsed().as_secs_f64(),
        rows,
    })
}

/// How long the cases of a bed will take.
fn expected(cases: &[Case], bed: &Bed, plan: &Plan) -> String {
    let paths = |case: &Case| bed.paths().iter().filter(|path| case.is_for(path)).count();
    let counts = cases.iter();
    let counts = counts.map(|case| case.rounds(plan.rounds) * paths(case));
    let count: usize = counts.sum();
    let seconds = count as f64 * (plan.length + AROUND).as_secs_f64();
    format!("{count} measurements, about {:.0} minutes", seconds / 60.0)
}

/// The runs of one case on all paths.
#[derive(Default)]
pub(crate) struct Runs {
    figures: BTreeMap<String, Vec<Figures>>,
    /// A path that fails in one round is left out of the following ones.
    pub(crate) failed: BTreeMap<String, String>,
}

impl Runs {
    pub(crate) fn add(&mut self, path: &str, result: anyhow::Result<Figures>) {
        match result {
            Ok(figures) => self
                .figures
                .entry(path.to_owned())
                .or_default()
                .push(figures),
            Err(error) => {
                eprintln!("        {path}: {error:#}");
                self.failed.insert(path.to_owned(), format!("{error:#}"));
            }
        }
    }

    /// One row a path, in the order of the names.
    pub(crate) fn rows<'a>(
        &self,
        (axis, case): (&str, &str),
        paths: impl Iterator<Item = &'a str>,
    ) -> Vec<Row> {
        let known = paths
            .filter(|path| self.figures.contains_key(*path) || self.failed.contains_key(*path));
        known
            .map(|path| Row {
                axis: axis.to_owned(),
                case: case.to_owned(),
                path: path.to_owned(),
                figures: collect(self.figures.get(path).map_or(&[], Vec::as_slice)),
                failed: self.failed.get(path).cloned(),
            })
            .collect()
    }
}

fn rounds(case: Case, bed: &Bed, scale: Scale, rounds: usize) -> Vec<Row> {
    let paths: Vec<&Path> = bed
        .paths()
        .iter()
        .filter(|path| case.is_for(path))
        .collect();
    let mut runs = Runs::default();
    for round in 0..case.rounds(rounds) {
        let around = Around {
            scale,
            direct: bed.paths().iter().find(|path| path.name == "direct"),
            rates: Default::default(),
        };
        for turn in 0..paths.len() {
            // Another one begins in each round: none has the same neighbour always.
            let path = paths[(turn + round) % paths.len()];
            if runs.failed.contains_key(&path.name) {
                continue;
            }
            let figures = case.run(path, &around).map(|mut figures| {
                // A path without proxies has none of their figures.
                figures.retain(|name, _| !path.proxies.is_empty() || !name.starts_with("proxy_"));
                figures
            });
            runs.add(&path.name, figures);
        }
    }
    runs.failed.extend(bed.failed().iter().cloned());
    let failed = bed.failed().iter().map(|(path, _)| path.as_str());
    let names = paths.iter().map(|path| path.name.as_str());
    runs.rows((case.axis(), &case.name()), names.chain(failed))
}

/// Each round has proxies that have carried nothing yet.
fn memory_rows(options: &Options, rounds: usize) -> Vec<Row> {
    let mut runs = Runs::default();
    let mut names = Vec::new();
    for _ in 0..rounds {
        let figures = match Bed::new(options) {
            Ok(bed) => memory::round(&bed),
            // What was measured before must not be lost with it.
            Err(error) => vec![("bed".to_owned(), Err(error))],
        };
        for (path, figures) in figures {
            if !names.contains(&path) {
                names.push(path.clone());
            }
            runs.add(&path, figures);
        }
    }
    let names = names.iter().map(String::as_str);
    runs.rows(("memory", memory::CASE), names)
}

fn configuration_rows(options: &Options, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for workloads in configuration::SIZES {
        let mut runs = Runs::default();
        let ztunnels = configuration::ztunnels(options)?;
        for _ in 0..configuration::rounds(workloads, rounds) {
            for (name, binary) in &ztunnels {
                runs.add(name, configuration::run(binary, workloads));
            }
        }
        let case = format!("{workloads} workloads");
        let names = ztunnels.iter().map(|(name, _)| name.as_str());
        rows.extend(runs.rows(("configuration", &case), names));
    }
    Ok(rows)
}
