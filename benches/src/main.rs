//! The command line of the bench: `cargo run --release -p benches`.

mod waypoint_command;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use benches::peers::{Forward, baseline, relay};
use benches::{Certificates, Options, Plan, Report, tools};
use clap::{Args, Parser, Subcommand};

/// Rounds of a full run, and of a quick one.
const ROUNDS: [usize; 2] = [5, 3];
/// Paths of a quick run.
const QUICK_PATHS: [&str; 3] = ["direct", "baseline", "culvert"];

/// The same load over several paths, interleaved in one run.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    part: Option<Part>,
}

/// A run of the bench.
#[derive(Args)]
struct Run {
    /// A few minutes: direct, baseline, culvert on bulk, requests and connections.
    #[arg(long)]
    quick: bool,
    /// Only this axis (memory, pods, configuration, bulk, requests, paced, connections,
    /// cold, fairness, growth); repeatable.
    #[arg(long, value_name = "AXIS", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these paths: direct, relay, culvert, culvert/epoll, baseline, envoy.
    #[arg(long, value_delimiter = ',')]
    paths: Vec<String>,
    /// How often each case is run on each path; medians are reported.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each single measurement of a rate.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// A ztunnel binary, `PATH` or `NAME=PATH`; repeatable: builds are compared in one run.
    #[arg(long, value_name = "[NAME=]PATH")]
    ztunnel: Vec<String>,
    /// Log level of ztunnel; at `info` it writes an access log, which the baseline has none of.
    #[arg(long, default_value = "warn")]
    log: String,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench/report.json")]
    report: PathBuf,
    /// Writes the report as a document too, with its plot beside it.
    #[arg(long, value_name = "FILE")]
    write_docs: Option<PathBuf>,
    /// Runs nothing and shows this report again.
    #[arg(long, value_name = "REPORT")]
    render: Option<PathBuf>,
}

/// What the bench starts in its pods.
#[derive(Subcommand)]
enum Part {
    /// A plain TCP relay.
    #[command(hide = true)]
    Relay { forwards: Vec<Forward> },
    /// The originating side of the baseline.
    #[command(hide = true)]
    BaselineNear {
        far: SocketAddr,
        certificates: PathBuf,
        forwards: Vec<Forward>,
    },
    /// The terminating side of the baseline.
    #[command(hide = true)]
    BaselineFar {
        listen: SocketAddr,
        certificates: PathBuf,
    },
    /// A server that sends back what it gets.
    #[command(hide = true)]
    ServeEcho { addresses: Vec<SocketAddr> },
    /// Feeds a ztunnel with workloads and measures what they cost it.
    #[command(hide = true)]
    Configure {
        workloads: usize,
        ztunnel: PathBuf,
        directory: PathBuf,
    },
    /// A load program.
    #[command(subcommand, hide = true)]
    Load(tools::Load),
    /// Our waypoint beside Envoy as one, the same ztunnels before and behind both.
    Waypoint(waypoint_command::Run),
    /// A load program of the waypoint's bench.
    #[command(subcommand, hide = true)]
    WaypointLoad(benches::waypoint::Load),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.part {
        None => arguments.run.run(),
        Some(Part::Relay { forwards }) => relay::run(&forwards),
        Some(Part::BaselineNear {
            far,
            certificates,
            forwards,
        }) => baseline::run_near(&forwards, far, &Certificates::at(&certificates)),
        Some(Part::BaselineFar {
            listen,
            certificates,
        }) => baseline::run_far(listen, &Certificates::at(&certificates)),
        Some(Part::ServeEcho { addresses }) => tools::serve_echo(&addresses),
        Some(Part::Configure {
            workloads,
            ztunnel,
            directory,
        }) => {
            let figures = tools::configure(workloads, &ztunnel, &directory)?;
            println!("{}", serde_json::to_string(&figures)?);
            Ok(())
        }
        Some(Part::Load(load)) => load.run(),
        Some(Part::Waypoint(run)) => run.run(),
        Some(Part::WaypointLoad(load)) => load.run(),
    }
}

impl Run {
    fn run(self) -> anyhow::Result<()> {
        let report = match &self.render {
            Some(file) => Report::read(file)?,
            None => self.measure()?,
        };
        println!("{}", report.table());
        if let Some(file) = &self.write_docs {
            benches::write_document(&report, file)?;
            println!("written to {}", file.display());
        }
        Ok(())
    }

    fn measure(&self) -> anyhow::Result<Report> {
        let plan = Plan {
            rounds: self
                .rounds
                .unwrap_or(ROUNDS[usize::from(self.quick)])
                .max(1),
            length: Duration::from_secs(self.seconds.max(1)),
            quick: self.quick,
            only: self.only.clone(),
        };
        let report = benches::run(&self.options()?, &plan)?;
        report.write(&self.report)?;
        println!("written to {}", self.report.display());
        Ok(report)
    }

    fn options(&self) -> anyhow::Result<Options> {
        let mut paths = self.paths.clone();
        if paths.is_empty() && self.quick {
            paths = QUICK_PATHS.map(str::to_owned).to_vec();
        }
        let ztunnels = self.ztunnel.iter().map(|text| {
            let (name, path) = text.split_once('=').unwrap_or(("", text));
            let path = std::path::absolute(path)?;
            anyhow::ensure!(path.is_file(), "--ztunnel {text}: no such file");
            Ok((name.to_owned(), path))
        });
        let directory = self.report.parent().unwrap_or(&self.report);
        let envoy =
            std::path::absolute(directory.join("envoy")).context("the directory of Envoy")?;
        Ok(Options {
            paths,
            ztunnels: ztunnels.collect::<anyhow::Result<_>>()?,
            log: self.log.clone(),
            envoy,
        })
    }
}
