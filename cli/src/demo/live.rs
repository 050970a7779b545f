//! Connections that stay, with an echo ten times a second.

use std::net::IpAddr;
use std::time::Duration;

use world::{Pod, Process, Program, WorldError};

use crate::demo::servers::{ECHO_PORT, Programs};

/// How long a connection may take to be made and greeted.
const GREETED_WITHIN: Duration = Duration::from_secs(60);
/// How long a few more echoes may take: they come every 100 ms, on a machine with other work later.
const ECHO_WITHIN: Duration = Duration::from_secs(30);

/// A running client that holds one connection.
#[derive(Debug)]
pub struct Live(Process);

impl Live {
    /// Connects from a pod and waits until the echo works. `name` is for its log.
    pub fn open(
        programs: &Programs,
        from: &Pod,
        name: &str,
        to: IpAddr,
    ) -> Result<Self, WorldError> {
        let program = programs.live(to, ECHO_PORT);
        let process = from.start(name, &program)?;
        process.wait_for_line(&["tick 1"], GREETED_WITHIN)?;
        Ok(Live(process))
    }

    /// How many echoes came back.
    pub fn echoes(&self) -> usize {
        self.0
            .log()
            .lines()
            .filter(|line| line.starts_with("tick"))
            .count()
    }

    /// Whether the connection is over.
    pub fn is_over(&self) -> bool {
        self.0.ended().is_some()
    }

    /// Waits until the connection is over.
    pub fn wait_over(&self, within: Duration) -> Result<(), WorldError> {
        self.0.wait_end(within).map(drop)
    }

    /// Whether more echoes come from now on.
    pub fn goes_on(&self) -> bool {
        let before = self.echoes();
        let more = self.0.wait_until("more echoes", ECHO_WITHIN, || {
            (self.echoes() >= before + 3).then_some(())
        });
        more.is_ok()
    }
}

/// Makes one connection with a few echoes; what was printed, and whether all of them came.
pub fn exchange(programs: &Programs, from: &Pod, to: IpAddr) -> Result<(bool, String), WorldError> {
    let program: Program = programs.live(to, ECHO_PORT).arg("3");
    let output = from.run(&program)?;
    Ok((output.ok(), output.text()))
}
