//! What was measured: numbers by series, in the order in which they were taken.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::goal::Source;

#[derive(Debug, Default)]
pub(crate) struct Samples(BTreeMap<String, Vec<f64>>);

/// A number, and how far its samples lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) runs: usize,
}

impl Samples {
    pub(crate) fn add(&mut self, series: &str, value: f64) {
        self.0.entry(series.to_owned()).or_default().push(value);
    }

    /// The samples of a series; none when there are none.
    pub(crate) fn of(&self, series: &str) -> &[f64] {
        self.0.get(series).map_or(&[], Vec::as_slice)
    }

    /// # Errors
    /// A series without samples; a sample that is no number.
    pub(crate) fn measured(&self, source: Source) -> Result<Measured> {
        let spread = |median, values: &[f64]| Measured {
            median,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            runs: values.len(),
        };
        match source {
            Source::Median(series) => Ok(spread(self.median(series)?, self.of(series))),
            Source::Ratio(ours, peers) => {
                let ratio = self.median(ours)? / self.median(peers)?;
                // The runs took turns: each pair met the same load.
                let pairs = self.of(ours).iter().zip(self.of(peers));
                let pairs: Vec<f64> = pairs.map(|(ours, peers)| ours / peers).collect();
                Ok(spread(ratio, &pairs))
            }
        }
    }

    fn median(&self, series: &str) -> Result<f64> {
        let mut sorted = self.of(series).to_vec();
        ensure!(!sorted.is_empty(), "{series} was not measured");
        ensure!(
            sorted.iter().all(|value| value.is_finite()),
            "{series} has a sample that is no number"
        );
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        Ok(if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn samples(series: &[(&str, &[f64])]) -> Samples {
        let mut samples = Samples::default();
        for (name, values) in series {
            values.iter().for_each(|value| samples.add(name, *value));
        }
        samples
    }

    #[test]
    fn one_wild_sample_moves_the_spread_and_not_the_median() {
        let odd = samples(&[("a", &[3.0, 900.0, 1.0])]);
        let expected = Measured {
            median: 3.0,
            least: 1.0,
            most: 900.0,
            runs: 3,
        };
        assert_eq!(odd.measured(Source::Median("a")).unwrap(), expected);
        let even = samples(&[("a", &[4.0, 1.0, 2.0, 3.0])]);
        assert_eq!(even.measured(Source::Median("a")).unwrap().median, 2.5);
    }

    #[test]
    fn a_ratio_is_of_medians_and_its_spread_of_pairs() {
        let both = samples(&[("ours", &[2.0, 9.0, 4.0]), ("peer", &[1.0, 3.0, 4.0])]);
        let expected = Measured {
            median: 4.0 / 3.0,
            least: 1.0,
            most: 3.0,
            runs: 3,
        };
        assert_eq!(both.measured(Source::Ratio("ours", "peer")).unwrap(), expected);
    }

    #[test]
    fn what_was_not_measured_has_no_median() {
        let some = samples(&[("a", &[1.0]), ("b", &[f64::NAN])]);
        let error = some.measured(Source::Ratio("a", "c")).unwrap_err().to_string();
        assert!(error.contains('c'), "{error}");
        assert!(some.measured(Source::Median("b")).is_err());
    }
}
