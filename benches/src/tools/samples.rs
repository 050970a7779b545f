//! What a load program has measured: every latency, and what failed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Every latency of one task of a load.
#[derive(Debug, Default)]
pub(super) struct Samples {
    nanoseconds: Vec<u64>,
    failed: u64,
}

/// What a load program prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Operations that ended well.
    pub done: u64,
    /// Operations that failed.
    pub failed: u64,
    /// Seconds from the first start to the last end.
    pub seconds: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
    /// Longest in microseconds.
    pub max_us: f64,
}

impl Samples {
    pub(super) fn add(&mut self, latency: Duration) {
        self.nanoseconds
            .push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn fail(&mut self) {
        self.failed += 1;
    }

    pub(super) fn merge(&mut self, other: Samples) {
        self.nanoseconds.extend(other.nanoseconds);
        self.failed += other.failed;
    }

    pub(super) fn summary(mut self, took: Duration) -> anyhow::Result<Summary> {
        anyhow::ensure!(
            !self.nanoseconds.is_empty(),
            "nothing succeeded, {} failed",
            self.failed
        );
        self.nanoseconds.sort_unstable();
        let at = |share: f64| {
            let last = self.nanoseconds.len() - 1;
            let index = (last as f64 * share).round() as usize;
            self.nanoseconds[index.min(last)] as f64 / 1e3
        };
        Ok(Summary {
            done: self.nanoseconds.len() as u64,
            failed: self.failed,
            seconds: took.as_secs_f64(),
            p50_us: at(0.50),
            p99_us: at(0.99),
            max_us: at(1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_all_tasks_together() {
        let mut all = Samples::default();
        for task in 0..2 {
            let mut samples = Samples::default();
            (0..50).for_each(|i| samples.add(Duration::from_micros(i * 2 + task + 1)));
            samples.fail();
            all.merge(samples);
        }
        let summary = all.summary(Duration::from_secs(2)).unwrap();
        assert_eq!((summary.done, summary.failed), (100, 2));
        assert_eq!((summary.p50_us, summary.p99_us), (51.0, 99.0));
        assert_eq!(summary.max_us, 100.0);
    }

    #[test]
    fn a_load_without_a_success_is_an_error() {
        let mut samples = Samples::default();
        samples.fail();
        assert!(samples.summary(Duration::ZERO).is_err());
    }
}
