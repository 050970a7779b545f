//! The binary `ztunnel`: flags, limits, logging, the control side's runtime.

use std::io::Write;
use std::path::Path;

use carrier::limits::{self, Limits};
use process::telemetry;
use ztunnel::app;
use ztunnel::config::Asked;

fn main() -> anyhow::Result<()> {
    let config = match Asked::parse_from(std::env::args_os()) {
        Ok(Asked::Serve(config)) => *config,
        Ok(Asked::Limits { file, as_table }) => return print_limits(file.as_deref(), as_table),
        Err(error) => error.exit(),
    };
    let limits = config.read_limits()?;
    let logging = telemetry::init(&config.flags.log, config.flags.log_format)?;
    // One thread is enough beside the workers: nothing here is on the data path.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(app::run(config, limits, logging))?)
}

fn print_limits(file: Option<&Path>, as_table: bool) -> anyhow::Result<()> {
    let limits = file.map_or_else(|| Ok(Limits::default()), limits::load)?;
    let page = if as_table {
        limits::table(&limits)
    } else {
        limits::yaml(&limits)
    };
    Ok(std::io::stdout().write_all(page.as_bytes())?)
}
