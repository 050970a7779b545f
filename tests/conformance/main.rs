//! Conformance: every feature of routes as a scenario, through real clients and the whole chain of
//! client pod, ztunnel, waypoint, ztunnel, server pod.
//!
//! First what needs no world: that every manifest is accepted, and that `explain` sends each
//! request where the scenario expects its answer from.

mod ask;
mod bed;
mod case;
mod judge;
mod more;
mod paper;
mod traces;
mod whole;

use std::process::ExitCode;
use std::rc::Rc;

use anyhow::bail;
use bed::Bed;
use case::Case;
use scenarios::{Scenario, run, scenario};

fn main() -> ExitCode {
    let cases = match case::all() {
        Ok(cases) => cases.into_iter().map(Rc::new).collect::<Vec<_>>(),
        Err(error) => {
            eprintln!("the scenarios cannot be read: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let on_paper = run(|| Ok(()), cases.iter().flat_map(paper::scenarios).collect());
    let mut scenarios: Vec<Scenario<Bed>> = cases.iter().flat_map(in_the_world).collect();
    let weights = cases.iter().find(|case| case.name == "weights");
    scenarios.extend(weights.into_iter().flat_map(more::scenarios));
    scenarios.extend(whole::scenarios());
    scenarios.extend(traces::scenarios());
    let in_the_world = run(move || Bed::up(&cases), scenarios);
    match on_paper == ExitCode::SUCCESS && in_the_world == ExitCode::SUCCESS {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// A scenario for each HTTP version that a case has pairs of.
fn in_the_world(case: &Rc<Case>) -> Vec<Scenario<Bed>> {
    [(1, "HTTP/1.1"), (2, "HTTP/2")]
        .into_iter()
        .filter(|(version, _)| case.requests.pairs.iter().any(|p| p.http.contains(version)))
        .map(|(version, name)| {
            let case = case.clone();
            let title = format!("{}, {name}: {}", case.name, case.requests.about);
            scenario(title, move |bed: &mut Bed| all_pairs(bed, &case, version))
        })
        .collect()
}

fn all_pairs(bed: &mut Bed, case: &Case, version: u8) -> anyhow::Result<()> {
    let pairs = case.requests.pairs.iter();
    let mut failed = Vec::new();
    for (number, pair) in pairs
        .filter(|pair| pair.http.contains(&version))
        .enumerate()
    {
        // When the first is as expected the scenario is applied: the others have one try.
        let outcome = match number {
            0 => bed.settled(case, pair, version)?,
            _ => bed.asked(case, pair, version)?,
        };
        if let Some(told) = judge::told(&pair.expect, &outcome.answers) {
            println!("    {}: {told}", pair.ask);
        }
        if !outcome.wrong.is_empty() {
            let headers = pair.headers.join(", ");
            failed.push(format!(
                "{} {headers} from {}:\n      {}",
                pair.ask,
                pair.from,
                outcome.wrong.join("\n      ")
            ));
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n    "));
    }
    Ok(())
}
