//! Numbers of repeated runs: medians with their spread. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What one run gave: name with its unit at the end, and the value.
pub(crate) type Figures = BTreeMap<String, f64>;

/// One figure over all rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The middle value; of an even number the mean of the two middle ones.
    pub median: f64,
    /// The lowest value.
    pub low: f64,
    /// The highest value.
    pub high: f64,
    /// All values in the order they were measured.
    pub runs: Vec<f64>,
}

impl Figure {
    /// None when there is no finite value.
    pub(crate) fn of(runs: Vec<f64>) -> Option<Self> {
        let mut sorted: Vec<_> = runs.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => (sorted[half - 1] + sorted[half]) / 2.0,
            _ => sorted[half],
        };
        Some(Figure {
            median,
            low,
            high,
            runs,
        })
    }
}

/// Each figure over all runs that have it.
pub(crate) fn collect(runs: &[Figures]) -> BTreeMap<String, Figure> {
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, value) in runs.iter().flatten() {
        values.entry(name).or_default().push(*value);
    }
    values
        .into_iter()
        .filter_map(|(name, runs)| Some((name.to_owned(), Figure::of(runs)?)))
        .collect()
}

/// Ratio of two figures, run by run: the rounds are interleaved, so that a change of the machine
/// hits both. Falls back to the ratio of medians when their runs cannot be paired.
pub(crate) fn ratio(of: &Figure, to: &Figure) -> Option<Figure> {
    if of.runs.len() == to.runs.len() {
        let pairs = of.runs.iter().zip(&to.runs);
        return Figure::of(pairs.map(|(a, b)| a / b).collect());
    }
    Figure::of(vec![of.median / to.median])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_a_median_with_its_spread() {
        let figure = Figure::of(vec![3.0, 1.0, 9.0]).unwrap();
        assert_eq!((figure.median, figure.low, figure.high), (3.0, 1.0, 9.0));
        assert_eq!(Figure::of(vec![1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Figure::of(vec![f64::NAN]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let of = Figure::of(vec![1.0, 20.0, 3.0]).unwrap();
        let to = Figure::of(vec![2.0, 40.0, 3.0]).unwrap();
        assert_eq!(ratio(&of, &to).unwrap().runs, [0.5, 0.5, 1.0]);
        let fewer = Figure::of(vec![2.0]).unwrap();
        assert_eq!(ratio(&of, &fewer).unwrap().median, 1.5);
    }

    #[test]
    fn figures_are_collected_by_name() {
        let runs = [1.0, 2.0, 3.0].map(|v| Figures::from([("rate".to_owned(), v)]));
        assert_eq!(collect(&runs)["rate"].median, 2.0);
    }
}
