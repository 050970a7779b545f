//! Requests on connections that stay open: wrk as fast as it goes, and our own at a constant rate.

use std::path::Path as FilePath;
use std::time::Duration;

use anyhow::{Context, anyhow};
use world::Program;

use super::{SLACK, cpu_us_per, figures, latencies, measured, own_load};
use crate::bed::{HTTP_PORT, Path};
use crate::figures::Figures;

/// Share of the direct path's rate that the constant rate is.
const SHARE: f64 = 0.5;

pub(super) fn closed_loop(
    path: &Path,
    connections: u32,
    length: Duration,
) -> anyhow::Result<Figures> {
    scripted(path, (connections, None), length)
}

/// As fast as it goes, with that many connections; a script of wrk makes the requests.
pub(crate) fn scripted(
    path: &Path,
    (connections, script): (u32, Option<&FilePath>),
    length: Duration,
) -> anyhow::Result<Figures> {
    let (asked, used) = measured(
        path,
        |_| u64::from(connections),
        || wrk(path, (connections, script), length),
    )?;
    let mut all = figures([
        ("requests_s", asked.rate),
        ("p50_us", asked.p50_us),
        ("p99_us", asked.p99_us),
    ]);
    all.extend(cpu_us_per(asked.requests, used));
    Ok(all)
}

/// The rate of a path, as fast as it goes.
pub(crate) fn rate(path: &Path, connections: u32, length: Duration) -> anyhow::Result<f64> {
    Ok(wrk(path, (connections, None), length)?.rate)
}

/// At a share of the rate `direct` of the direct path.
pub(crate) fn paced(
    path: &Path,
    direct: f64,
    connections: u32,
    length: Duration,
) -> anyhow::Result<Figures> {
    let rate = SHARE * direct;
    let words = [
        "paced".to_owned(),
        path.address(HTTP_PORT).to_string(),
        connections.to_string(),
        rate.to_string(),
        length.as_secs_f64().to_string(),
    ];
    let (summary, used) = measured(
        path,
        |_| u64::from(connections),
        || own_load(path, &words, length),
    )?;
    anyhow::ensure!(summary.failed == 0, "{} requests failed", summary.failed);
    let mut all = latencies(&summary);
    all.extend(cpu_us_per(summary.done as f64, used));
    all.extend(figures([
        ("offered_s", rate),
        ("requests_s", summary.done as f64 / summary.seconds),
    ]));
    Ok(all)
}

/// What wrk has measured.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Asked {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    requests: f64,
}

fn wrk(
    path: &Path,
    (connections, script): (u32, Option<&FilePath>),
    length: Duration,
) -> anyhow::Result<Asked> {
    let script = script
        .into_iter()
        .flat_map(|file| ["--script".as_ref(), file.as_os_str()]);
    let program = Program::new("wrk")
        .args(["--latency", "--threads", "1", "--timeout", "10s"])
        .args(["--duration", &length.as_secs().max(1).to_string()])
        .args(["--connections", &connections.to_string()])
        .args(script)
        .arg(format!("http://{}/", path.address(HTTP_PORT)))
        .limit(length + SLACK);
    let output = path.client.text(&program)?;
    asked(&output).with_context(|| format!("output of wrk:\n{output}"))
}

fn asked(text: &str) -> anyhow::Result<Asked> {
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
    Ok(Asked {
        rate: word("Requests/sec:")?.parse()?,
        p50_us: microseconds(word("50%")?)?,
        p99_us: microseconds(word("99%")?)?,
        requests: total.parse()?,
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
        let expected = Asked {
            rate: 15300.10,
            p50_us: 1010.0,
            p99_us: 900_000.0,
            requests: 45931.0,
        };
        assert_eq!(asked(WRK).unwrap(), expected);
    }

    #[test]
    fn failed_connections_are_an_error_not_a_rate() {
        let text = WRK.replace("Requests/sec", "  Socket errors: connect 1\nRequests/sec");
        assert!(asked(&text).is_err());
    }
}
