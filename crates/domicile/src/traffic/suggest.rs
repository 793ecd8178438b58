//! Where a market would be served faster, as far as it was measured. Pure.
//!
//! A market's requests come in at some sites, each with a share. What a home would cost them is the mean, over those shares, of the median
//! time that requests took which came in there and were served by that home, of all markets together. A home to which too few went from a site
//! that matters was not measured; it is never proposed, however near it looks on a map.

use std::collections::BTreeMap;

use model::{Market, SiteName};
use residency::traffic::Traffic;
use serde::Serialize;

use super::Sum;

/// So many requests must have gone from a site to a home, or the home was not measured from there; and so many must be a market's.
pub const SAMPLES: u64 = 1_000;

/// Sites at which fewer of a market's requests come in than this part are left out.
const MATTERS: f64 = 0.05;

/// A home that answered more than this part 5xx is not measured by how fast it failed.
const FAILURES_MAX: f64 = 0.05;

/// A proposal must be better by this part: less than that is no more than the histogram's bounds can tell apart.
const BETTER: f64 = 0.1;

/// What was asked of one service, from which sites and by whom it was served.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    entries: BTreeMap<Market, BTreeMap<SiteName, u64>>,
    ways: BTreeMap<(SiteName, SiteName), Sum>,
}

/// One home that policy permits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// The site.
    pub site: SiteName,
    /// What it would cost; `None`: not measured.
    pub estimate_ms: Option<f64>,
    /// The requests that this rests on, from the site that had the fewest.
    pub samples: u64,
    /// Why it was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What is to be said of one market.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suggestion {
    /// The market.
    pub market: Market,
    /// Its present home.
    pub home: SiteName,
    /// What that costs; `None`: not measured.
    pub estimate_ms: Option<f64>,
    /// Its requests.
    pub requests: u64,
    /// All homes that policy permits, the present one too, the fastest first.
    pub candidates: Vec<Candidate>,
    /// A better home.
    pub proposed: Option<SiteName>,
    /// Why there is none, or why this one.
    pub why: String,
}

// === impl Flows ===

impl Flows {
    /// Adds what came in at `entry`.
    pub fn add(&mut self, entry: &SiteName, traffic: &Traffic) {
        let counted = &traffic.counted;
        let market = self.entries.entry(counted.market.clone()).or_default();
        *market.entry(entry.clone()).or_default() += counted.requests;
        if let Some(home) = &counted.home {
            let way = (entry.clone(), home.clone());
            self.ways.entry(way).or_default().add(traffic);
        }
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is to be said of `market`, which lives at `home` and may live at any of `permitted`.
    pub fn suggest(&self, market: &Market, home: &SiteName, permitted: &[SiteName]) -> Suggestion {
        let entries = self.entries.get(market);
        let requests = entries.map_or(0, |entries| entries.values().sum());
        let shares = match entries {
            Some(entries) if requests >= SAMPLES => shares(entries, requests),
            _ => Vec::new(),
        };
        let mut candidates: Vec<Candidate> = match shares.is_empty() {
            true => Vec::new(),
            false => permitted
                .iter()
                .map(|site| self.candidate(&shares, site))
                .collect(),
        };
        let key = |one: &Candidate| one.estimate_ms.unwrap_or(f64::INFINITY);
        candidates.sort_by(|a, b| key(a).total_cmp(&key(b)).then_with(|| a.site.cmp(&b.site)));
        let present = candidates.iter().find(|one| one.site == *home);
        let estimate_ms = present.and_then(|one| one.estimate_ms);
        let (proposed, why) = match (requests, candidates.first(), estimate_ms) {
            (0..SAMPLES, ..) => (None, format!("fewer than {SAMPLES} requests of its own")),
            _ if permitted.len() < 2 => (None, "policy permits one home only".to_owned()),
            (.., None) => (None, "its present home was not measured".to_owned()),
            (_, Some(best), Some(now)) => judge(best, home, now, &candidates),
            (_, None, _) => (None, "policy permits it no home".to_owned()),
        };
        Suggestion {
            market: market.clone(),
            home: home.clone(),
            estimate_ms,
            requests,
            candidates,
            proposed,
            why,
        }
    }

    fn candidate(&self, shares: &[(&SiteName, f64)], site: &SiteName) -> Candidate {
        let (mut estimate, mut samples, mut why) = (0.0, u64::MAX, None);
        for (entry, share) in shares {
            let way = self.ways.get(&((*entry).clone(), site.clone()));
            let requests = way.map_or(0, |way| way.requests);
            samples = samples.min(requests);
            match way.map_or_else(|| Err(few(0, entry)), |way| median(way, entry)) {
                Ok(ms) => estimate += ms * share,
                Err(reason) => why = why.or(Some(reason)),
            }
        }
        Candidate {
            site: site.clone(),
            estimate_ms: why.is_none().then_some(estimate),
            samples,
            why,
        }
    }
}

/// The sites that matter, with their shares of what comes in at them.
fn shares(entries: &BTreeMap<SiteName, u64>, all: u64) -> Vec<(&SiteName, f64)> {
    let matters = |requests: u64| requests as f64 >= MATTERS * all as f64;
    let of: u64 = entries.values().filter(|n| matters(**n)).sum();
    let entries = entries.iter().filter(|(_, n)| matters(**n));
    entries
        .map(|(entry, n)| (entry, *n as f64 / of as f64))
        .collect()
}

fn few(requests: u64, entry: &SiteName) -> String {
    format!("{requests} requests came in at {entry} for it; {SAMPLES} are needed")
}

fn median(way: &Sum, entry: &SiteName) -> Result<f64, String> {
    if way.requests < SAMPLES {
        return Err(few(way.requests, entry));
    }
    if way.failure_rate().is_some_and(|rate| rate > FAILURES_MAX) {
        return Err(format!(
            "more than {:.0} % of what came in at {entry} for it failed",
            FAILURES_MAX * 100.0
        ));
    }
    let median = way.quantile(0.5).and_then(|estimate| estimate.ms);
    median.ok_or_else(|| format!("from {entry} it is slower than what is measured"))
}

fn judge(
    best: &Candidate,
    home: &SiteName,
    now: f64,
    candidates: &[Candidate],
) -> (Option<SiteName>, String) {
    let unmeasured = candidates.iter().filter(|one| one.estimate_ms.is_none());
    let unmeasured = match unmeasured.count() {
        0 => String::new(),
        n => format!("; {n} of {} homes not measured", candidates.len()),
    };
    if best.site == *home {
        return (None, format!("no measured home is faster{unmeasured}"));
    }
    match best.estimate_ms {
        Some(ms) if ms <= now * (1.0 - BETTER) => {
            let less = 100.0 * (1.0 - ms / now.max(f64::MIN_POSITIVE));
            (
                Some(best.site.clone()),
                format!("about {less:.0} % less{unmeasured}"),
            )
        }
        _ => (
            None,
            format!(
                "no measured home is {:.0} % faster{unmeasured}",
                BETTER * 100.0
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::counting::traffic;
    use super::*;

    const FAST: [u64; 5] = [2000, 0, 0, 0, 0];
    const MIDDLE: [u64; 5] = [0, 0, 2000, 0, 0];
    const SLOW: [u64; 5] = [0, 0, 0, 2000, 0];

    /// Flows of (entry, home, market, histogram).
    fn flows(all: &[(&str, &str, &str, [u64; 5])]) -> Flows {
        let mut flows = Flows::default();
        for (entry, home, market, within) in all {
            flows.add(&(*entry).into(), &traffic(1, home, market, *within));
        }
        flows
    }

    fn suggest(flows: &Flows, market: &str, home: &str, permitted: &[&str]) -> Suggestion {
        let permitted: Vec<SiteName> = permitted.iter().map(|site| (*site).into()).collect();
        flows.suggest(&market.into(), &home.into(), &permitted)
    }

    /// India comes in at singapore and lives at beijing; others live at singapore.
    fn india() -> Vec<(&'static str, &'static str, &'static str, [u64; 5])> {
        vec![
            ("singapore", "beijing", "IN", SLOW),
            ("singapore", "singapore", "SG", FAST),
        ]
    }

    #[test]
    fn a_market_goes_where_what_comes_in_beside_it_is_served_faster() {
        let found = suggest(&flows(&india()), "IN", "beijing", &["beijing", "singapore"]);
        assert_eq!(found.proposed, Some("singapore".into()));
        assert_eq!(found.estimate_ms, Some(75.0));
        assert_eq!(found.candidates[0].estimate_ms, Some(5.0));
        assert_eq!(found.candidates[0].samples, 2000);
        assert_eq!(found.why, "about 93 % less");
    }

    #[test]
    fn a_home_that_was_not_measured_is_never_proposed() {
        let mut all = india();
        all.push(("singapore", "mumbai", "BR", [999, 0, 0, 0, 0]));
        let permitted = ["beijing", "mumbai", "oregon"];
        let found = suggest(&flows(&all), "IN", "beijing", &permitted);
        assert_eq!(found.proposed, None);
        assert_eq!(found.candidates[1].estimate_ms, None);
        let why = found.candidates[1].why.as_deref();
        assert_eq!(
            why,
            Some("999 requests came in at singapore for it; 1000 are needed")
        );
        assert_eq!(found.candidates[2].samples, 0);
        assert_eq!(
            found.why,
            "no measured home is faster; 2 of 3 homes not measured"
        );
    }

    #[test]
    fn every_site_where_the_market_comes_in_counts_by_its_share() {
        let all = [
            ("singapore", "beijing", "IN", [0, 0, 0, 3000, 0]),
            ("beijing", "beijing", "IN", [1000, 0, 0, 0, 0]),
            ("singapore", "singapore", "SG", FAST),
            ("beijing", "singapore", "SG", MIDDLE),
        ];
        let found = suggest(&flows(&all), "IN", "beijing", &["beijing", "singapore"]);
        // 3/4 at 75 ms and 1/4 at 5; 3/4 at 5 ms and 1/4 at 35.
        assert_eq!(found.estimate_ms, Some(57.5));
        assert_eq!(found.candidates[0].estimate_ms, Some(12.5));
        // Where the second way was never gone, the home is not measured.
        let found = suggest(
            &flows(&all[..3]),
            "IN",
            "beijing",
            &["beijing", "singapore"],
        );
        assert_eq!(found.proposed, None);
    }

    #[test]
    fn a_site_where_hardly_anybody_comes_in_is_left_out() {
        let mut all = india();
        all.push(("oregon", "beijing", "IN", [0, 0, 0, 0, 50]));
        let found = suggest(&flows(&all), "IN", "beijing", &["beijing", "singapore"]);
        assert_eq!(found.proposed, Some("singapore".into()));
    }

    #[test]
    fn what_is_hardly_better_is_not_proposed() {
        let all = [
            ("singapore", "beijing", "IN", [0, 0, 2000, 0, 0]),
            ("singapore", "singapore", "SG", [0, 200, 1800, 0, 0]),
        ];
        let found = suggest(&flows(&all), "IN", "beijing", &["beijing", "singapore"]);
        assert_eq!(found.proposed, None);
        assert_eq!(found.why, "no measured home is 10 % faster");
    }

    #[test]
    fn failing_fast_is_not_being_fast() {
        let mut flows = flows(&india()[..1]);
        let mut failing = traffic(1, "singapore", "SG", FAST);
        failing.counted.failures = 200;
        flows.add(&"singapore".into(), &failing);
        let found = suggest(&flows, "IN", "beijing", &["beijing", "singapore"]);
        assert_eq!(found.proposed, None);
        let why = found.candidates[1].why.as_deref().unwrap();
        assert!(why.contains("failed"), "{why}");
    }

    #[test]
    fn a_pinned_or_unheard_market_stays() {
        let flows = flows(&india());
        let pinned = suggest(&flows, "IN", "beijing", &["beijing"]);
        assert_eq!(pinned.why, "policy permits one home only");
        let unheard = suggest(&flows, "DE", "beijing", &["beijing", "singapore"]);
        assert_eq!(unheard.why, "fewer than 1000 requests of its own");
        assert_eq!((unheard.proposed, unheard.requests), (None, 0));
    }
}
