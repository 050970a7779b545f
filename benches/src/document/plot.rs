//! The plot: latency and CPU of each path as bars, written as SVG by hand.

use std::fmt::Write as _;

use crate::report::{Report, short};

/// Title, axis, case and figure of each panel.
const PANELS: [[&str; 4]; 6] = [
    [
        "p50 of a request, 1 connection (µs)",
        "requests",
        "1 connections",
        "p50_us",
    ],
    [
        "p99 of a request, 64 connections (µs)",
        "requests",
        "64 connections",
        "p99_us",
    ],
    [
        "p50 beside an elephant (µs)",
        "fairness",
        "16 flows beside one elephant",
        "p50_us",
    ],
    [
        "proxies' CPU-s per GB, 4 streams",
        "bulk",
        "4 streams, upload",
        "proxy_cpu_s_per_gb",
    ],
    [
        "proxies' CPU-µs per request, 64 connections",
        "requests",
        "64 connections",
        "proxy_cpu_us_each",
    ],
    [
        "proxies' CPU-µs per new connection, 16 at a time",
        "connections",
        "16 at a time",
        "proxy_cpu_us_each",
    ],
];
const COLUMNS: usize = 3;
const PANEL_WIDTH: usize = 360;
const LINE_HEIGHT: usize = 22;
/// Where bars begin: the names of paths are left of it.
const LEFT: usize = 120;
/// Longest bar; the value stands right of it.
const BAR: f64 = 160.0;

pub(super) fn svg(report: &Report) -> String {
    let mut paths: Vec<&str> = Vec::new();
    for row in &report.rows {
        if !paths.contains(&row.path.as_str()) {
            paths.push(&row.path);
        }
    }
    let panel_height = (paths.len() + 2) * LINE_HEIGHT;
    let (width, height) = (COLUMNS * PANEL_WIDTH, PANELS.len() / COLUMNS * panel_height);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, panel) in PANELS.iter().enumerate() {
        let (x, y) = (
            index % COLUMNS * PANEL_WIDTH,
            index / COLUMNS * panel_height,
        );
        let _ = writeln!(text, "<g transform=\"translate({x},{y})\">");
        draw(&mut text, report, &paths, panel);
        text.push_str("</g>\n");
    }
    text.push_str("</svg>\n");
    text
}

fn draw(text: &mut String, report: &Report, paths: &[&str], panel: &[&str; 4]) {
    let [title, axis, case, figure] = panel;
    let value = |path: &str| Some(report.row(axis, case, path)?.figures.get(*figure)?.median);
    let most = paths
        .iter()
        .filter_map(|path| value(path))
        .fold(0.0, f64::max);
    let _ = writeln!(
        text,
        "<text x=\"8\" y=\"16\" font-weight=\"bold\">{title}</text>"
    );
    for (index, path) in paths.iter().enumerate() {
        let top = (index + 1) * LINE_HEIGHT;
        let base = top + 14;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{path}</text>",
            LEFT - 6
        );
        let Some(value) = value(path) else {
            continue;
        };
        let length = if most > 0.0 { value / most * BAR } else { 0.0 };
        let _ = writeln!(
            text,
            "<rect x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" height=\"14\" fill=\"{}\"/>\n\
             <text x=\"{:.1}\" y=\"{base}\">{}</text>",
            top + 3,
            colour(path),
            LEFT as f64 + length + 4.0,
            short(value)
        );
    }
}

fn colour(path: &str) -> &'static str {
    match path.split('/').next() {
        Some("culvert") => "#2b7a78",
        Some("direct" | "relay") => "#b0b7bf",
        _ => "#d9822b",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figure;
    use crate::machine::Machine;
    use crate::report::Row;

    #[test]
    fn the_longest_bar_is_that_of_the_largest_value() {
        let row = |path: &str, value: f64| Row {
            axis: "requests".to_owned(),
            case: "1 connections".to_owned(),
            path: path.to_owned(),
            figures: [("p50_us".to_owned(), Figure::of(vec![value]).unwrap())].into(),
            failed: None,
        };
        let svg = svg(&Report {
            machine: Machine::default(),
            rounds: 1,
            seconds: 1.0,
            took_s: 1.0,
            rows: vec![row("direct", 50.0), row("baseline", 200.0)],
        });
        assert!(
            svg.contains("width=\"40.0\"") && svg.contains("width=\"160.0\""),
            "{svg}"
        );
    }
}
