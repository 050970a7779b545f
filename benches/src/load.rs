//! The loads: iperf3 for bulk, wrk for small requests, and how their output is read.

use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::Value;
use world::Program;

use crate::bed::{HTTP_PORT, IPERF_PORT, Pair};

/// Longer than any start-up and tear-down of a load program.
const SLACK: Duration = Duration::from_secs(20);

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// iperf3 with that many streams.
    Bulk { streams: u32 },
    /// wrk with that many connections that stay open.
    Requests { connections: u32 },
    /// wrk with that many connections, each closed after one request.
    Connections { connections: u32 },
}

/// What one run gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    /// Gbit/s, requests/s or connections/s.
    pub(crate) rate: f64,
    /// Median latency in microseconds; None for bulk.
    pub(crate) p50_us: Option<f64>,
    /// 99th percentile in microseconds; None for bulk.
    pub(crate) p99_us: Option<f64>,
    /// GB moved, or requests answered: what CPU time is divided by.
    pub(crate) work: f64,
}

impl Load {
    pub(crate) fn all() -> Vec<Load> {
        let bulk = [1, 4].map(|streams| Load::Bulk { streams });
        let requests = [1, 16, 64].map(|connections| Load::Requests { connections });
        let fresh = [1, 16, 64].map(|connections| Load::Connections { connections });
        [&bulk[..], &requests[..], &fresh[..]].concat()
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Load::Bulk { streams } => format!("bulk, {streams} streams"),
            Load::Requests { connections } => format!("keep-alive, {connections} connections"),
            Load::Connections { connections } => {
                format!("connection per request, {connections} at a time")
            }
        }
    }

    /// Unit of the rate.
    pub(crate) fn unit(&self) -> &'static str {
        match self {
            Load::Bulk { .. } => "Gbit/s",
            Load::Requests { .. } => "requests/s",
            Load::Connections { .. } => "connections/s",
        }
    }

    /// Runs it from the client of a pair for `length`.
    pub(crate) fn run(&self, pair: &Pair, length: Duration) -> anyhow::Result<Measured> {
        let seconds = length.as_secs().to_string();
        let address = pair.server_address();
        let program = match self {
            Load::Bulk { streams } => Program::new("iperf3")
                .args(["--json", "--omit", "1", "--time", &seconds, "--port"])
                .arg(IPERF_PORT.to_string())
                .args(["--parallel", &streams.to_string(), "--client", &address]),
            Load::Requests { connections } => wrk(*connections, &seconds, &address),
            Load::Connections { connections } => {
                wrk(*connections, &seconds, &address).args(["--header", "Connection: close"])
            }
        };
        let output = pair
            .client()
            .run(&program.limit(length + SLACK))?
            .success()?;
        match self {
            Load::Bulk { .. } => bulk(&output.text()),
            _ => requests(&output.text()),
        }
        .with_context(|| format!("output of {}:\n{}", self.name(), output.text()))
    }
}

fn wrk(connections: u32, seconds: &str, address: &str) -> Program {
    Program::new("wrk")
        .args([
            "--latency",
            "--threads",
            "1",
            "--timeout",
            "10s",
            "--duration",
            seconds,
        ])
        .args(["--connections", &connections.to_string()])
        .arg(format!("http://{address}:{HTTP_PORT}/"))
}

fn bulk(text: &str) -> anyhow::Result<Measured> {
    let json: Value = serde_json::from_str(text)?;
    let end = &json["end"]["sum_received"];
    let bits = end["bits_per_second"]
        .as_f64()
        .context("no end.sum_received.bits_per_second")?;
    let bytes = end["bytes"].as_f64().context("no end.sum_received.bytes")?;
    Ok(Measured {
        rate: bits / 1e9,
        p50_us: None,
        p99_us: None,
        work: bytes / 1e9,
    })
}

fn requests(text: &str) -> anyhow::Result<Measured> {
    anyhow::ensure!(!text.contains("Non-2xx"), "answers that are not 200");
    anyhow::ensure!(!text.contains("Socket errors"), "connections failed");
    let word = |label: &str| {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(label));
        line.and_then(|line| line.split_whitespace().nth(1))
            .with_context(|| format!("no {label}"))
    };
    let total = text.lines().find(|line| line.contains(" requests in "));
    let total = total
        .and_then(|line| line.split_whitespace().next())
        .context("no total")?;
    Ok(Measured {
        rate: word("Requests/sec:")?.parse()?,
        p50_us: Some(microseconds(word("50%")?)?),
        p99_us: Some(microseconds(word("99%")?)?),
        work: total.parse()?,
    })
}

/// wrk's `12.34us`, `1.20ms`, `1.05s`.
fn microseconds(text: &str) -> anyhow::Result<f64> {
    let (number, factor) = [("us", 1.0), ("ms", 1e3), ("s", 1e6)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .ok_or_else(|| anyhow!("{text:?} is no time"))?;
    Ok(number.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 3s test @ http://10.0.0.1:8080/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.04ms  200.00us  10.05ms   91.20%
    Req/Sec    15.39k     1.21k   17.50k    70.00%
  Latency Distribution
     50%    1.01ms
     75%    1.10ms
     90%    1.30ms
     99%    0.90s
  45931 requests in 3.00s, 11.21MB read
Requests/sec:  15300.10
Transfer/sec:      3.73MB
";

    #[test]
    fn the_output_of_wrk_is_read_with_its_units() {
        let measured = requests(WRK).unwrap();
        let expected = Measured {
            rate: 15300.10,
            p50_us: Some(1010.0),
            p99_us: Some(900_000.0),
            work: 45931.0,
        };
        assert_eq!(measured, expected);
    }

    #[test]
    fn failed_connections_are_an_error_not_a_rate() {
        let text = WRK.replace("Requests/sec", "  Socket errors: connect 1\nRequests/sec");
        assert!(requests(&text).is_err());
    }
}
