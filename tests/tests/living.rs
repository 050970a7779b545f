//! Live connections live on, whatever is enrolled, killed or replaced: the short form of
//! `make prove` and `make soak`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use scenarios::prove::{Bed, SHORT, cold, enrol, repairs, restart, soak, swap};
use scenarios::{run, scenario};
use world::Interrupt;

fn main() -> ExitCode {
    run(
        || Bed::up(&Interrupt::of_signals(), logs()),
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
                ensure!(figures.connections > 0 && figures.swaps > figures.by_handover);
                ensure!(figures.changed_binary > 0 && figures.without_control_plane > 0);
                Ok(())
            }),
            scenario(
                "with no proxy and no control plane to ask the next is not ready, and \
                 connections wait",
                |bed| {
                    let figures = cold::prove(bed)?;
                    ensure!(figures.wrong().is_empty(), "{figures:#?}");
                    Ok(())
                },
            ),
            scenario("a part of a capture that is removed is repaired", |bed| {
                let figures = repairs::prove(bed)?;
                ensure!(figures.wrong().is_empty(), "{figures:#?}");
                Ok(())
            }),
            scenario("a soak breaks nothing and leaves nothing", |bed| {
                let figures = soak::run(bed, &soak::Plan::new(0, 1, true))?;
                ensure!(figures.wrong().is_empty(), "{figures:#?}");
                ensure!(!figures.events.is_empty() && figures.bytes > 0);
                Ok(())
            }),
        ],
    )
}

/// What the processes said, for a person who looks after a failure.
fn logs() -> PathBuf {
    std::env::temp_dir().join(format!("culvert-living-{}", std::process::id()))
}
