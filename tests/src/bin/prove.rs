//! `prove`: the figures of `make prove` and `make soak`; see `scenarios::prove`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use scenarios::prove::{self, hostile, soak};
use world::Interrupt;

/// Shows that nothing that lives breaks.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enrolment, restarts and swaps with live connections.
    Prove {
        /// A small part of everything, in seconds.
        #[arg(long)]
        short: bool,
        /// Where the report goes; the logs go beside it.
        #[arg(long, default_value = "target/prove/report.json")]
        report: PathBuf,
    },
    /// Attacks by hostile peers and pods, and what their neighbours see of it.
    Hostile {
        /// A small part of everything, in about a minute.
        #[arg(long)]
        short: bool,
        /// Where the report goes; the logs go beside it.
        #[arg(long, default_value = "target/hostile/report.json")]
        report: PathBuf,
    },
    /// Mixed load with everything happening at random.
    Soak {
        /// How long.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Seed of everything random.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Seconds instead of minutes.
        #[arg(long)]
        short: bool,
        /// Where the report goes; the logs go beside it.
        #[arg(long, default_value = "target/soak/report.json")]
        report: PathBuf,
    },
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    match interruptibly(move |interrupt| run(&command, interrupt)) {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            eprintln!("not as promised: {}", wrong.join("; "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// What is not as promised.
fn run(command: &Command, interrupt: &Interrupt) -> anyhow::Result<Vec<String>> {
    match command {
        Command::Prove { short, report } => {
            let plan = if *short { prove::SHORT } else { prove::LONG };
            let figures = prove::everything(&plan, interrupt, logs(report))?;
            prove::write(report, &figures)?;
            println!("{}", serde_json::to_string_pretty(&figures)?);
            Ok(figures.wrong())
        }
        Command::Hostile { short, report } => {
            let plan = if *short {
                hostile::SHORT
            } else {
                hostile::LONG
            };
            let figures = hostile::prove(&plan, interrupt, logs(report))?;
            prove::write(report, &figures)?;
            println!("{}", serde_json::to_string_pretty(&figures)?);
            Ok(figures.wrong())
        }
        Command::Soak {
            minutes,
            seed,
            short,
            report,
        } => {
            let plan = soak::Plan::new(*minutes, *seed, *short);
            let figures = soak::soak(&plan, interrupt, logs(report))?;
            prove::write(report, &figures)?;
            println!("{}", serde_json::to_string_pretty(&figures)?);
            Ok(figures.soak.wrong())
        }
    }
}

fn logs(report: &Path) -> PathBuf {
    report.with_file_name("logs")
}

/// Runs blocking work while SIGINT and SIGTERM raise the interrupt; it then removes its world.
fn interruptibly<T: Send + 'static>(
    work: impl FnOnce(&Interrupt) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let interrupt = Interrupt::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let terminated = process::tasks::terminated()?;
        let raised = interrupt.clone();
        let mut work = tokio::task::spawn_blocking(move || work(&interrupt));
        tokio::select! {
            done = &mut work => done?,
            signal = terminated => {
                eprintln!("{signal}: removing everything");
                raised.raise();
                work.await?
            }
        }
    })
}
