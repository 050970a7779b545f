//! The binary `waypoint`: flags, limits, logging, the control side's runtime.

use std::io::Write;

use carrier::limits::{self, Limits};
use process::flags::Asked;
use process::telemetry;
use waypoint::app;
use waypoint::config::{Config, VARIABLES};

fn main() -> anyhow::Result<()> {
    let config: Config = match Asked::parse_from(std::env::args_os(), VARIABLES) {
        Ok(Asked::Serve(config)) => *config,
        Ok(Asked::Limits { file, as_table }) => {
            let page = limits::print(file.as_deref(), as_table)?;
            return Ok(std::io::stdout().write_all(page.as_bytes())?);
        }
        Err(error) => error.exit(),
    };
    let limits = Limits::of(&config.flags)?;
    let logging = telemetry::init(&config.flags.log, config.flags.log_format)?;
    // One thread is enough beside the workers: nothing here is on the data path.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(app::run(config, limits, logging))?)
}
