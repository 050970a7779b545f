//! Hostile peers and hostile pods hurt nobody: each attack of `make prove`, in a short form.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use scenarios::prove::hostile::{Bed, Figures, Plan, Run, SHORT, peers, pods};
use scenarios::{Scenario, run, scenario};
use world::Interrupt;

/// What all scenarios add to.
struct Shared {
    bed: Bed,
    figures: Figures,
}

fn main() -> ExitCode {
    let attacks = peers::ALL.iter().chain(pods::ALL);
    let mut scenarios: Vec<Scenario<Shared>> = attacks.map(one).collect();
    scenarios.push(scenario(
        "after all of it the proxy is as small as before",
        |shared: &mut Shared| {
            shared.bed.settle(&mut shared.figures)?;
            let wrong = shared.figures.wrong();
            ensure!(wrong.is_empty(), "{wrong:#?}");
            Ok(())
        },
    ));
    run(up, scenarios)
}

fn up() -> anyhow::Result<Shared> {
    let mut bed = Bed::up(&Interrupt::of_signals(), logs())?;
    let figures = bed.calm(&SHORT)?;
    println!("quiet: {:?}", figures.quiet);
    Ok(Shared { bed, figures })
}

fn one((name, attack): &'static (&'static str, Run)) -> Scenario<Shared> {
    let plan: Plan = SHORT;
    scenario(
        format!("neighbours do not suffer: {name}"),
        move |shared: &mut Shared| {
            let done = attack(&shared.bed, &plan, name)?;
            println!("    {}", done.line());
            ensure!(done.wrong.is_empty(), "{:#?}\n{done:#?}", done.wrong);
            ensure!(done.failed.is_empty(), "neighbours failed: {done:#?}");
            ensure!(done.neighbours.answered() > 0, "no neighbour asked");
            shared.figures.take(done);
            Ok(())
        },
    )
}

/// What the processes said, for a person who looks after a failure.
fn logs() -> PathBuf {
    std::env::temp_dir().join(format!("culvert-hostile-{}", std::process::id()))
}
