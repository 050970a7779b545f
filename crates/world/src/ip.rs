//! Links, addresses and routes of a world's namespaces, by the `ip` program.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::error::WorldError;

/// Runs many `ip` lines in one process inside the named namespace; stops at the first mistake.
pub(crate) fn batch(netns: &str, lines: &str) -> Result<(), WorldError> {
    let run = || {
        let mut child = Command::new("ip")
            .args(["-netns", netns, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().map_err(WorldError::io(format!("ip -netns {netns} -batch")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(WorldError::Failed {
        program: format!("ip -netns {netns} -batch"),
        outcome: output.status.to_string(),
        output: format!("{lines}{}", String::from_utf8_lossy(&output.stderr).trim()),
    })
}
