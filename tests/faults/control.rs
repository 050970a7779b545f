//! What the mesh does when the control side fails: the control plane, its source, its messages,
//! its certificates, and the clocks they are judged by.

mod control {
    pub mod authority;
    pub mod between;
    pub mod clock;
    pub mod corrupt;
    pub mod door;
    pub mod gone;
    pub mod late;
    pub mod liar;
    pub mod rule;
    pub mod source;
    pub mod wire;
}

use std::process::ExitCode;

use control::{authority, clock, corrupt, gone, source};
use scenarios::faults::Bed;
use scenarios::{run, scenario};

fn main() -> ExitCode {
    let mut scenarios = Vec::new();
    scenarios.extend(gone::scenarios());
    scenarios.extend(source::scenarios());
    scenarios.extend(corrupt::scenarios());
    scenarios.extend(authority::scenarios());
    scenarios.extend(clock::scenarios());
    // Last: it ends the capture that was begun with the bed.
    scenarios.push(scenario(
        "through all of this nothing but tunnels was opened between the pods",
        |bed: &mut Bed| bed.only_tunnels(),
    ));
    run(|| Bed::up("control"), scenarios)
}
