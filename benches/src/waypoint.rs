//! The bench of the waypoint: ours on each back end beside Envoy, the same client's and server's
//! ztunnel before and behind each, one worker each, interleaved in one run.
//!
//! ```text
//!   load ── ztunnel ══ HBONE ══ waypoint ══ HBONE ══ ztunnel ── nginx
//! ```

mod bed;
mod cases;
mod change;
mod document;
mod envoy;
pub(crate) mod goals;
mod load;
mod lookup;
mod manifests;
mod memory;
mod push;

pub(crate) use document::kept;
pub use document::{section, write as write_document};
pub use load::Load;

use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};

use crate::bed::{HTTP_PORT, Path};
use crate::figures::Figures;
use crate::machine;
use crate::report::{Report, Row};
use crate::run::{Plan, Runs};
use bed::{Bed, DIRECT};
use cases::Case;
use manifests::{FEW, MANY};

/// Port of HTTP/2 without TLS at the servers.
const H2_PORT: u16 = 8081;
/// Port of tunnels.
const HBONE_PORT: u16 = 15008;
/// The way that the others' figures are compared with.
const RIVAL: &str = "envoy";

/// What the bench is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Binary of our waypoint.
    pub waypoint: PathBuf,
    /// Where Envoy is installed.
    pub envoy: PathBuf,
    /// Names of the ways that are wanted; all when empty. `culvert` means all of its own.
    pub paths: Vec<String>,
    /// Log level of our waypoint.
    pub log: String,
}

impl Options {
    fn wants(&self, way: &str) -> bool {
        let family = way.split('/').next().unwrap_or(way);
        self.paths.is_empty() || self.paths.iter().any(|p| p == way || p == family)
    }
}

/// Runs the plan.
///
/// # Errors
/// When the world or the way without a waypoint cannot be made; a waypoint that does not start, or
/// a case that fails, is a failed row.
pub fn run(options: &Options, plan: &Plan) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let mut run = Run {
        plan,
        begun,
        rows: Vec::new(),
    };
    let mut machine = machine::describe()?;
    machine.load_before = machine::load();
    run.lookups();
    run.pushes(&options.waypoint);
    if run.needs_world() {
        run.in_world(options)?;
    }
    Ok(Report {
        machine,
        rounds: plan.rounds,
        seconds: plan.length.as_secs_f64(),
        took_s: begun.elapsed().as_secs_f64(),
        rows: run.rows,
    })
}

struct Run<'a> {
    plan: &'a Plan,
    begun: Instant,
    rows: Vec<Row>,
}

impl Run<'_> {
    fn say(&self, what: &str) {
        eprintln!("{:4.0} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    fn lookups(&mut self) {
        for routes in [FEW, MANY] {
            if !self.plan.wants("lookup") {
                return;
            }
            self.say(&format!("lookup: {routes} routes"));
            let mut runs = Runs::default();
            for _ in 0..self.plan.rounds {
                runs.add("culvert", lookup::run(routes));
            }
            let case = format!("{routes} routes");
            self.rows
                .extend(runs.rows(("lookup", &case), ["culvert"].into_iter()));
        }
    }

    fn pushes(&mut self, waypoint: &FilePath) {
        if !self.plan.wants("push") {
            return;
        }
        self.say("push");
        let mut runs = Runs::default();
        for _ in 0..self.plan.rounds {
            runs.add("culvert", push::round(waypoint));
        }
        let ways = ["culvert"].into_iter();
        self.rows.extend(runs.rows(("push", push::CASE), ways));
    }

    fn needs_world(&self) -> bool {
        let axes = Case::ALL.map(Case::axis);
        let more = ["memory", "change"];
        axes.iter().chain(&more).any(|axis| self.plan.wants(axis))
    }

    fn in_world(&mut self, options: &Options) -> anyhow::Result<()> {
        self.say("the world");
        let mut bed = Bed::new(options)?;
        if self.plan.wants("memory") {
            self.say("memory");
            let runs = memory::rounds(&mut bed, self.plan.rounds);
            self.add_rows(("memory", memory::CASE), runs, &bed);
        }
        let wanted = Case::ALL.into_iter();
        let wanted: Vec<_> = wanted.filter(|case| self.plan.wants(case.axis())).collect();
        let change = self.plan.wants("change");
        for case in wanted.iter().filter(|case| case.axis() != "routes") {
            self.case(*case, &bed);
        }
        let routes = wanted.iter().filter(|case| case.axis() == "routes");
        let routes: Vec<_> = routes.collect();
        if change || !routes.is_empty() {
            self.say("10,000 routes");
            bed.give_many()?;
        }
        for case in routes {
            self.case(*case, &bed);
        }
        if change {
            self.say("change");
            let runs = change::rounds(&bed, self.plan.rounds);
            self.add_rows(("change", change::CASE), runs, &bed);
        }
        Ok(())
    }

    fn case(&mut self, case: Case, bed: &Bed) {
        self.say(&format!("{}: {}", case.axis(), case.name()));
        let mut runs = Runs::default();
        for round in 0..self.plan.rounds {
            one_round(case, bed, (round, self.plan.length), &mut runs);
        }
        self.add_rows((case.axis(), &case.name()), runs, bed);
    }

    fn add_rows(&mut self, case: (&str, &str), mut runs: Runs, bed: &Bed) {
        runs.failed.extend(bed.failed.iter().cloned());
        let names = bed.waypoints.iter().map(|waypoint| waypoint.name.as_str());
        let failed = bed.failed.iter().map(|(name, _)| name.as_str());
        let names = [DIRECT].into_iter().chain(names).chain(failed);
        self.rows.extend(runs.rows(case, names));
    }
}

/// Every way once, another one first in each round; what a waypoint adds is against the way without
/// one in the same round.
fn one_round(case: Case, bed: &Bed, (round, length): (usize, Duration), runs: &mut Runs) {
    let mut ways: Vec<Path> = bed
        .waypoints
        .iter()
        .map(|waypoint| {
            let many = usize::from(case == Case::Routes(MANY));
            bed.through(waypoint, &waypoint.fronts[many])
        })
        .collect();
    if !matches!(case, Case::Routes(_)) {
        ways.insert(0, bed.direct());
    }
    let rate = match offered(case, &ways, length) {
        Ok(rate) => rate,
        Err(error) => {
            for way in &ways {
                runs.add(&way.name, Err(anyhow::anyhow!("no rate: {error:#}")));
            }
            return;
        }
    };
    let mut measured: Vec<(String, Figures)> = Vec::new();
    let count = ways.len();
    for turn in 0..count {
        let way = &ways[(turn + round) % count];
        if runs.failed.contains_key(&way.name) {
            continue;
        }
        match case.run(way, rate, length) {
            Ok(figures) => measured.push((way.name.clone(), figures)),
            Err(error) => runs.add(&way.name, Err(error)),
        }
    }
    let direct = measured.iter().find(|(name, _)| name == DIRECT);
    let direct = direct.map(|(_, figures)| figures.clone());
    for (name, mut figures) in measured {
        if let Some(direct) = direct.as_ref().filter(|_| name != DIRECT) {
            add_differences(&mut figures, direct);
        }
        runs.add(&name, Ok(figures));
    }
}

/// What all ways are offered: from the rival's speed in this round, else that of the first way.
fn offered(case: Case, ways: &[Path], length: Duration) -> anyhow::Result<f64> {
    let Case::Paced(connections) = case else {
        return Ok(0.0);
    };
    let rival = ways.iter().find(|way| way.name == RIVAL);
    let Some(way) = rival.or(ways.last()) else {
        return Ok(0.0);
    };
    cases::rate(way, connections, length)
}

fn add_differences(figures: &mut Figures, direct: &Figures) {
    for name in ["p50_us", "p99_us"] {
        if let (Some(own), Some(direct)) = (figures.get(name), direct.get(name)) {
            let added = own - direct;
            figures.insert(format!("added_{name}"), added);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_waypoint_adds_is_the_difference_to_the_way_without() {
        let of = |p50| Figures::from([("p50_us".to_owned(), p50)]);
        let mut figures = of(150.0);
        add_differences(&mut figures, &of(100.0));
        assert_eq!(figures["added_p50_us"], 50.0);
        assert!(!figures.contains_key("added_p99_us"));
    }
}
