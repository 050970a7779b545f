//! The command line of `cargo xtask`.

use std::process::ExitCode;

use clap::Parser;

/// Tasks of the house.
#[derive(Parser)]
enum Task {
    /// Checks the rules of docs/style.md; prints what breaks them.
    Tidy,
}

fn main() -> anyhow::Result<ExitCode> {
    match Task::parse() {
        Task::Tidy => {
            let faults = xtask::tidy::check(&xtask::workspace_root()?)?;
            for fault in &faults {
                eprintln!("{fault}");
            }
            println!("tidy: {} faults", faults.len());
            Ok(if faults.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}
