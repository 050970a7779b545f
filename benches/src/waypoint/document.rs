//! The section of docs/performance.md that a report of this bench gives.
//!
//! It stands between two marks, so that the rest of the document and this section are written by
//! different runs.

use std::fmt::Write as _;
use std::path::Path;

use super::RIVAL;
use super::goals;
use crate::document::{Columns, goals_table, table};
use crate::goals::reached;
use crate::report::{Report, Row, short};

/// Where the section begins and ends in the document.
const BEGIN: &str = "<!-- benches waypoint: begin -->\n";
const END: &str = "<!-- benches waypoint: end -->\n";
/// What is measured and how; the tables follow.
const HEAD: &str = include_str!("head.md");

/// Ways, with the ratio to Envoy's in each cell.
const COLUMNS: Columns = Columns {
    path: "way",
    head,
    cell,
};

/// Writes the section into the document, in the place of the last one.
///
/// # Errors
/// When the file cannot be read or written.
pub fn write(report: &Report, file: &Path) -> anyhow::Result<()> {
    let old = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let section = format!("{BEGIN}{}{END}", section(report));
    let text = match kept(&old) {
        Some(last) => old.replace(last, &section),
        None => format!("{}\n\n{section}", old.trim_end()),
    };
    Ok(std::fs::write(file, text)?)
}

/// The section of a document with its marks, for who writes the rest anew.
pub(crate) fn kept(document: &str) -> Option<&str> {
    let begin = document.find(BEGIN)?;
    let end = document[begin..].find(END)? + begin + END.len();
    Some(&document[begin..end])
}

/// The section as text.
#[must_use]
pub fn section(report: &Report) -> String {
    let mut text = HEAD.to_owned();
    let machine = &report.machine;
    let _ = writeln!(
        text,
        "{} cores of {}, Linux {}, commit {}, load average {:.2} before it; {} rounds of {} s, \
         {:.0} s in all:\n\n```\n{}\n```\n",
        machine.cores,
        machine.processor,
        machine.kernel,
        machine.commit,
        machine.load_before,
        report.rounds,
        report.seconds,
        report.took_s,
        machine.command
    );
    goals_table(&mut text, &reached(report, goals::ALL));
    let mut axes: Vec<_> = report.rows.iter().map(|row| row.axis.as_str()).collect();
    axes.dedup();
    for axis in axes {
        let _ = writeln!(text, "### {}\n", heading(axis));
        table(&mut text, report, axis, &COLUMNS);
    }
    text
}

fn heading(axis: &str) -> &str {
    match axis {
        "lookup" => "Lookup of a route alone",
        "memory" => "Memory of a waypoint",
        "requests" => "Requests through a waypoint, HTTP/1.1 (wrk)",
        "http2" => "Requests through a waypoint, HTTP/2 (h2load)",
        "paced" => "What a waypoint adds at equal load",
        "routes" => "Requests over routes with ten matches each",
        "push" => "A pushed change of a route",
        "change" => "A changed manifest of a route under load",
        other => other,
    }
}

/// `12.3 (11.9 to 12.8; 0.45)`: median, spread, ratio to Envoy's.
fn cell(report: &Report, row: &Row, name: &str) -> String {
    let Some(figure) = row.figures.get(name) else {
        return String::new();
    };
    let ratio = report.ratio_to(row, name, RIVAL);
    let ratio = ratio.map_or_else(String::new, |ratio| format!("; {ratio}"));
    format!(
        "{} ({} to {}{ratio})",
        short(figure.median),
        short(figure.low),
        short(figure.high)
    )
}

fn head(name: &str) -> String {
    let known = [
        ("requests_per_cpu_s", "requests per CPU-second"),
        ("proxy_cpu_us_each", "waypoint's CPU-µs each"),
        ("machine_cpu_us_each", "machine's CPU-µs each"),
        ("requests_s", "requests/s"),
        ("offered_s", "offered/s"),
        ("p50_us", "p50 µs"),
        ("p99_us", "p99 µs"),
        ("added_p50_us", "p50 added µs"),
        ("added_p99_us", "p99 added µs"),
        ("idle_rss_mb", "idle MB"),
        ("open_rss_mb", "MB at 1,000"),
        ("lookup_ns", "ns a decision"),
        ("table_made_ms", "ms to make the table"),
        ("from_file_ms", "ms from the file to its use"),
    ];
    let known = known.iter().find(|(key, _)| *key == name);
    known.map_or_else(|| name.replace('_', " "), |(_, head)| (*head).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figure;
    use crate::machine::Machine;

    fn report() -> Report {
        let row = |path: &str, value: f64| Row {
            axis: "paced".to_owned(),
            case: "16 connections".to_owned(),
            path: path.to_owned(),
            figures: [("added_p50_us".to_owned(), Figure::of(vec![value]).unwrap())].into(),
            failed: None,
        };
        Report {
            machine: Machine::default(),
            rounds: 5,
            seconds: 2.0,
            took_s: 1.0,
            rows: vec![
                row("culvert/epoll", 50.0),
                Row {
                    failed: Some("no | binary".to_owned()),
                    ..row("culvert/io_uring", 1.0)
                },
                row("envoy", 100.0),
            ],
        }
    }

    #[test]
    fn a_section_has_goals_ratios_and_what_failed() {
        let text = section(&report());
        assert!(text.contains("| 16 connections | culvert/epoll | 50.0 (50.0 to 50.0; 0.50) |"));
        assert!(
            text.contains("0.500 (0.500 to 0.500) met in 1 round"),
            "{text}"
        );
        assert!(text.contains("culvert/io_uring | **FAILED**: no   binary |"));
    }

    #[test]
    fn the_section_is_replaced_and_the_rest_of_the_document_kept() {
        let directory = std::env::temp_dir().join(format!("section-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("performance.md");
        std::fs::write(&file, "# Performance\n\nabove\n").unwrap();
        write(&report(), &file).unwrap();
        let mut later = report();
        later.rounds = 77;
        write(&later, &file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(text.starts_with("# Performance\n\nabove\n"));
        assert_eq!(text.matches(BEGIN).count(), 1);
        assert!(text.contains("77 rounds") && !text.contains("5 rounds"));
        assert!(kept(&text).is_some_and(|section| text.ends_with(section)));
    }
}
