//! The command line of the waypoint's bench: `benches waypoint`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use benches::waypoint::{self, Options};
use benches::{Plan, Report};
use clap::Args;

/// A run of the waypoint's bench.
#[derive(Args)]
pub(crate) struct Run {
    /// Only this axis (lookup, memory, requests, http2, paced, routes, push, change); repeatable.
    #[arg(long, value_name = "AXIS", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these ways: culvert, culvert/epoll, culvert/io_uring, envoy; direct always.
    #[arg(long, value_delimiter = ',')]
    paths: Vec<String>,
    /// How often each case is run on each way; medians are reported.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each single measurement of a rate.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// The waypoint's binary; the one of this build when it is not given.
    #[arg(long)]
    waypoint: Option<PathBuf>,
    /// Log level of our waypoint.
    #[arg(long, default_value = "warn")]
    log: String,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench/report-waypoint.json")]
    report: PathBuf,
    /// Where Envoy is, or is installed.
    #[arg(long, default_value = "target/bench/envoy")]
    envoy: PathBuf,
    /// Writes the report as a section of a document too.
    #[arg(long, value_name = "FILE")]
    write_docs: Option<PathBuf>,
    /// Runs nothing and shows this report again.
    #[arg(long, value_name = "REPORT")]
    render: Option<PathBuf>,
}

impl Run {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let report = match &self.render {
            Some(file) => Report::read(file)?,
            None => self.measure()?,
        };
        println!("{}", waypoint::section(&report));
        if let Some(file) = &self.write_docs {
            waypoint::write_document(&report, file)?;
            println!("written to {}", file.display());
        }
        Ok(())
    }

    fn measure(&self) -> anyhow::Result<Report> {
        let plan = Plan {
            rounds: self.rounds.max(1),
            length: Duration::from_secs(self.seconds.max(1)),
            quick: false,
            only: self.only.clone(),
        };
        let own = std::env::current_exe()?;
        let beside = own.with_file_name("waypoint");
        let waypoint = std::path::absolute(self.waypoint.as_ref().unwrap_or(&beside))?;
        let report = waypoint::run(
            &Options {
                waypoint,
                envoy: std::path::absolute(&self.envoy).context("the directory of Envoy")?,
                paths: self.paths.clone(),
                log: self.log.clone(),
            },
            &plan,
        )?;
        report.write(&self.report)?;
        println!("written to {}", self.report.display());
        Ok(report)
    }
}
