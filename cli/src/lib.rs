//! `culvert`, the command line: reads the arguments, owns the signals, gives the exit code.
//!
//! It must not know how a command does its work; each command is a module.

pub mod canary;
pub mod demo;
mod fetch;
pub mod manifests;
pub mod route;
pub mod statistics;
pub mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use world::Interrupt;

use crate::demo::DemoError;

/// Exit code of a demo that showed something false, and of a status with something wrong.
const EXIT_FALSE: u8 = 1;
/// Exit code when the command could not do its work.
const EXIT_ERROR: u8 = 2;
/// Exit code after Ctrl-C: 128 + SIGINT, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

/// The command line of Culvert, an ambient service mesh. `culvert COMMAND --help` says more.
#[derive(Debug, Parser)]
#[command(name = "culvert", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring up a two-node mesh in network namespaces of this machine, show what it does, and
    /// remove it.
    Demo(demo::Options),
    /// Split a Service's requests between its versions, by the weights of its route.
    #[command(subcommand)]
    Canary(canary::Command),
    /// Look at routes.
    #[command(subcommand)]
    Route(route::Command),
    /// Say what becomes of every object of a directory of manifests, or of those that a culvertd
    /// serves.
    ///
    /// Exit code 1: something is refused, or some condition does not hold; 2: nothing could be
    /// said.
    Status(status::Options),
}

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Demo(options) => run_demo(options),
        Command::Canary(command) => match canary::told(&command) {
            Ok(text) => print(&text, true),
            Err(e) => failed(&e),
        },
        Command::Route(command) => match route::explained(&command) {
            Ok(text) => print(&text, true),
            Err(e) => failed(&e),
        },
        Command::Status(options) => match status::told(&options) {
            Ok((text, fine)) => print(&text, fine),
            Err(e) => failed(&e),
        },
    }
}

fn run_demo(options: demo::Options) -> ExitCode {
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
        Err(e) => failed(&e),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(EXIT_ERROR)
}

/// Prints an answer. A reader that has gone (`| head`) is no error.
fn print(text: &str, fine: bool) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    match fine {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_FALSE),
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
