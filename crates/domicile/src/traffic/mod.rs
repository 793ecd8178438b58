//! What the history of requests says: how long they took, before and after a market moved, and where a market would be served faster. Pure.

pub mod course;
pub mod latency;
pub mod suggest;

use std::collections::BTreeMap;

use residency::traffic::Traffic;

use latency::{Estimate, Histogram};

/// Requests of some time, together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    /// Requests of clients.
    pub requests: u64,
    /// Those answered 5xx.
    pub failures: u64,
    /// Those that waited before a closed door.
    pub parked: u64,
    /// Those that were sent on because a first site was not the home.
    pub redirected: u64,
    total_us: u64,
    /// One for each set of bounds that gateways counted by.
    histograms: BTreeMap<Vec<u64>, Histogram>,
}

// === impl Sum ===

impl Sum {
    /// Adds what was counted in a minute or an hour.
    pub fn add(&mut self, traffic: &Traffic) {
        let counted = &traffic.counted;
        self.requests += counted.requests;
        self.failures += counted.failures;
        self.parked += counted.parked;
        self.redirected += counted.redirected;
        self.total_us = self.total_us.saturating_add(counted.total_us);
        let bounds = &traffic.bounds_ms;
        let histogram = match self.histograms.get_mut(bounds) {
            Some(histogram) => histogram,
            None => self
                .histograms
                .entry(bounds.clone())
                .or_insert_with(|| Histogram::new(bounds)),
        };
        histogram.add(&counted.within);
    }

    /// The part of them that failed; `None` where there were none.
    pub fn failure_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.failures as f64 / self.requests as f64)
    }

    /// How long they took on the average.
    pub fn mean_ms(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.total_us as f64 / 1e3 / self.requests as f64)
    }

    /// The time within which the part `part` of them was answered; `None` where there are too few to say.
    pub fn quantile(&self, part: f64) -> Option<Estimate> {
        let histograms: Vec<&Histogram> = self.histograms.values().collect();
        latency::quantile(&histograms, part)
    }
}

/// What tests count.
#[cfg(test)]
pub(crate) mod counting {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use residency::traffic::{Counted, Traffic};

    pub(crate) const BOUNDS: [u64; 4] = [10, 20, 50, 100];

    pub(crate) fn minute(number: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(number * 60)
    }

    pub(crate) fn traffic(at: u64, home: &str, market: &str, within: [u64; 5]) -> Traffic {
        let requests: u64 = within.iter().sum();
        Traffic {
            from: minute(at),
            span: Duration::from_secs(60),
            bounds_ms: BOUNDS.into(),
            counted: Counted {
                home: Some(home.into()),
                market: market.into(),
                requests,
                failures: 0,
                parked: 0,
                redirected: 0,
                total_us: requests * 15_000,
                within: within.into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::counting::traffic;
    use super::*;

    #[test]
    fn what_was_counted_adds_up() {
        let mut sum = Sum::default();
        assert_eq!((sum.mean_ms(), sum.failure_rate()), (None, None));
        let mut failed = traffic(1, "a", "IN", [10, 0, 0, 0, 0]);
        failed.counted.failures = 5;
        sum.add(&failed);
        sum.add(&traffic(2, "a", "IN", [0, 190, 0, 0, 0]));
        assert_eq!(sum.requests, 200);
        assert_eq!(sum.mean_ms(), Some(15.0));
        assert_eq!(sum.failure_rate(), Some(0.025));
        let median = sum.quantile(0.5).unwrap();
        assert_eq!(median.between_ms, (10, Some(20)));
    }
}
