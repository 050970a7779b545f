//! Live connections live on, whatever is enrolled, killed or replaced: the short form of
//! `make prove` and `make soak`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use scenarios::prove::{Bed, SHORT, enrol, repairs, restart, swap};
use scenarios::{run, scenario};
use world::Interrupt;

fn main() -> ExitCode {
    run(
        || Bed::up(&Interrupt::default(), logs()),
        vec![
            scenario(
                "a pod is let go and captured with live connections and none breaks",
                |bed| {
                    let figures = enrol::prove(bed, &SHORT)?;
                    ensure!(figures.wrong().is_empty(), "{figures:#?}");
                    ensure!(figures.tried > 0 && figures.new_after_enrol > 0);
                    Ok(())
                },
            ),
            scenario(
                "agents and proxies are killed and connections wait, but none fails",
                |bed| {
                    let figures = restart::prove(bed, &SHORT)?;
                    ensure!(figures.wrong().is_empty(), "{figures:#?}");
                    ensure!(figures.connections > 0 && figures.waited > 0);
                    Ok(())
                },
            ),
            scenario("proxies are replaced under load and none breaks", |bed| {
                let figures = swap::prove(bed, &SHORT)?;
                ensure!(figures.wrong().is_empty(), "{figures:#?}");
                ensure!(figures.connections > 0 && figures.ended_clean == figures.swaps);
                Ok(())
            }),
            scenario("a part of a capture that is removed is repaired", |bed| {
                let figures = repairs::prove(bed)?;
                ensure!(figures.wrong().is_empty(), "{figures:#?}");
                Ok(())
            }),
        ],
    )
}

/// What the processes said, for a person who looks after a failure.
fn logs() -> PathBuf {
    std::env::temp_dir().join(format!("culvert-living-{}", std::process::id()))
}
