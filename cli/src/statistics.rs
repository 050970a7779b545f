//! Whether counts fit a split. Pure; no table, no approximation.

/// A correct split is called wrong less often than this: once in a hundred million looks, as one
/// run of all tests has some 70 of them, and none may fail without a cause.
pub const LEAST_P: f64 = 1e-8;

/// Probability that a fair draw of `n` with this share is at least as unlikely as `seen`: the exact
/// two-sided binomial test, in time linear in `n`. 1 when `n` is 0.
pub fn binomial_p(n: u64, seen: u64, share: f64) -> f64 {
    if seen > n {
        return 0.0;
    }
    if share <= 0.0 || share >= 1.0 {
        let certain = if share >= 1.0 { n } else { 0 };
        return if seen == certain { 1.0 } else { 0.0 };
    }
    // Each probability from the one before, as logarithms: p(k+1)/p(k) = (n-k)/(k+1) * q/(1-q).
    #[allow(clippy::cast_precision_loss)] // counts stay far below 2^52
    let real = |number: u64| number as f64;
    let odds = (share / (1.0 - share)).ln();
    let mut ln = real(n) * (1.0 - share).ln();
    let mut all = Vec::new();
    for k in 0..=n {
        all.push(ln);
        if k < n {
            ln += (real(n - k) / real(k + 1)).ln() + odds;
        }
    }
    let at = usize::try_from(seen).unwrap_or(usize::MAX);
    // Sums of logarithms err in the last digits: equally unlikely ones count too.
    let limit = all.get(at).copied().unwrap_or(f64::NEG_INFINITY) + 1e-7;
    let p: f64 = all
        .iter()
        .filter(|ln| **ln <= limit)
        .map(|ln| ln.exp())
        .sum();
    p.min(1.0)
}

/// The p-value of counts of several sides: of the least likely side, times the number of sides
/// (Bonferroni), so that a correct split is called wrong no more often than it says.
pub fn split_p(counts: &[(u64, f64)]) -> f64 {
    let n = counts.iter().map(|(seen, _)| seen).sum();
    let sum: f64 = counts.iter().map(|(_, weight)| weight).sum();
    if sum <= 0.0 {
        return if n == 0 { 1.0 } else { 0.0 };
    }
    let p = counts
        .iter()
        .map(|(seen, weight)| binomial_p(n, *seen, weight / sum));
    let sides = u32::try_from(counts.len().max(1)).unwrap_or(u32::MAX);
    // The second of two sides says nothing that the first does not.
    let looks = if sides == 2 { 1 } else { sides };
    (p.fold(1.0, f64::min) * f64::from(looks)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_gives_the_known_values_of_small_draws() {
        // 10 throws of a coin, 2 heads: (1+10+45)*2/1024.
        assert!((binomial_p(10, 2, 0.5) - 112.0 / 1024.0).abs() < 1e-9);
        assert!((binomial_p(10, 5, 0.5) - 1.0).abs() < 1e-9);
        // 3 throws of a die, three sixes: 1/216.
        assert!((binomial_p(3, 3, 1.0 / 6.0) - 1.0 / 216.0).abs() < 1e-12);
        assert!((binomial_p(0, 0, 0.3) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn weights_0_and_1_allow_no_exception() {
        assert_eq!(split_p(&[(1000, 1.0), (0, 0.0)]), 1.0);
        assert_eq!(split_p(&[(999, 1.0), (1, 0.0)]), 0.0);
        assert_eq!(binomial_p(5, 6, 0.5), 0.0);
    }

    #[test]
    fn a_wrong_split_is_told_from_a_right_one() {
        assert!(split_p(&[(1900, 95.0), (100, 5.0)]) > 0.9);
        assert!(split_p(&[(1870, 95.0), (130, 5.0)]) > LEAST_P);
        // 10 % instead of 5 %, and one side that never comes.
        assert!(split_p(&[(1800, 95.0), (200, 5.0)]) < LEAST_P);
        assert!(split_p(&[(1000, 1.0), (1000, 1.0), (0, 1.0)]) < LEAST_P);
        assert!(split_p(&[(667, 1.0), (668, 1.0), (665, 1.0)]) > 0.9);
    }
}
