//! culvertd: the control plane of Culvert. A thin face of the library beside it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use control_plane::authority::root;
use control_plane::flags::{Command, Flags, Serve};
use control_plane::server;
use control_plane::state::{StateDir, nodes};
use process::tasks::{Tasks, terminated};
use process::telemetry;

/// Time for streams and calls to end after a signal.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In one line and without a backtrace: it is read by a person who made a mistake.
            eprintln!("culvertd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    match Flags::parse().command {
        Command::Serve(flags) => serve(&flags),
        Command::Init(flags) => Ok(root::init(&StateDir::open(&flags.state)?)?),
        Command::Token(flags) => {
            let state = StateDir::open(&flags.state.state)?;
            Ok(nodes::rotate(&state, &flags.node, &flags.out)?)
        }
        Command::RotateRoot(flags) => {
            let state = StateDir::open(&flags.state.state)?;
            match flags.retire {
                true => Ok(root::retire(&state)?),
                false => Ok(root::rotate(&state)?),
            }
        }
    }
}

fn serve(flags: &Serve) -> anyhow::Result<()> {
    let log = telemetry::init(&flags.log, flags.log_format)?;
    let config = flags.config()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        let signal = terminated().context("signal handlers")?;
        let served = server::start(config, &tasks, Some(log)).await;
        let failed = match served {
            Err(error) => Some(anyhow::Error::from(error).context("culvertd serves nothing")),
            Ok(_) => tokio::select! {
                name = signal => {
                    tracing::info!(signal = name, "stopping");
                    None
                }
                failure = tasks.failed() => Some(failure.into()),
            },
        };
        tasks.shutdown(GRACE).await;
        failed.map_or(Ok(()), Err)
    })
}
