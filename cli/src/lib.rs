//! `culvert`, the command line: reads the arguments, owns the signals, gives the exit code.
//!
//! It must not know how a command does its work; each command is a module.

pub mod demo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use world::Interrupt;

use crate::demo::DemoError;

/// Exit code of a demo that ran and showed something false.
const EXIT_FALSE: u8 = 1;
/// Exit code when the command could not do its work.
const EXIT_ERROR: u8 = 2;
/// Exit code after Ctrl-C: 128 + SIGINT, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

/// The ambient mesh's command line.
#[derive(Debug, Parser)]
#[command(name = "culvert", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring up a two-node mesh in network namespaces of this machine, show what it does, and
    /// remove it.
    Demo(demo::Options),
}

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    let Arguments {
        command: Command::Demo(options),
    } = Arguments::parse();
    let interrupt = Interrupt::default();
    let work = {
        let interrupt = interrupt.clone();
        move || demo::run(&options, &interrupt)
    };
    match interruptibly(&interrupt, work) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FALSE),
        Err(DemoError::World(world::WorldError::Interrupted)) => {
            eprintln!("interrupted; everything was removed");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(EXIT_ERROR)
        }
    }
}

/// Runs blocking work while SIGINT and SIGTERM raise the interrupt; the work then ends by itself
/// and cleans up behind itself.
fn interruptibly<T: Send + 'static>(
    interrupt: &Interrupt,
    work: impl FnOnce() -> Result<T, DemoError> + Send + 'static,
) -> Result<T, DemoError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DemoError::Signals)?;
    runtime.block_on(async {
        let mut terminated =
            std::pin::pin!(process::tasks::terminated().map_err(DemoError::Signals)?);
        let mut work = tokio::task::spawn_blocking(work);
        let done = tokio::select! {
            done = &mut work => done,
            signal = &mut terminated => {
                eprintln!("{signal}: removing everything");
                interrupt.raise();
                work.await
            }
        };
        match done {
            Ok(result) => result,
            Err(e) => Err(DemoError::Panicked(e.to_string())),
        }
    })
}
