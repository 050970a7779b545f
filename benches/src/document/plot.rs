//! The plot: latency and CPU of each path as bars, written as SVG by hand.

use std::fmt::Write as _;

use crate::figures::Figure;
use crate::report::{Report, Row, short};

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
const PANEL_WIDTH: usize = 370;
const LINE_HEIGHT: usize = 22;
/// Title and what is left free below the last bar.
const PANEL_FRAME: usize = 44;
/// Where bars begin: the names of paths are left of it.
const LEFT: usize = 120;
/// Longest bar.
const BAR: f64 = 160.0;
/// Where lines of the spread are cut off; the value stands right of it.
const WHISKER: f64 = 190.0;

pub(super) fn svg(report: &Report) -> String {
    let panels = PANELS.map(|panel| bars(report, panel));
    let most = panels.iter().map(Vec::len).max().unwrap_or_default();
    let panel_height = most * LINE_HEIGHT + PANEL_FRAME;
    let (width, height) = (COLUMNS * PANEL_WIDTH, PANELS.len() / COLUMNS * panel_height);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\" \
         fill=\"#1f2933\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, (panel, bars)) in PANELS.iter().zip(&panels).enumerate() {
        let (x, y) = (
            index % COLUMNS * PANEL_WIDTH,
            index / COLUMNS * panel_height,
        );
        let _ = writeln!(
            text,
            "<g transform=\"translate({x},{y})\">\n\
             <text x=\"12\" y=\"20\" font-weight=\"bold\">{}</text>",
            panel[0]
        );
        draw(&mut text, bars);
        text.push_str("</g>\n");
    }
    text.push_str("</svg>\n");
    text
}

/// A path with its figure; none when it failed.
type Bar<'a> = (&'a str, Option<&'a Figure>);

/// Paths that have the panel's figure, or failed.
fn bars<'a>(report: &'a Report, [_, axis, case, figure]: [&str; 4]) -> Vec<Bar<'a>> {
    let rows = report.rows.iter();
    let rows = rows.filter(|row| row.axis == axis && row.case == case);
    let bar = |row: &'a Row| match row.figures.get(figure) {
        _ if row.failed.is_some() => Some((row.path.as_str(), None)),
        figure => Some((row.path.as_str(), Some(figure?))),
    };
    rows.filter_map(bar).collect()
}

/// A bar of the median, a thin line from the lowest to the highest value, the median in numbers.
fn draw(text: &mut String, bars: &[Bar<'_>]) {
    let medians = bars
        .iter()
        .filter_map(|(_, figure)| Some(figure.as_ref()?.median));
    let most = medians.fold(f64::MIN_POSITIVE, f64::max);
    let length = |value: f64| (value / most * BAR).clamp(0.0, WHISKER);
    for (index, (path, figure)) in bars.iter().enumerate() {
        let top = (index + 1) * LINE_HEIGHT + 8;
        let base = top + 12;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{path}</text>",
            LEFT - 6
        );
        let Some(figure) = figure else {
            let _ = writeln!(text, "<text x=\"{LEFT}\" y=\"{base}\">failed</text>");
            continue;
        };
        let left = LEFT as f64;
        let end = length(figure.median).max(length(figure.high));
        let _ = writeln!(
            text,
            "<rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"14\" fill=\"{}\"/>\n\
             <line x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\" stroke=\"#1f2933\"/>\n\
             <text x=\"{:.1}\" y=\"{base}\">{}</text>",
            top + 1,
            length(figure.median),
            colour(path),
            left + length(figure.low),
            left + length(figure.high),
            left + end + 6.0,
            short(figure.median),
            middle = top + 8,
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
    use crate::machine::Machine;

    fn row(path: &str, runs: &[f64]) -> Row {
        Row {
            axis: "requests".to_owned(),
            case: "1 connections".to_owned(),
            path: path.to_owned(),
            figures: [("p50_us".to_owned(), Figure::of(runs.to_vec()).unwrap())].into(),
            failed: None,
        }
    }

    fn drawn(rows: Vec<Row>) -> String {
        svg(&Report {
            machine: Machine::default(),
            rounds: 1,
            seconds: 1.0,
            took_s: 1.0,
            rows,
        })
    }

    #[test]
    fn the_longest_bar_is_that_of_the_largest_median_and_has_its_spread() {
        let svg = drawn(vec![
            row("direct", &[50.0]),
            row("baseline", &[100.0, 200.0, 210.0]),
        ]);
        assert!(
            svg.contains("width=\"40.0\"") && svg.contains("width=\"160.0\""),
            "{svg}"
        );
        assert!(
            svg.contains("x1=\"200.0\"") && svg.contains("x2=\"288.0\""),
            "{svg}"
        );
    }

    #[test]
    fn a_path_that_failed_says_so_and_one_without_the_figure_is_left_out() {
        let failed = Row {
            failed: Some("x".to_owned()),
            ..row("envoy", &[1.0])
        };
        let other = Row {
            figures: Default::default(),
            ..row("direct", &[1.0])
        };
        let svg = drawn(vec![row("relay", &[50.0]), failed, other]);
        assert!(
            svg.contains(">envoy</text>") && svg.contains(">failed</text>"),
            "{svg}"
        );
        assert!(!svg.contains("direct"), "{svg}");
    }
}
