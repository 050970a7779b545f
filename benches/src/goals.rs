//! Figures to reach, and whether a report reaches them: the one judge of every bench. Pure.

mod of_ztunnel;

pub(crate) use of_ztunnel::ALL as OF_ZTUNNEL;

use crate::figures::{Figure, ratio};
use crate::report::{Report, Row};

/// A figure is reached by the median of at least so many rounds.
const ROUNDS: usize = 5;

/// What a figure is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Against {
    /// The same figure of another path, round by round.
    Path(&'static str),
    /// The same figure of the same path in another case.
    Case(&'static str),
    /// Nothing: the figure itself.
    Nothing,
}

/// One figure to reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// What is compared with what.
    pub(crate) what: &'static str,
    pub(crate) axis: &'static str,
    /// Which cases: their names begin with one of these.
    pub(crate) cases: &'static [&'static str],
    pub(crate) figure: &'static str,
    pub(crate) against: Against,
    pub(crate) limit: Limit,
}

/// What a figure may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Limit::AtLeast(least) => value >= least,
            Limit::AtMost(most) => value <= most,
        }
    }

    fn shown(self) -> String {
        match self {
            Limit::AtLeast(least) => format!("≥ {least}"),
            Limit::AtMost(most) => format!("≤ {most}"),
        }
    }
}

/// What a path has reached of one goal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reached {
    /// What is compared with what, and the case.
    pub(crate) what: String,
    /// `≤ 0.6`.
    pub(crate) limit: String,
    pub(crate) path: String,
    /// None: it could not be measured.
    pub(crate) value: Option<Figure>,
    pub(crate) verdict: Verdict,
}

/// Whether a goal is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    /// It would be, in more rounds than so many.
    MetIn(usize),
    NotMet,
    /// The path, or what it is compared with, has no such figure.
    NotMeasured,
    /// The path failed.
    Failed,
}

/// Each of the goals that the report has cases of, for every path of culvert.
pub(crate) fn reached(report: &Report, goals: &[Goal]) -> Vec<Reached> {
    let of_goal = |goal: &Goal| {
        let rows = report.rows.iter().filter(|row| {
            row.axis == goal.axis
                && goal.cases.iter().any(|start| row.case.starts_with(start))
                && row.path.starts_with("culvert")
        });
        let reached = rows.map(|row| of_row(report, goal, row));
        reached.collect::<Vec<_>>()
    };
    goals.iter().flat_map(of_goal).collect()
}

fn of_row(report: &Report, goal: &Goal, row: &Row) -> Reached {
    let value = value(report, goal, row);
    let verdict = match &value {
        _ if row.failed.is_some() => Verdict::Failed,
        None => Verdict::NotMeasured,
        Some(value) if !goal.limit.holds(value.median) => Verdict::NotMet,
        Some(value) if value.runs.len() < ROUNDS => Verdict::MetIn(value.runs.len()),
        Some(_) => Verdict::Met,
    };
    Reached {
        what: format!("{} ({})", goal.what, row.case),
        limit: goal.limit.shown(),
        path: row.path.clone(),
        value,
        verdict,
    }
}

fn value(report: &Report, goal: &Goal, row: &Row) -> Option<Figure> {
    let own = row.figures.get(goal.figure)?;
    let other = match goal.against {
        Against::Nothing => return Some(own.clone()),
        Against::Path(path) => report.row(&row.axis, &row.case, path)?,
        Against::Case(case) => report.row(&row.axis, case, &row.path)?,
    };
    let other = other.figures.get(goal.figure)?;
    match goal.figure.starts_with("added_") {
        true => ratio(&difference(own), &difference(other)),
        false => ratio(own, other),
    }
}

/// What is added is lost in the noise where a path was faster than the one without what adds: that
/// adds nothing then, and nothing can be compared with it.
fn difference(figure: &Figure) -> Figure {
    let runs = figure.runs.iter().map(|value| value.max(0.0));
    Figure {
        runs: runs.collect(),
        ..figure.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::waypoint::goals as of_waypoint;
    use Verdict::{Failed, Met, MetIn, NotMeasured, NotMet};

    const CPU: &str = "proxy_cpu_s_per_gb";

    fn row(path: &str, figure: &str, runs: &[f64]) -> Row {
        Row {
            axis: "bulk".to_owned(),
            case: "4 streams, upload".to_owned(),
            path: path.to_owned(),
            figures: [(figure.to_owned(), Figure::of(runs.to_vec()).unwrap())].into(),
            failed: None,
        }
    }

    fn of_waypoint_row(axis: &str, case: &str, path: &str, (figure, runs): (&str, &[f64])) -> Row {
        Row {
            axis: axis.to_owned(),
            case: case.to_owned(),
            ..row(path, figure, runs)
        }
    }

    fn reached_by(goals: &[Goal], rows: Vec<Row>) -> Vec<Reached> {
        let report = Report {
            machine: Machine::default(),
            rounds: 1,
            seconds: 1.0,
            took_s: 1.0,
            rows,
        };
        reached(&report, goals)
    }

    #[test]
    fn a_goal_is_met_by_the_median_of_the_ratios_of_five_rounds() {
        let rows = |culvert: &[f64]| {
            let baseline = vec![2.0; culvert.len()];
            vec![
                row("culvert/epoll", CPU, culvert),
                row("baseline", CPU, &baseline),
            ]
        };
        let all = reached_by(OF_ZTUNNEL, rows(&[1.0, 1.2, 9.0, 1.1, 8.0]));
        let goal = &all[0];
        assert_eq!(
            (goal.value.as_ref().unwrap().median, goal.verdict),
            (0.6, Met)
        );
        // Without the path relay its goal is not met, and not forgotten.
        assert_eq!((all[1].value.as_ref(), all[1].verdict), (None, NotMeasured));
        assert_eq!(
            reached_by(OF_ZTUNNEL, rows(&[1.0, 1.2, 9.0]))[0].verdict,
            MetIn(3)
        );
    }

    #[test]
    fn of_rates_more_is_better() {
        let rates = |culvert| {
            let rows = vec![
                row("culvert/epoll", "gbit_s", &[culvert; 5]),
                row("baseline", "gbit_s", &[4.0; 5]),
            ];
            let all = reached_by(OF_ZTUNNEL, rows);
            let rate = all.iter().find(|goal| goal.what.contains("Gbit/s"));
            rate.unwrap().verdict
        };
        assert_eq!((rates(6.0), rates(5.0)), (Met, NotMet));
    }

    #[test]
    fn a_failed_row_meets_nothing_and_is_told() {
        let failed = Row {
            failed: Some("x".to_owned()),
            ..row("culvert/epoll", CPU, &[0.1; 5])
        };
        let all = reached_by(OF_ZTUNNEL, vec![failed, row("baseline", CPU, &[2.0; 5])]);
        assert!(!all.is_empty() && all.iter().all(|goal| goal.verdict == Failed));
    }

    #[test]
    fn a_waypoint_is_compared_with_its_rival() {
        let figure = ("requests_per_cpu_s", &[30.0; 5][..]);
        let own = of_waypoint_row("requests", "16 connections", "culvert/epoll", figure);
        let figure = ("requests_per_cpu_s", &[20.0; 5][..]);
        let rival = of_waypoint_row("requests", "16 connections", "envoy", figure);
        let all = reached_by(of_waypoint::ALL, vec![own.clone(), rival]);
        assert_eq!((all.len(), all[0].verdict), (1, Met));
        assert_eq!(all[0].value.as_ref().unwrap().median, 1.5);
        assert_eq!(
            reached_by(of_waypoint::ALL, vec![own])[0].verdict,
            NotMeasured
        );
    }

    #[test]
    fn a_difference_that_is_lost_in_the_noise_is_nothing_and_no_measure() {
        let added = |path, runs: &[f64]| {
            of_waypoint_row("paced", "16 connections", path, ("added_p99_us", runs))
        };
        let rows = vec![
            added("culvert/epoll", &[-5.0, 30.0, -9.0]),
            added("envoy", &[10.0, 60.0, -4.0]),
        ];
        let all = reached_by(of_waypoint::ALL, rows);
        let value = all.iter().find_map(|one| one.value.as_ref()).unwrap();
        assert_eq!((value.median, value.low, value.high), (0.25, 0.0, 0.5));
    }

    #[test]
    fn many_routes_are_compared_with_few_of_the_same_path() {
        let rows = [("10 routes", 4.0), ("10000 routes", 6.0)].map(|(case, value)| {
            let figure = ("proxy_cpu_us_each", &[value; 5][..]);
            of_waypoint_row("routes", case, "culvert/epoll", figure)
        });
        let all = reached_by(of_waypoint::ALL, rows.to_vec());
        assert_eq!(all[0].value.as_ref().unwrap().median, 1.5);
        assert_eq!(all[0].verdict, Met);
    }
}
