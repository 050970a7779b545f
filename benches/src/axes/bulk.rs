//! iperf3: rate of bulk streams and what a GB costs.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use world::Program;

use super::{SLACK, figures, measured};
use crate::bed::{IPERF_PORT, Path};
use crate::figures::Figures;

/// What iperf3 has moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moved {
    pub(super) gbit_s: f64,
    pub(super) gb: f64,
}

pub(super) fn run(
    path: &Path,
    (streams, reversed): (u32, bool),
    length: Duration,
) -> anyhow::Result<Figures> {
    let program = iperf(path, streams, length).args(reversed.then_some("--reverse"));
    wait_until_free(path)?;
    // One connection more controls the test.
    let at_least = |_: &Moved| u64::from(streams) + 1;
    let (moved, used) = measured(path, at_least, || transfer(path, &program))?;
    Ok(figures([
        ("gbit_s", moved.gbit_s),
        ("proxy_cpu_s_per_gb", used.proxies.as_secs_f64() / moved.gb),
        (
            "machine_cpu_s_per_gb",
            used.machine.as_secs_f64() / moved.gb,
        ),
    ]))
}

/// The client's command line.
pub(super) fn iperf(path: &Path, streams: u32, length: Duration) -> Program {
    client(path)
        .args(["--time", &length.as_secs().max(1).to_string()])
        .args(["--parallel", &streams.to_string()])
        .limit(length + SLACK)
}

fn client(path: &Path) -> Program {
    let server = path.address(IPERF_PORT);
    Program::new("iperf3")
        .args(["--json", "--client", &server.ip().to_string()])
        .args(["--port", &server.port().to_string()])
}

/// Runs a client, once the server is free, and says what it has moved.
pub(super) fn transfer(path: &Path, client: &Program) -> anyhow::Result<Moved> {
    let output = when_free(path, client)?;
    moved(&output).with_context(|| format!("output of iperf3:\n{output}"))
}

/// So that what is measured begins at once.
pub(super) fn wait_until_free(path: &Path) -> anyhow::Result<()> {
    // It is so short that it may say of itself that it moved nothing.
    let least = client(path).args(["--bytes", "1"]).limit(SLACK);
    when_free(path, &least)?;
    Ok(())
}

/// The server takes one test at a time, and the one before may end later than its client.
fn when_free(path: &Path, client: &Program) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        // Its exit code with `--json` is 0 whatever came of it.
        let output = path.client.text(client)?;
        if !is_busy(&output) || begun.elapsed() > SLACK {
            return Ok(output);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn is_busy(output: &str) -> bool {
    let json = serde_json::from_str(output).unwrap_or(Value::Null);
    let error = json["error"].as_str();
    error.is_some_and(|why| why.contains("busy"))
}

/// What the receiver says, from the first byte on: the CPU time counts from there too.
fn moved(output: &str) -> anyhow::Result<Moved> {
    let json: Value = serde_json::from_str(output)?;
    let end = &json["end"]["sum_received"];
    let bits = end["bits_per_second"]
        .as_f64()
        .context("no end.sum_received.bits_per_second")?;
    let bytes = end["bytes"].as_f64().context("no end.sum_received.bytes")?;
    anyhow::ensure!(bytes > 0.0, "nothing was moved");
    Ok(Moved {
        gbit_s: bits / 1e9,
        gb: bytes / 1e9,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receiver_says_what_was_moved() {
        let text = r#"{"end": {"sum_sent": {"bytes": 9}, "sum_received":
            {"bytes": 2000000000, "bits_per_second": 16e9}}}"#;
        let expected = Moved {
            gbit_s: 16.0,
            gb: 2.0,
        };
        assert_eq!(moved(text).unwrap(), expected);
    }

    #[test]
    fn a_server_that_is_busy_is_asked_again() {
        let busy = r#"{"end": {}, "error": "the server is busy running a test. try again later"}"#;
        assert!(is_busy(busy));
        assert!(!is_busy(r#"{"error": "unable to connect"}"#) && !is_busy("no JSON"));
    }

    #[test]
    fn a_run_that_moved_nothing_is_an_error() {
        assert!(moved(r#"{"error": "unable to connect"}"#).is_err());
        let nothing = r#"{"end": {"sum_received": {"bytes": 0, "bits_per_second": 0}}}"#;
        assert!(moved(nothing).is_err());
    }
}
