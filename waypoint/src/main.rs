//! The binary `waypoint`: flags, limits, logging, the control side's runtime.

use clap::Parser;
use process::telemetry;
use waypoint::app;
use waypoint::config::Config;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let limits = config.read_limits()?;
    let logging = telemetry::init(&config.flags.log, config.flags.log_format)?;
    // One thread is enough beside the workers: nothing here is on the data path.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(app::run(config, limits, logging))?)
}
