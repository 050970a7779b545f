//! docs/performance.md: the text, and the tables of a report.

mod plot;

use std::fmt::Write as _;
use std::path::Path;

use crate::goals::{OF_ZTUNNEL, Reached, Verdict, reached};
use crate::report::{Report, Row, short};

/// What is measured and how; the tables follow.
const HEAD: &str = include_str!("document/head.md");
/// What follows the tables: the schema of the report.
const TAIL: &str = include_str!("document/tail.md");

/// Writes the document and, beside it, the plot.
///
/// # Errors
/// When a file cannot be written.
pub fn write(report: &Report, file: &Path) -> anyhow::Result<()> {
    let image = file.with_extension("svg");
    std::fs::write(&image, plot::svg(report))?;
    let image = image.file_name().unwrap_or_default().to_string_lossy();
    let mut text = document(report, &image);
    // The waypoint's section is of another run.
    let old = std::fs::read_to_string(file).unwrap_or_default();
    if let Some(section) = crate::waypoint::kept(&old) {
        let _ = write!(text, "\n{section}");
    }
    Ok(std::fs::write(file, text)?)
}

/// Paths, with the ratios to direct and to baseline in each cell.
const COLUMNS: Columns = Columns {
    path: "path",
    head: unit,
    cell: Report::cell,
};

fn document(report: &Report, image: &str) -> String {
    let mut text = HEAD.to_owned();
    machine(&mut text, report);
    let _ = writeln!(text, "## Figures to reach\n");
    goals_table(&mut text, &reached(report, OF_ZTUNNEL));
    let _ = writeln!(text, "![Latency and CPU of each path]({image})\n");
    let mut axes: Vec<_> = report.rows.iter().map(|row| row.axis.as_str()).collect();
    axes.dedup();
    for axis in axes {
        let _ = writeln!(text, "## {}\n", heading(axis));
        table(&mut text, report, axis, &COLUMNS);
    }
    text.push_str(TAIL);
    text
}

fn heading(axis: &str) -> &str {
    match axis {
        "bulk" => "Bulk (iperf3)",
        "requests" => "Requests on open connections (wrk)",
        "paced" => "Requests at half of the direct path's rate",
        "connections" => "A connection for each request",
        "cold" => "Cold tunnels",
        "fairness" => "Small flows beside an elephant",
        "memory" => "Memory",
        "pods" => "A node with 1,000 enrolled pods",
        "configuration" => "Configuration",
        "growth" => "Growth",
        other => other,
    }
}

fn machine(text: &mut String, report: &Report) {
    let machine = &report.machine;
    let _ = writeln!(
        text,
        "## The run\n\n\
         {} cores of {}, {} MB, Linux {}, commit {}, load average {:.2} before it; {} rounds of \
         {} s, {:.0} s in all:\n\n```\n{}\n```\n",
        machine.cores,
        machine.processor,
        machine.memory_mb,
        machine.kernel,
        machine.commit,
        machine.load_before,
        report.rounds,
        report.seconds,
        report.took_s,
        machine.command
    );
}

/// One line a goal and case, one column a path of culvert.
pub(crate) fn goals_table(text: &mut String, all: &[Reached]) {
    let mut paths: Vec<&str> = Vec::new();
    let mut lines: Vec<(&str, &str)> = Vec::new();
    for one in all {
        if !paths.contains(&one.path.as_str()) {
            paths.push(&one.path);
        }
        if !lines.contains(&(&one.what, &one.limit)) {
            lines.push((&one.what, &one.limit));
        }
    }
    let _ = writeln!(text, "| figure | to reach | {} |", paths.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(paths.len()));
    for (what, limit) in lines {
        let _ = write!(text, "| {what} | {limit} |");
        for path in &paths {
            let mut here = all.iter();
            let here = here.find(|r| {
                (r.what.as_str(), r.limit.as_str(), r.path.as_str()) == (what, limit, path)
            });
            let _ = write!(text, " {} |", here.map_or_else(String::new, shown));
        }
        text.push('\n');
    }
    text.push('\n');
}

fn shown(reached: &Reached) -> String {
    let verdict = match reached.verdict {
        Verdict::Met => "met".to_owned(),
        Verdict::MetIn(1) => "met in 1 round".to_owned(),
        Verdict::MetIn(rounds) => format!("met in {rounds} rounds"),
        Verdict::NotMet => "**not met**".to_owned(),
        Verdict::NotMeasured => "**not measured**".to_owned(),
        Verdict::Failed => return "**FAILED**".to_owned(),
    };
    let Some(value) = &reached.value else {
        return verdict;
    };
    format!(
        "{} ({} to {}) {verdict}",
        short(value.median),
        short(value.low),
        short(value.high)
    )
}

/// What the columns of a table are.
pub(crate) struct Columns {
    /// What the second one holds.
    pub(crate) path: &'static str,
    /// The head of a figure.
    pub(crate) head: fn(&str) -> String,
    /// A figure of a row; nothing when the row has none.
    pub(crate) cell: fn(&Report, &Row, &str) -> String,
}

/// One line a case and path, one column a figure.
pub(crate) fn table(text: &mut String, report: &Report, axis: &str, columns: &Columns) {
    let rows: Vec<_> = report.rows.iter().filter(|row| row.axis == axis).collect();
    let mut figures: Vec<&str> = Vec::new();
    for name in rows.iter().flat_map(|row| row.figures.keys()) {
        if !figures.contains(&name.as_str()) {
            figures.push(name);
        }
    }
    figures.sort_by_key(|name| name.contains("cpu"));
    let heads = figures
        .iter()
        .map(|name| format!(" {} |", (columns.head)(name)));
    let heads = heads.collect::<String>();
    let _ = writeln!(text, "| case | {} |{heads}", columns.path);
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(figures.len()));
    for row in rows {
        let _ = write!(text, "| {} | {} |", row.case, row.path);
        if let Some(why) = &row.failed {
            let why = why.replace(['|', '\n'], " ");
            let why: String = why.chars().take(200).collect();
            let _ = write!(text, " **FAILED**: {why} |");
        } else {
            for name in &figures {
                let _ = write!(text, " {} |", (columns.cell)(report, row, name));
            }
        }
        text.push('\n');
    }
    text.push('\n');
}

/// A figure's name as a head: `proxy_cpu_us_each` -> `proxy CPU-µs each`.
fn unit(name: &str) -> String {
    let known = [
        ("gbit_s", "Gbit/s"),
        ("proxy_cpu_s_per_gb", "proxies' CPU-s/GB"),
        ("machine_cpu_s_per_gb", "machine's CPU-s/GB"),
        ("proxy_cpu_us_each", "proxies' CPU-µs each"),
        ("machine_cpu_us_each", "machine's CPU-µs each"),
        ("requests_s", "requests/s"),
        ("connections_s", "connections/s"),
        ("p50_us", "p50 µs"),
        ("p99_us", "p99 µs"),
        ("messages_s", "messages/s"),
        ("handshakes_s", "handshakes/s"),
        ("offered_s", "offered/s"),
        ("elephant_gbit_s", "elephant's Gbit/s"),
        ("proxy_cpu_s_per_gb_bulk", "proxies' CPU-s/GB"),
        (
            "proxy_cpu_us_each_connection",
            "proxies' CPU-µs each connection",
        ),
        ("proxy_rss_mb", "MB"),
        ("empty_rss_mb", "MB empty"),
        ("mb_above_empty", "MB above empty"),
        ("enrol_all_s", "s to enrol all"),
        ("enrol_one_ms", "ms to enrol one"),
        ("enrol_proxy_cpu_ms", "CPU-ms to enrol one"),
        ("idle_proxy_cpu_ms_s", "idle CPU-ms/s"),
        ("files_per_pod", "open files per pod"),
        ("agent_bytes_per_pod", "agent's bytes per pod"),
        ("lookup_ns", "ns a lookup"),
        ("change_ms", "ms a change"),
        ("change_cpu_ms", "CPU-ms a change"),
        ("first_push_ms", "ms the first push"),
        ("first_push_cpu_ms", "CPU-ms the first push"),
    ];
    let known = known.iter().find(|(key, _)| *key == name);
    known.map_or_else(|| name.replace('_', " "), |(_, head)| (*head).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figure;
    use crate::machine::Machine;

    fn row(path: &str, value: f64) -> Row {
        Row {
            axis: "requests".to_owned(),
            case: "1 connections".to_owned(),
            path: path.to_owned(),
            figures: [("p50_us".to_owned(), Figure::of(vec![value]).unwrap())].into(),
            failed: None,
        }
    }

    fn report() -> Report {
        let envoy = Row {
            failed: Some("no | network".to_owned()),
            ..row("envoy", 1.0)
        };
        Report {
            machine: Machine::default(),
            rounds: 5,
            seconds: 2.0,
            took_s: 1.0,
            rows: vec![
                row("direct", 50.0),
                row("culvert/epoll", 100.0),
                row("baseline", 200.0),
                envoy,
            ],
        }
    }

    #[test]
    fn a_table_has_medians_spread_and_both_ratios() {
        let text = document(&report(), "x.svg");
        let line = "| 1 connections | culvert/epoll | 100 (100 to 100; 2.00, 0.50) |";
        assert!(text.contains(line), "{text}");
        assert!(
            text.contains("≤ 0.75 | 0.500 (0.500 to 0.500) met in 1 round |"),
            "{text}"
        );
    }

    #[test]
    fn a_failed_row_is_shown_with_its_reason() {
        let text = document(&report(), "x.svg");
        assert!(
            text.contains("| envoy | **FAILED**: no   network |"),
            "{text}"
        );
    }
}
