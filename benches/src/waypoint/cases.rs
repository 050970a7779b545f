//! What is measured of a way: one case, one way, one round.
//!
//! It must not know other ways or rounds, but for the rate that all ways of a round are offered.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use world::Program;

use super::H2_PORT;
use super::manifests::MATCHES;
use crate::axes::{SLACK, cpu_us_per, figures, measured, requests};
use crate::bed::Path;
use crate::figures::Figures;

/// Requests at the same time on each HTTP/2 connection.
const STREAMS: u32 = 10;
/// Different paths that a run over routes asks for.
const PATHS: usize = 2000;
/// Connections of a run over routes.
const ROUTE_CONNECTIONS: u32 = 16;

/// One thing that is measured on every way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Case {
    /// HTTP/1.1 by wrk with that many connections that stay open.
    Requests(u32),
    /// HTTP/2 by h2load with that many connections, [`STREAMS`] requests on each.
    Http2(u32),
    /// HTTP/1.1 at a constant rate, the same on all ways.
    Paced(u32),
    /// Requests over that many routes, each with ten matches.
    Routes(usize),
}

impl Case {
    pub(super) const ALL: [Case; 9] = [
        Case::Requests(1),
        Case::Requests(16),
        Case::Requests(64),
        Case::Http2(1),
        Case::Http2(16),
        Case::Paced(1),
        Case::Paced(16),
        Case::Routes(super::manifests::FEW),
        Case::Routes(super::manifests::MANY),
    ];

    /// What `--only` names.
    pub(super) fn axis(self) -> &'static str {
        match self {
            Case::Requests(_) => "requests",
            Case::Http2(_) => "http2",
            Case::Paced(_) => "paced",
            Case::Routes(_) => "routes",
        }
    }

    /// Unique within its axis.
    pub(super) fn name(self) -> String {
        match self {
            Case::Requests(count) | Case::Paced(count) => format!("{count} connections"),
            Case::Http2(count) => format!("{count} connections, {STREAMS} at a time"),
            Case::Routes(count) => format!("{count} routes"),
        }
    }

    /// Runs it once on a way; `rate` is offered by [`Case::Paced`].
    pub(super) fn run(self, way: &Path, rate: f64, length: Duration) -> anyhow::Result<Figures> {
        let mut all = match self {
            Case::Requests(connections) => requests::scripted(way, (connections, None), length)?,
            Case::Http2(connections) => http2(way, connections, length)?,
            Case::Paced(connections) => requests::paced(way, rate, connections, length)?,
            Case::Routes(routes) => over_routes(way, routes, length)?,
        };
        match all.get("proxy_cpu_us_each").copied() {
            _ if way.proxies.is_empty() => all.retain(|name, _| !name.starts_with("proxy_")),
            Some(cpu) if cpu > 0.0 => {
                all.insert("requests_per_cpu_s".to_owned(), 1e6 / cpu);
            }
            _ => anyhow::bail!("the waypoint used no CPU: the requests went round it"),
        }
        Ok(all)
    }
}

/// The rate of a way, as fast as it goes: [`Case::Paced`] offers a share of it.
pub(super) fn rate(way: &Path, connections: u32, length: Duration) -> anyhow::Result<f64> {
    requests::rate(way, connections, length)
}

fn over_routes(way: &Path, routes: usize, length: Duration) -> anyhow::Result<Figures> {
    let file = std::env::temp_dir().join(format!("culvert-bench-{}.lua", std::process::id()));
    fs::write(&file, script(routes))?;
    let figures = requests::scripted(way, (ROUTE_CONNECTIONS, Some(&file)), length);
    fs::remove_file(&file)?;
    figures
}

/// For wrk: paths of routes and matches that are spread over all.
fn script(routes: usize) -> String {
    format!(
        "local paths, at = {{}}, 0\n\
         init = function(args)\n\
         math.randomseed(7)\n\
         for i = 1, {PATHS} do\n\
         local path = '/r' .. math.random(0, {}) .. '/m' .. math.random(0, {})\n\
         paths[i] = wrk.format('GET', path)\n\
         end\n\
         end\n\
         request = function()\n\
         at = at % {PATHS} + 1\n\
         return paths[at]\n\
         end\n",
        routes - 1,
        MATCHES - 1
    )
}

fn http2(way: &Path, connections: u32, length: Duration) -> anyhow::Result<Figures> {
    let load = || h2load(way.address(H2_PORT), way, (connections, length));
    let (done, used) = measured(way, |_| u64::from(connections), load)?;
    let mut all = figures([("requests_s", done.rate)]);
    all.extend(cpu_us_per(done.requests, used));
    Ok(all)
}

/// What h2load has measured.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Done {
    rate: f64,
    requests: f64,
}

fn h2load(
    address: SocketAddr,
    way: &Path,
    (connections, length): (u32, Duration),
) -> anyhow::Result<Done> {
    let program = Program::new("h2load")
        .args(["--threads", "1", "--warm-up-time", "0"])
        .args(["--clients", &connections.to_string()])
        .args(["--max-concurrent-streams", &STREAMS.to_string()])
        .args(["--duration", &length.as_secs().max(1).to_string()])
        .arg(format!("http://{address}/"))
        .limit(length + SLACK);
    let output = way.client.text(&program)?;
    done(&output).with_context(|| format!("output of h2load:\n{output}"))
}

/// `finished in 2.00s, 12.50 req/s, ...` and
/// `requests: 25 total, ..., 25 succeeded, 0 failed, ...`.
fn done(text: &str) -> anyhow::Result<Done> {
    let line = |start: &str| {
        let line = text.lines().find(|line| line.starts_with(start));
        line.with_context(|| format!("no line `{start}`"))
    };
    let before = |line: &str, unit: &str| {
        let part = line
            .split(", ")
            .find(|part| part.trim_end().ends_with(unit));
        let number = part.and_then(|part| part.split_whitespace().rev().nth(1));
        let number = number.with_context(|| format!("no number before {unit}"))?;
        anyhow::Ok(number.parse::<f64>()?)
    };
    let requests = line("requests: ")?;
    for bad in ["failed", "errored", "timeout"] {
        let count = before(requests, bad)?;
        anyhow::ensure!(count == 0.0, "{count} requests: {bad}");
    }
    let codes = line("status codes: ")?;
    for bad in ["3xx", "4xx", "5xx"] {
        anyhow::ensure!(before(codes, bad)? == 0.0, "answers that are not 200");
    }
    Ok(Done {
        rate: before(line("finished in ")?, "req/s")?,
        requests: before(requests, "succeeded")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const H2LOAD: &str = "starting benchmark...
Main benchmark duration is over for thread #0. Stopping all clients.

finished in 2.00s, 12345.50 req/s, 13.56MB/s
requests: 24691 total, 24701 started, 24691 done, 24691 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 24691 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 27.11MB (28429600) total, 1.18MB (1234000) headers (space savings 71.43%)
                     min         max         mean         sd        +/- sd
";

    #[test]
    fn the_output_of_h2load_is_read() {
        let expected = Done {
            rate: 12345.5,
            requests: 24691.0,
        };
        assert_eq!(done(H2LOAD).unwrap(), expected);
    }

    #[test]
    fn a_failed_request_is_an_error_not_a_rate() {
        assert!(done(&H2LOAD.replace("0 failed", "3 failed")).is_err());
        assert!(done(&H2LOAD.replace("0 5xx", "2 5xx")).is_err());
    }

    #[test]
    fn the_paths_of_a_script_are_those_of_the_routes() {
        assert!(script(10).contains("math.random(0, 9)"));
    }
}
