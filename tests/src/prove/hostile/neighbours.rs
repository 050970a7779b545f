//! The honest neighbours of an attacked pod, and what their latencies are.

use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use serde::Serialize;
use world::Process;

use super::bed::{Bed, ECHO_PORT, HBONE_PORT, at};
use crate::attack::neighbour::Seen;

/// A neighbour has its first answers within this.
const STEADY_WITHIN: Duration = Duration::from_secs(60);
/// A neighbour that is told to end has its last answers within this: its own patience and some.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Times of one sort of question, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Answers.
    pub count: usize,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
    /// Median over the quiet median; 0 when there is none.
    pub factor_p50: f64,
    /// The same of the 99th percentile.
    pub factor_p99: f64,
}

/// Times of all sorts.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latencies {
    /// A question on a connection that is there.
    pub kept: Latency,
    /// A new connection, and a question on it.
    pub new: Latency,
    /// A new tunnel with its TLS handshake, a stream, and a question on it.
    pub visit: Latency,
}

impl Latency {
    fn of(mut times: Vec<u64>, quiet: &Latency) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            times.get(index).or(times.last()).copied().unwrap_or(0)
        };
        let factor = |now: u64, then: u64| match then {
            0 => 0.0,
            then => now as f64 / then as f64,
        };
        let (p50_us, p99_us) = (at(0.5), at(0.99));
        Latency {
            count: times.len(),
            p50_us,
            p99_us,
            max_us: at(1.0),
            factor_p50: factor(p50_us, quiet.p50_us),
            factor_p99: factor(p99_us, quiet.p99_us),
        }
    }
}

impl Latencies {
    /// What was seen, against what is seen when it is quiet.
    pub fn of(seen: &Seen, quiet: &Latencies) -> Self {
        Latencies {
            kept: Latency::of(seen.kept_us.clone(), &quiet.kept),
            new: Latency::of(seen.new_us.clone(), &quiet.new),
            visit: Latency::of(seen.visit_us.clone(), &quiet.visit),
        }
    }

    /// Factors of the median and the 99th percentile, of each sort.
    pub fn factors(&self) -> [[f64; 2]; 3] {
        [self.kept, self.new, self.visit].map(|sort| [sort.factor_p50, sort.factor_p99])
    }

    /// All answers.
    pub fn answered(&self) -> usize {
        self.kept.count + self.new.count + self.visit.count
    }
}

/// Neighbours that ask.
#[derive(Debug)]
pub struct Neighbours(Vec<Process>);

impl Neighbours {
    /// Starts them: from the attacked node's neighbour outwards, from another node to it, and new
    /// tunnels to it from a machine that no attack comes from.
    pub fn start(bed: &Bed) -> anyhow::Result<Self> {
        let pods = &bed.mesh.pods;
        let (near, far) = (&bed.neighbour, &pods.web_v1);
        let ask = |to: Vec<std::net::SocketAddr>| {
            let program = bed.attacker().arg("neighbour");
            program.args(to.iter().map(ToString::to_string))
        };
        let outwards = ask(vec![at(far.ipv4()?, ECHO_PORT), at(far.ipv6()?, ECHO_PORT)]);
        let inwards = ask(vec![at(near.ipv4()?, ECHO_PORT)]);
        let visits = bed.attacker().args([
            "visit",
            "--to",
            &at(near.ipv4()?, HBONE_PORT).to_string(),
            "--echo",
            &at(near.ipv4()?, ECHO_PORT).to_string(),
            "--credentials",
        ]);
        let visits = visits.arg(&bed.honest);
        let neighbours = Neighbours(vec![
            near.start("outwards", &outwards)?,
            pods.client.start("inwards", &inwards)?,
            bed.mesh.outside.place().start("visits", &visits)?,
        ]);
        for process in &neighbours.0 {
            process.wait_for_line(&["steady"], STEADY_WITHIN)?;
        }
        Ok(neighbours)
    }

    /// Ends them; what they saw together.
    pub fn finish(self) -> anyhow::Result<Seen> {
        for process in &self.0 {
            process.signal(Signal::SIGTERM)?;
        }
        let mut seen = Seen::default();
        for process in &self.0 {
            process.wait_end(ENDS_WITHIN)?;
            let log = process.log();
            let line = log.lines().rfind(|line| line.starts_with('{'));
            let line = line.with_context(|| format!("{} says: {log}", process.name()))?;
            seen.add(serde_json::from_str(line)?);
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_factors_are_of_sorted_times() {
        let quiet = Latency::of((1..=100).collect(), &Latency::default());
        assert_eq!((quiet.p50_us, quiet.p99_us, quiet.max_us), (51, 100, 100));
        let slow = Latency::of(vec![510, 102], &quiet);
        assert_eq!((slow.factor_p50, slow.count), (10.0, 2));
        assert_eq!(Latency::of(Vec::new(), &quiet).p99_us, 0);
    }
}
