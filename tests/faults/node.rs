//! What breaks on a node, and what the mesh does then: processes, links, disks, descriptors.
//!
//! One mesh for all scenarios, in this order; each leaves it whole. What an operator sees in each
//! case is in docs/faults-node.md.

mod node {
    pub mod closed;
    pub mod cut;
    pub mod descriptors;
    pub mod disk;
    pub mod ground;
    pub mod killed;
    pub mod link;
    pub mod loss;
    pub mod pins;
    pub mod steps;
    pub mod twice;
    pub mod wire;
}

use std::process::ExitCode;

use node::ground::Ground;
use node::{closed, cut, descriptors, disk, killed, link, loss, pins, twice};
use scenarios::{Scenario, run};

fn main() -> ExitCode {
    run(
        Ground::up,
        vec![
            scenario(
                "proxies are killed under load: what they carried ends at both ends, what comes \
                 waits for the next one, and nothing goes in plaintext",
                killed::under_load,
            ),
            scenario(
                "without agent and proxy nothing of a captured pod reaches anybody, nor anybody it",
                closed::without_both,
            ),
            scenario(
                "an agent that is killed at any step of an ADD leaves a pod that is wholly \
                 captured or not at all",
                cut::at_each_step,
            ),
            scenario(
                "an agent that is killed at any moment of an ADD leaves nothing behind",
                cut::at_random_moments,
            ),
            scenario(
                "agents that are killed right after their start take no connection with them",
                twice::in_succession,
            ),
            scenario(
                "connections live through ten seconds without a node's link",
                link::down_and_up,
            ),
            scenario(
                "of a hundred packets one is lost, and no connection",
                loss::one_percent,
            ),
            scenario(
                "of ten packets one is lost, and no byte of a connection that lives",
                loss::ten_percent,
            ),
            scenario(
                "a full disk fails what must be written, by name, and nothing else",
                disk::full,
            ),
            scenario(
                "a proxy without descriptors lets connections wait or refuses them",
                descriptors::of_the_proxy,
            ),
            scenario(
                "an agent without descriptors fails an ADD and undoes it",
                descriptors::of_the_agent,
            ),
            scenario(
                "a control plane without descriptors keeps what it had",
                descriptors::of_the_control_plane,
            ),
            scenario(
                "a bpffs that is read only fails an ADD by name, and captured pods go on",
                pins::read_only,
            ),
            scenario(
                "a bpffs that is unmounted fails an ADD by name, captured pods go on, and what it \
                 held is repaired",
                pins::unmounted,
            ),
        ],
    )
}

/// A scenario that begins with all processes there, also after one that failed.
fn scenario(name: &str, run: fn(&mut Ground) -> anyhow::Result<()>) -> Scenario<Ground> {
    scenarios::scenario(name, move |ground: &mut Ground| {
        ground.mend()?;
        run(ground)
    })
}
