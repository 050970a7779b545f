//! Pauses between attempts: exponential, with jitter, never longer than asked. Knows no clock and
//! no work.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Endless pauses that start near `first`, double, and reach at most `longest`.
///
/// Each is drawn between one and two times its step, so that the nodes of a cluster whose
/// control plane came back do not call at the same moment.
pub fn pauses(first: Duration, longest: Duration) -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::new()
        .with_min_delay(first)
        // The jitter adds up to the step itself.
        .with_max_delay(longest / 2)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_never_end() {
        let (first, longest) = (Duration::from_millis(10), Duration::from_secs(15));
        let pauses: Vec<_> = pauses(first, longest).take(40).collect();
        assert_eq!(pauses.len(), 40);
        assert!(
            pauses[0] >= first && pauses[0] <= 2 * first,
            "{:?}",
            pauses[0]
        );
        assert!(pauses.iter().all(|pause| *pause <= longest));
        assert!(pauses[39] >= longest / 2);
    }
}
