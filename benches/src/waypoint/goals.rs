//! The figures that the waypoint is to reach, and whether a report reaches them. Pure.

use super::RIVAL;
use crate::figures::{Figure, ratio};
use crate::goals::Reached;
use crate::report::{Report, Row};

/// What a figure is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Against {
    /// The same figure of Envoy, round by round.
    Rival,
    /// The same figure of the same way in another case.
    Case(&'static str),
    /// Nothing: the figure itself.
    Nothing,
}

/// One figure to reach: what, axis, case (its beginning), figure, against, limit.
struct Goal(
    &'static str,
    (&'static str, &'static str, &'static str),
    Against,
    Limit,
);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

use Against::{Case, Nothing, Rival};
use Limit::{AtLeast, AtMost};

const ALL: &[Goal] = &[
    Goal(
        "requests per CPU-second / Envoy",
        ("requests", "", "requests_per_cpu_s"),
        Rival,
        AtLeast(1.5),
    ),
    Goal(
        "HTTP/2 requests per CPU-second / Envoy",
        ("http2", "", "requests_per_cpu_s"),
        Rival,
        AtLeast(1.5),
    ),
    Goal(
        "p50 added at equal load / Envoy",
        ("paced", "", "added_p50_us"),
        Rival,
        AtMost(0.6),
    ),
    Goal(
        "p99 added at equal load / Envoy",
        ("paced", "", "added_p99_us"),
        Rival,
        AtMost(0.6),
    ),
    Goal(
        "memory idle, MB",
        ("memory", "", "idle_rss_mb"),
        Nothing,
        AtMost(15.0),
    ),
    Goal(
        "memory with connections / Envoy",
        ("memory", "", "open_rss_mb"),
        Rival,
        AtMost(0.3),
    ),
    Goal(
        "lookup among 10,000 routes / among 10",
        ("lookup", "10000", "lookup_ns"),
        Case("10 routes"),
        AtMost(2.0),
    ),
    Goal(
        "CPU per request with 10,000 routes / with 10",
        ("routes", "10000", "proxy_cpu_us_each"),
        Case("10 routes"),
        AtMost(2.0),
    ),
    Goal(
        "one route change of 10,000, from the push to its use, ms",
        ("push", "", "change_ms"),
        Nothing,
        AtMost(5.0),
    ),
    Goal(
        "requests that failed during changes",
        ("change", "", "failed_requests"),
        Nothing,
        AtMost(0.0),
    ),
];

/// Every goal that the report has cases of, for every way of ours.
pub(super) fn reached(report: &Report) -> Vec<Reached> {
    let mut all = Vec::new();
    for Goal(what, (axis, case, figure), against, limit) in ALL {
        let rows = report.rows.iter().filter(|row| {
            row.axis == *axis && row.case.starts_with(case) && row.path.starts_with("culvert")
        });
        all.extend(rows.map(|row| {
            let value = value(report, row, (figure, *against));
            let met = |value: &Figure| match limit {
                AtLeast(least) => value.median >= *least,
                AtMost(most) => value.median <= *most,
            };
            Reached {
                what: format!("{what} ({})", row.case),
                limit: match limit {
                    AtLeast(least) => format!("≥ {least}"),
                    AtMost(most) => format!("≤ {most}"),
                },
                path: row.path.clone(),
                met: row.failed.is_none() && value.as_ref().is_some_and(met),
                value,
            }
        }));
    }
    all
}

fn value(report: &Report, row: &Row, (figure, against): (&str, Against)) -> Option<Figure> {
    let own = row.figures.get(figure)?;
    let other = match against {
        Nothing => return Some(own.clone()),
        Rival => report.row(&row.axis, &row.case, RIVAL)?,
        Case(case) => report.row(&row.axis, case, &row.path)?,
    };
    let other = other.figures.get(figure)?;
    match figure.starts_with("added_") {
        true => ratio(&difference(own), &difference(other)),
        false => ratio(own, other),
    }
}

/// What is added is lost in the noise where a way was faster than the one without a waypoint: it
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

    fn row(case: &str, way: &str, figure: (&str, f64)) -> Row {
        Row {
            axis: "requests".to_owned(),
            case: case.to_owned(),
            path: way.to_owned(),
            figures: [(figure.0.to_owned(), Figure::of(vec![figure.1]).unwrap())].into(),
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
    fn a_rate_is_compared_with_the_rivals() {
        let figure = "requests_per_cpu_s";
        let all = reached_by(vec![
            row("16 connections", "culvert/epoll", (figure, 30.0)),
            row("16 connections", "envoy", (figure, 20.0)),
        ]);
        assert_eq!((all.len(), all[0].met), (1, true));
        assert_eq!(all[0].value.as_ref().unwrap().median, 1.5);
    }

    #[test]
    fn without_the_rival_or_in_a_failed_row_nothing_is_met() {
        let figure = "requests_per_cpu_s";
        let own = row("16 connections", "culvert/epoll", (figure, 30.0));
        assert!(!reached_by(vec![own.clone()])[0].met);
        let failed = Row {
            failed: Some("x".to_owned()),
            ..own
        };
        let rival = row("16 connections", "envoy", (figure, 1.0));
        assert!(!reached_by(vec![failed, rival])[0].met);
    }

    #[test]
    fn a_difference_that_is_lost_in_the_noise_is_nothing_and_no_measure() {
        let added = |way, runs: &[f64]| Row {
            axis: "paced".to_owned(),
            figures: [(
                "added_p99_us".to_owned(),
                Figure::of(runs.to_vec()).unwrap(),
            )]
            .into(),
            ..row("16 connections", way, ("", 0.0))
        };
        let rows = vec![
            added("culvert/epoll", &[-5.0, 30.0, -9.0]),
            added("envoy", &[10.0, 60.0, -4.0]),
        ];
        let all = reached_by(rows);
        let value = all.iter().find_map(|one| one.value.as_ref()).unwrap();
        assert_eq!((value.median, value.low, value.high), (0.25, 0.0, 0.5));
    }

    #[test]
    fn many_routes_are_compared_with_few_of_the_same_way() {
        let rows = [("10 routes", 4.0), ("10000 routes", 6.0)].map(|(case, value)| Row {
            axis: "routes".to_owned(),
            ..row(case, "culvert/epoll", ("proxy_cpu_us_each", value))
        });
        let all = reached_by(rows.to_vec());
        assert_eq!(all[0].value.as_ref().unwrap().median, 1.5);
        assert!(all[0].met);
    }
}
