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
    let load = || {
        let output = path.client.text(&program)?;
        moved(&output).with_context(|| format!("output of iperf3:\n{output}"))
    };
    // One connection more controls the test.
    let (moved, used) = measured(path, |_| u64::from(streams) + 1, load)?;
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

/// The server takes one test at a time, and the one before may end later than its client.
pub(super) fn wait_until_free(path: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    let least = client(path).args(["--bytes", "1"]).limit(SLACK);
    while !path.client.run(&least)?.ok() {
        anyhow::ensure!(begun.elapsed() < SLACK, "the iperf3 server stays busy");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// What the receiver says, from the first byte on: the CPU time counts from there too.
pub(super) fn moved(output: &str) -> anyhow::Result<Moved> {
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
    fn a_run_that_moved_nothing_is_an_error() {
        assert!(moved(r#"{"error": "unable to connect"}"#).is_err());
        let nothing = r#"{"end": {"sum_received": {"bytes": 0, "bits_per_second": 0}}}"#;
        assert!(moved(nothing).is_err());
    }
}
