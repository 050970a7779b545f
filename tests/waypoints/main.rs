//! Waypoints that the node agents run: from the Gateway that appears to nothing that is left.
//!
//! First with a stand-in for the program, which shows what the agents do whatever it does; then
//! with the waypoint itself, and traffic through it.

mod bed;
mod found;
mod life;
mod traffic;

use std::process::ExitCode;

use scenarios::{run, scenario};

use bed::Bed;

fn main() -> ExitCode {
    run(
        Bed::up,
        vec![
            scenario(
                "a Gateway that appears gets a waypoint that is ready",
                life::appears,
            ),
            scenario(
                "a waypoint that is killed starts again in its sandbox",
                life::killed,
            ),
            scenario(
                "a waypoint outlives its agent, and the next agent takes it over unseen",
                life::outlives,
            ),
            scenario("two replicas run on two nodes", life::spread),
            scenario(
                "a restart that is asked for brings another waypoint before the first one goes",
                life::replaced,
            ),
            scenario(
                "a program that is never ready replaces nothing, and says so",
                life::never,
            ),
            scenario("a waypoint that will not end is ended", life::deaf),
            scenario(
                "a number of replicas that is none says so, and what runs goes on",
                life::unreadable,
            ),
            scenario(
                "a waypoint whose namespace has vanished gets another",
                found::homeless,
            ),
            scenario(
                "what an unreadable record left is taken away, and another waypoint comes",
                found::unreadable,
            ),
            scenario(
                "after a reboot the waypoint runs again, and nothing is left of pods that went",
                found::rebooted,
            ),
            scenario(
                "a Gateway that goes leaves nothing behind",
                life::nothing_left,
            ),
            scenario(
                "requests go through a waypoint that the node runs",
                traffic::through,
            ),
            scenario(
                "waypoints are replaced under load without a failed request",
                traffic::replaced,
            ),
            scenario(
                "without the Gateway requests go on without a waypoint",
                traffic::gone,
            ),
        ],
    )
}
