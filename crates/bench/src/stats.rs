//! Medians, percentiles and spreads.

/// The middle of `values`; of an even number the mean of the two in the middle. Zero of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// What `percent` of 100 values do not exceed, by nearest rank. Zero of none.
pub(crate) fn percentile(values: &[f64], percent: f64) -> f64 {
    let sorted = sorted(values);
    let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    let at = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(0.0)
}

/// The least and the greatest. Zeros of none.
pub(crate) fn spread(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    match (sorted.first(), sorted.last()) {
        (Some(least), Some(greatest)) => (*least, *greatest),
        _ => (0.0, 0.0),
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_are_by_the_textbook() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let five = [50.0, 15.0, 20.0, 35.0, 40.0];
        assert_eq!(percentile(&five, 30.0), 20.0);
        assert_eq!(percentile(&five, 100.0), 50.0);
        assert_eq!(spread(&five), (15.0, 50.0));
        assert_eq!((median(&[]), percentile(&[], 99.0)), (0.0, 0.0));
    }
}
