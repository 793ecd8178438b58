//! From a histogram to a median: an estimate, of which nothing is known but the two bounds that it lies between.

use serde::Serialize;

/// Fewer requests than this say nothing of any part of them.
pub const FEW: u64 = 100;

/// So many requests must have taken longer than a figure that is shown: `p95` wants 200 requests, `p99` 1,000.
const SLOWER: f64 = 10.0;

/// Of requests counted between bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds_ms: Vec<u64>,
    within: Vec<u64>,
}

/// The time within which a part of all requests was answered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// As if requests were spread evenly between the bounds; `None`: longer than the highest bound.
    pub ms: Option<f64>,
    /// The bounds that it lies between.
    pub between_ms: (u64, Option<u64>),
}

// === impl Histogram ===

impl Histogram {
    /// An empty one.
    pub fn new(bounds_ms: &[u64]) -> Self {
        Self {
            bounds_ms: bounds_ms.to_vec(),
            within: vec![0; bounds_ms.len() + 1],
        }
    }

    /// Adds counts between the same bounds.
    pub fn add(&mut self, within: &[u64]) {
        for (sum, count) in self.within.iter_mut().zip(within) {
            *sum += count;
        }
    }

    fn requests(&self) -> u64 {
        self.within.iter().sum()
    }

    /// How many took at most `ms`, if those between two bounds are spread evenly.
    fn up_to(&self, ms: u64) -> f64 {
        let (mut sum, mut lower) = (0.0, 0);
        for (upper, count) in self.bounds_ms.iter().zip(&self.within) {
            if ms >= *upper {
                sum += *count as f64;
                lower = *upper;
                continue;
            }
            let part = ms.saturating_sub(lower) as f64 / (upper - lower).max(1) as f64;
            return sum + *count as f64 * part;
        }
        sum
    }
}

/// The time within which the part `part` of all requests was answered; `None` where there are too few to say.
pub fn quantile(histograms: &[&Histogram], part: f64) -> Option<Estimate> {
    let all: u64 = histograms.iter().map(|one| one.requests()).sum();
    // The least number that leaves SLOWER of them above; a hair less, as 1 - 0.95 is a hair less than 0.05.
    if all < FEW || (all as f64) * (1.0 - part) < SLOWER - 1e-6 {
        return None;
    }
    let wanted = all as f64 * part;
    let mut bounds: Vec<u64> = histograms
        .iter()
        .flat_map(|one| one.bounds_ms.iter().copied())
        .collect();
    bounds.sort_unstable();
    bounds.dedup();
    let up_to = |ms| histograms.iter().map(|one| one.up_to(ms)).sum::<f64>();
    let (mut lower, mut below) = (0, 0.0);
    for upper in bounds {
        let reached = up_to(upper);
        if reached >= wanted {
            let part = (wanted - below) / (reached - below).max(f64::MIN_POSITIVE);
            return Some(Estimate {
                ms: Some(lower as f64 + part.clamp(0.0, 1.0) * (upper - lower) as f64),
                between_ms: (lower, Some(upper)),
            });
        }
        (lower, below) = (upper, reached);
    }
    let highest = histograms.iter().filter_map(|one| one.bounds_ms.last());
    Some(Estimate {
        ms: None,
        between_ms: (highest.min().copied().unwrap_or(0), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(bounds: &[u64], within: &[u64]) -> Histogram {
        let mut histogram = Histogram::new(bounds);
        histogram.add(within);
        histogram
    }

    fn estimate(bounds: &[u64], within: &[u64], part: f64) -> Option<Estimate> {
        quantile(&[&histogram(bounds, within)], part)
    }

    #[test]
    fn a_median_lies_between_the_bounds_of_its_bucket() {
        let found = estimate(&[10, 20, 50], &[100, 200, 100, 0], 0.5).unwrap();
        assert_eq!(found.between_ms, (10, Some(20)));
        assert_eq!(found.ms, Some(15.0));
        let first = estimate(&[10, 20], &[400, 0, 0], 0.5).unwrap();
        assert_eq!((first.ms, first.between_ms), (Some(5.0), (0, Some(10))));
    }

    #[test]
    fn what_is_slower_than_all_bounds_has_no_figure() {
        let found = estimate(&[10, 20], &[900, 0, 100], 0.95).unwrap();
        assert_eq!((found.ms, found.between_ms), (None, (20, None)));
    }

    #[test]
    fn too_few_requests_say_nothing() {
        assert_eq!(estimate(&[10], &[99, 0], 0.5), None);
        assert!(estimate(&[10], &[100, 0], 0.5).is_some());
        assert_eq!(estimate(&[10], &[199, 0], 0.95), None);
        assert!(estimate(&[10], &[200, 0], 0.95).is_some());
        assert_eq!(estimate(&[10], &[999, 0], 0.99), None);
        assert!(estimate(&[10], &[1000, 0], 0.99).is_some());
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn histograms_of_other_bounds_are_not_mistaken_for_each_other() {
        // Half of all took at most 10 ms, the others between 40 and 80.
        let (old, new) = (
            histogram(&[10, 100], &[300, 0, 0]),
            histogram(&[40, 80], &[0, 300, 0]),
        );
        let low = quantile(&[&old, &new], 0.25).unwrap();
        assert_eq!((low.ms, low.between_ms), (Some(5.0), (0, Some(10))));
        let high = quantile(&[&old, &new], 0.75).unwrap();
        assert_eq!((high.ms, high.between_ms), (Some(60.0), (40, Some(80))));
    }
}
