//! The command line of the bench: `cargo run --release -p benches`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Direct against through the mesh, interleaved in one run.
#[derive(Parser)]
struct Arguments {
    /// Seconds of each single measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How often each measurement is repeated; medians are reported.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Back end of the proxies: auto, io_uring or epoll.
    #[arg(long, default_value = "auto")]
    io: String,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench/report.json")]
    report: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let bed = benches::Bed::new(&arguments.io)?;
    let length = Duration::from_secs(arguments.seconds.max(1));
    let report = benches::run(&bed, length, arguments.rounds.max(1))?;
    println!("{}", report.table());
    report.write(&arguments.report)?;
    println!("written to {}", arguments.report.display());
    Ok(())
}
