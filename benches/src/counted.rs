//! Whether a load really went through tunnels: ztunnel's own counters, before and after.

use std::time::{Duration, Instant};

use world::Place;
use world::stack::get;

use crate::bed::Path;

/// Where ztunnel serves its metrics, from within its node.
const METRICS: &str = "http://127.0.0.1:15020/metrics";
/// Counters follow the connections by a queue.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

/// Connections that each counting node has carried over mutual TLS so far.
pub(crate) fn tunnelled(path: &Path) -> anyhow::Result<Vec<u64>> {
    path.counted_by.iter().map(on_node).collect()
}

/// That each node has carried `at_least` more than `before`.
pub(crate) fn check(path: &Path, before: &[u64], at_least: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let now = tunnelled(path)?;
        let more: Vec<_> = now.iter().zip(before).map(|(n, b)| n - b).collect();
        if more.iter().all(|more| *more >= at_least) {
            return Ok(());
        }
        anyhow::ensure!(
            begun.elapsed() < COUNTED_WITHIN,
            "only {more:?} connections were tunnelled (source, destination), not {at_least}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn on_node(node: &Place) -> anyhow::Result<u64> {
    Ok(opened_over_mutual_tls(&get(node, METRICS)?))
}

fn opened_over_mutual_tls(exposition: &str) -> u64 {
    let samples = exposition.lines().filter(|line| {
        line.starts_with("istio_tcp_connections_opened_total{")
            && line.contains("connection_security_policy=\"mutual_tls\"")
    });
    let values = samples.filter_map(|line| line.rsplit_once("} ")?.1.trim().parse::<u64>().ok());
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_over_mutual_tls_are_counted() {
        let text = "# HELP x y\n\
            istio_tcp_connections_opened_total{a=\"} 7\",\
            connection_security_policy=\"mutual_tls\"} 3\n\
            istio_tcp_connections_opened_total{connection_security_policy=\"mutual_tls\"} 4\n\
            istio_tcp_connections_opened_total{connection_security_policy=\"unknown\"} 50\n\
            istio_tcp_connections_closed_total{connection_security_policy=\"mutual_tls\"} 9\n";
        assert_eq!(opened_over_mutual_tls(text), 7);
    }
}
