//! The figures to reach, and whether a report reaches them. Pure.

use crate::figures::{Figure, ratio};
use crate::report::{Report, Row};

/// What a figure is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Against {
    /// The same figure of another path, round by round.
    Path(&'static str),
    /// Nothing: the figure itself.
    Nothing,
}

/// One figure to reach.
#[derive(Clone, Copy, Debug)]
struct Goal {
    what: &'static str,
    axis: &'static str,
    /// Which cases: their names begin with one of these.
    cases: &'static [&'static str],
    figure: &'static str,
    against: Against,
    limit: f64,
    /// Whether more is better.
    more: bool,
}

const fn at_most(what: &'static str, limit: f64) -> Goal {
    Goal {
        what,
        axis: "",
        cases: &[""],
        figure: "",
        against: Against::Path("baseline"),
        limit,
        more: false,
    }
}

const ALL: &[Goal] = &[
    Goal {
        axis: "bulk",
        figure: "proxy_cpu_s_per_gb",
        ..at_most("bulk: CPU-s/GB of the proxies / baseline", 0.60)
    },
    Goal {
        axis: "bulk",
        figure: "proxy_cpu_s_per_gb",
        against: Against::Path("relay"),
        ..at_most("bulk: CPU-s/GB of the proxies / relay", 1.4)
    },
    Goal {
        axis: "bulk",
        cases: &["1 streams", "4 streams"],
        figure: "gbit_s",
        more: true,
        ..at_most("bulk: Gbit/s / baseline", 1.4)
    },
    Goal {
        axis: "requests",
        cases: &["64"],
        figure: "proxy_cpu_us_each",
        ..at_most("requests: CPU each / baseline", 0.50)
    },
    Goal {
        axis: "requests",
        cases: &["1 "],
        figure: "p50_us",
        ..at_most("requests: p50 / baseline", 0.75)
    },
    Goal {
        axis: "requests",
        cases: &["64"],
        figure: "p99_us",
        ..at_most("requests: p99 / baseline", 0.60)
    },
    Goal {
        axis: "connections",
        figure: "proxy_cpu_us_each",
        ..at_most("new connections: CPU each / baseline", 0.50)
    },
    Goal {
        axis: "fairness",
        figure: "p50_us",
        ..at_most("small flows beside an elephant: p50 / baseline", 0.25)
    },
    Goal {
        axis: "fairness",
        figure: "p99_us",
        ..at_most("small flows beside an elephant: p99 / baseline", 0.25)
    },
    Goal {
        axis: "memory",
        figure: "bytes_per_idle_connection",
        against: Against::Nothing,
        ..at_most("memory: bytes per idle connection and proxy", 1024.0)
    },
    Goal {
        axis: "memory",
        figure: "bytes_per_used_connection",
        against: Against::Nothing,
        ..at_most(
            "memory: bytes per connection and proxy after 200 KB",
            2048.0,
        )
    },
    Goal {
        axis: "configuration",
        cases: &["50000"],
        figure: "mb_above_empty",
        against: Against::Nothing,
        ..at_most("configuration: MB above empty", 25.0)
    },
    Goal {
        axis: "configuration",
        cases: &["50000"],
        figure: "change_cpu_ms",
        against: Against::Nothing,
        ..at_most("configuration: CPU-ms for one change", 1.0)
    },
];

/// What a path has reached of one goal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reached {
    /// What is compared with what, and the case.
    pub(crate) what: String,
    /// `<= 0.60`.
    pub(crate) limit: String,
    pub(crate) path: String,
    /// None: it could not be measured.
    pub(crate) value: Option<Figure>,
    pub(crate) met: bool,
}

/// Every goal that the report has cases of, for every path of culvert.
pub(crate) fn reached(report: &Report) -> Vec<Reached> {
    ALL.iter()
        .flat_map(|goal| {
            let cases = report.cases().into_iter().filter(|(axis, case)| {
                *axis == goal.axis && goal.cases.iter().any(|start| case.starts_with(start))
            });
            cases.flat_map(|(axis, case)| of_case(report, goal, (axis, case)))
        })
        .collect()
}

fn of_case(report: &Report, goal: &Goal, (axis, case): (&str, &str)) -> Vec<Reached> {
    let rows = report
        .rows
        .iter()
        .filter(|row| row.axis == axis && row.case == case && row.path.starts_with("culvert"));
    rows.map(|row| {
        let value = value(report, goal, row);
        let met = |value: &Figure| match goal.more {
            true => value.median >= goal.limit,
            false => value.median <= goal.limit,
        };
        let sign = if goal.more { "≥" } else { "≤" };
        Reached {
            what: format!("{} ({case})", goal.what),
            limit: format!("{sign} {}", goal.limit),
            path: row.path.clone(),
            met: row.failed.is_none() && value.as_ref().is_some_and(met),
            value,
        }
    })
    .collect()
}

fn value(report: &Report, goal: &Goal, row: &Row) -> Option<Figure> {
    let own = row.figures.get(goal.figure)?;
    match goal.against {
        Against::Nothing => Some(own.clone()),
        Against::Path(path) => {
            let other = report.row(&row.axis, &row.case, path)?;
            ratio(own, other.figures.get(goal.figure)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    fn row(path: &str, figure: &str, runs: &[f64]) -> Row {
        Row {
            axis: "bulk".to_owned(),
            case: "4 streams, upload".to_owned(),
            path: path.to_owned(),
            figures: [(figure.to_owned(), Figure::of(runs.to_vec()).unwrap())].into(),
            failed: None,
        }
    }

    fn reached_by(rows: Vec<Row>) -> Vec<Reached> {
        reached(&Report {
            machine: Machine::default(),
            rounds: 1,
            seconds: 1.0,
            took_s: 1.0,
            rows,
        })
    }

    #[test]
    fn a_goal_is_met_by_the_median_of_the_ratios() {
        let figure = "proxy_cpu_s_per_gb";
        let all = reached_by(vec![
            row("culvert/epoll", figure, &[1.0, 1.2, 9.0]),
            row("baseline", figure, &[2.0, 2.0, 2.0]),
        ]);
        let goal = &all[0];
        assert_eq!((goal.value.as_ref().unwrap().median, goal.met), (0.6, true));
        // Without the path relay its goal is not met, and not forgotten.
        assert_eq!((all[1].value.as_ref(), all[1].met), (None, false));
    }

    #[test]
    fn of_rates_more_is_better() {
        let rates = |culvert| {
            let rows = vec![
                row("culvert/epoll", "gbit_s", &[culvert]),
                row("baseline", "gbit_s", &[4.0]),
            ];
            let all = reached_by(rows);
            all.iter()
                .any(|goal| goal.what.contains("Gbit/s") && goal.met)
        };
        assert!(rates(6.0));
        assert!(!rates(5.0));
    }

    #[test]
    fn a_failed_row_meets_nothing() {
        let figure = "proxy_cpu_s_per_gb";
        let failed = Row {
            failed: Some("x".to_owned()),
            ..row("culvert/epoll", figure, &[0.1])
        };
        let all = reached_by(vec![failed, row("baseline", figure, &[2.0])]);
        assert!(all.iter().all(|goal| !goal.met));
    }
}
