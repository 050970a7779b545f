//! The report of a run: rows of figures, as JSON and as tables for people.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use comfy_table::Table;
use serde::{Deserialize, Serialize};

use crate::figures::{Figure, ratio};
use crate::machine::Machine;

/// All of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What it was measured on.
    pub machine: Machine,
    /// How often each case was run on each path.
    pub rounds: usize,
    /// Length of each measurement of a rate.
    pub seconds: f64,
    /// Length of the whole run.
    pub took_s: f64,
    /// One for each case and path.
    pub rows: Vec<Row>,
}

/// One case on one path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What `--only` names.
    pub axis: String,
    /// Which case of the axis.
    pub case: String,
    /// Which path.
    pub path: String,
    /// Figures by name; the unit is the end of the name.
    pub figures: BTreeMap<String, Figure>,
    /// Why it failed; figures of the rounds before may be there.
    pub failed: Option<String>,
}

impl Report {
    /// Reads one that was written.
    ///
    /// # Errors
    /// When the file cannot be read or is none.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
    }

    /// Writes it as JSON, making the directory.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        Ok(std::fs::write(path, serde_json::to_vec_pretty(self)?)?)
    }

    /// The row of a case on a path.
    pub(crate) fn row(&self, axis: &str, case: &str, path: &str) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.axis == axis && row.case == case && row.path == path)
    }

    /// A table for a terminal: a line for each case and path.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_preset(comfy_table::presets::NOTHING)
            .set_header(["case", "path", "median (low to high; / direct, / baseline)"]);
        for row in &self.rows {
            let figures = row
                .figures
                .keys()
                .map(|name| format!("{name} {}", self.cell(row, name)));
            let mut words: Vec<_> = row
                .failed
                .iter()
                .map(|why| format!("FAILED: {why}"))
                .collect();
            words.extend(figures);
            let case = format!("{}: {}", row.axis, row.case);
            table.add_row([case, row.path.clone(), words.join("  ")]);
        }
        table.to_string()
    }

    /// `12.3 (11.9 to 12.8; 0.45, 1.61)`: median, spread, ratio to direct, to the baseline.
    pub(crate) fn cell(&self, row: &Row, name: &str) -> String {
        let Some(figure) = row.figures.get(name) else {
            return String::new();
        };
        let to = |path| {
            self.ratio_to(row, name, path)
                .unwrap_or_else(|| "-".to_owned())
        };
        let ratios = match (to("direct"), to("baseline")) {
            (direct, baseline) if direct == "-" && baseline == "-" => String::new(),
            (direct, baseline) => format!("; {direct}, {baseline}"),
        };
        let (low, high) = (short(figure.low), short(figure.high));
        format!("{} ({low} to {high}{ratios})", short(figure.median))
    }

    /// Ratio of a row's figure to that of another path.
    pub(crate) fn ratio_to(&self, row: &Row, figure: &str, path: &str) -> Option<String> {
        let other = self.row(&row.axis, &row.case, path)?.figures.get(figure)?;
        let ratio = ratio(row.figures.get(figure)?, other)?;
        ratio
            .median
            .is_finite()
            .then(|| format!("{:.2}", ratio.median))
    }
}

/// Three significant digits, without an exponent.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &str, runs: &[f64]) -> Row {
        let figure = Figure::of(runs.to_vec()).unwrap();
        Row {
            axis: "bulk".to_owned(),
            case: "1 streams".to_owned(),
            path: path.to_owned(),
            figures: [("gbit_s".to_owned(), figure)].into(),
            failed: None,
        }
    }

    fn report() -> Report {
        let failed = Row {
            failed: Some("no Envoy".to_owned()),
            figures: BTreeMap::new(),
            ..row("envoy", &[1.0])
        };
        Report {
            machine: Machine::default(),
            rounds: 3,
            seconds: 2.0,
            took_s: 1.0,
            rows: vec![
                row("direct", &[10.0, 20.0]),
                row("culvert", &[5.0, 5.0]),
                failed,
            ],
        }
    }

    #[test]
    fn ratios_are_those_of_the_same_case() {
        let report = report();
        let culvert = &report.rows[1];
        let ratio = report.ratio_to(culvert, "gbit_s", "direct");
        assert_eq!(ratio.as_deref(), Some("0.38"));
        assert_eq!(report.ratio_to(culvert, "gbit_s", "baseline"), None);
    }

    #[test]
    fn a_failed_row_is_shown_as_failed() {
        let table = report().table();
        assert!(
            table.contains("FAILED") && table.contains("no Envoy"),
            "{table}"
        );
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let text = serde_json::to_string(&report()).unwrap();
        let back: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(back.rows, report().rows);
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [1234.5, 12.34, 1.234, 0.1234].map(short);
        assert_eq!(shown, ["1234", "12.3", "1.23", "0.123"]);
    }
}
