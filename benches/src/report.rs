//! The report: medians of both paths, their ratio, and what the proxies used.

use std::path::Path;

use comfy_table::Table;
use serde::Serialize;

use crate::load::{Load, Measured};

/// All of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Back end of the proxies, as asked for.
    pub io: String,
    /// How often each load was run on each path.
    pub rounds: usize,
    /// Resident memory of each proxy before any load, in KiB.
    pub idle_rss_kib: Vec<u64>,
    /// One for each load.
    pub cases: Vec<Case>,
}

/// Medians of one load.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// What was run.
    pub load: String,
    /// Unit of the rates.
    pub unit: &'static str,
    /// Rate between pods that are not enrolled.
    pub direct: f64,
    /// Rate between enrolled pods.
    pub mesh: f64,
    /// `mesh / direct`.
    pub ratio: f64,
    /// Median latency in microseconds, direct.
    pub direct_p50_us: Option<f64>,
    /// Median latency in microseconds, through the mesh.
    pub mesh_p50_us: Option<f64>,
    /// 99th percentile in microseconds, through the mesh.
    pub mesh_p99_us: Option<f64>,
    /// CPU-seconds of both proxies per GB, or per request.
    pub proxy_cpu_s_per_work: f64,
}

impl Case {
    pub(crate) fn new(load: &Load, direct: &[Measured], mesh: &[Measured], cpu: &[f64]) -> Self {
        let rate = |runs: &[Measured]| median(runs.iter().map(|run| run.rate).collect());
        let latency = |runs: &[Measured], of: fn(&Measured) -> Option<f64>| {
            let values: Vec<_> = runs.iter().filter_map(of).collect();
            (!values.is_empty()).then(|| median(values))
        };
        Case {
            load: load.name(),
            unit: load.unit(),
            direct: rate(direct),
            mesh: rate(mesh),
            ratio: rate(mesh) / rate(direct),
            direct_p50_us: latency(direct, |run| run.p50_us),
            mesh_p50_us: latency(mesh, |run| run.p50_us),
            mesh_p99_us: latency(mesh, |run| run.p99_us),
            proxy_cpu_s_per_work: median(cpu.to_vec()),
        }
    }
}

impl Report {
    /// A table for people.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_preset(comfy_table::presets::ASCII_MARKDOWN)
            .set_header([
                "load",
                "direct",
                "through the mesh",
                "ratio",
                "p50 direct / mesh",
                "proxies' CPU",
            ]);
        for case in &self.cases {
            let rate = |rate: f64| match case.unit {
                "Gbit/s" => format!("{rate:.1} {}", case.unit),
                unit => format!("{rate:.0} {unit}"),
            };
            let latency = match (case.direct_p50_us, case.mesh_p50_us) {
                (Some(direct), Some(mesh)) => format!("{direct:.0} / {mesh:.0} us"),
                _ => String::new(),
            };
            let cpu = match case.unit {
                "Gbit/s" => format!("{:.2} s/GB", case.proxy_cpu_s_per_work),
                _ => format!("{:.0} us each", case.proxy_cpu_s_per_work * 1e6),
            };
            let ratio = format!("{:.2}", case.ratio);
            table.add_row([
                case.load.clone(),
                rate(case.direct),
                rate(case.mesh),
                ratio,
                latency,
                cpu,
            ]);
        }
        let mib: Vec<_> = self
            .idle_rss_kib
            .iter()
            .map(|kib| format!("{:.1} MiB", *kib as f64 / 1024.0))
            .collect();
        format!(
            "{table}\nidle proxies: {} RSS; io: {}",
            mib.join(", "),
            self.io
        )
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
}

/// The middle value; the upper of the two middle ones of an even number.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_made_of_medians_and_their_ratio() {
        let run = |rate| Measured {
            rate,
            p50_us: Some(rate),
            p99_us: None,
            work: 1.0,
        };
        let load = Load::Requests { connections: 1 };
        let direct = [run(100.0), run(400.0), run(200.0)];
        let case = Case::new(
            &load,
            &direct,
            &[run(50.0), run(1.0), run(150.0)],
            &[3.0, 1.0, 2.0],
        );
        assert_eq!((case.direct, case.mesh, case.ratio), (200.0, 50.0, 0.25));
        assert_eq!((case.mesh_p50_us, case.mesh_p99_us), (Some(50.0), None));
        assert_eq!(case.proxy_cpu_s_per_work, 2.0);
    }
}
