//! What was asked of a gateway and what came of it, counted by service, home and market: nothing of a user, a path or an address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use model::Market;

use crate::homes::SiteId;

/// The bounds of the latency histogram, in milliseconds: each about one and a half to two and a half times the one before, from a cached
/// page to what people give up on.
pub const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000];

/// Markets are named by requests: of these only so many are counted apart, as each is a series for ever.
const MARKETS_MAX: usize = 300;

/// What counts are kept apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// The service's number.
    pub service: u16,
    /// The site that answered, or would have; `None`: it was not found out.
    pub home: Option<SiteId>,
    /// The market that the request named, where policy speaks of it; `other` of all others, empty where it named none.
    pub market: Arc<str>,
}

/// Counts of one kind, growing from the start of the process.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests of clients.
    pub requests: AtomicU64,
    /// Those answered 5xx, by whomever.
    pub failures: AtomicU64,
    /// Those that waited before a closed door.
    pub parked: AtomicU64,
    /// Those that were sent on because a first site was not the home.
    pub redirected: AtomicU64,
    /// Microseconds that all of them took, from the head's end to the answer's.
    pub total_us: AtomicU64,
    /// Those that took at most as long as each of [`BOUNDS_MS`] but longer than the one before; the last: longer than all.
    pub within: [AtomicU64; BOUNDS_MS.len() + 1],
}

/// The course of one request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Course {
    /// The site that it was sent to last.
    pub home: Option<SiteId>,
    /// The answer's status; 0: there was none.
    pub status: u16,
    pub parked: bool,
    /// How often it was sent on.
    pub turns: u8,
}

/// All counts of a gateway.
#[derive(Debug)]
pub struct Tally {
    markets: BTreeMap<Market, Arc<str>>,
    none: Arc<str>,
    other: Arc<str>,
    counts: RwLock<HashMap<Kind, Arc<Counts>>>,
}

// === impl Tally ===

impl Tally {
    /// Counts these markets apart, or as many of them as there is room for.
    pub fn new(markets: BTreeSet<Market>) -> Self {
        let named = markets.into_iter().take(MARKETS_MAX);
        Self {
            markets: named
                .map(|market| {
                    let name = Arc::from(market.as_str());
                    (market, name)
                })
                .collect(),
            none: Arc::from(""),
            other: Arc::from("other"),
            counts: RwLock::default(),
        }
    }

    /// Counts one request.
    pub(crate) fn count(
        &self,
        service: u16,
        market: Option<&Market>,
        course: Course,
        took: Duration,
    ) {
        let market = match market {
            None => &self.none,
            Some(market) => self.markets.get(market).unwrap_or(&self.other),
        };
        let kind = Kind {
            service,
            home: course.home,
            market: Arc::clone(market),
        };
        let counts = self.of(kind);
        let add = |count: &AtomicU64, more: u64| {
            if more > 0 {
                count.fetch_add(more, Ordering::Relaxed);
            }
        };
        add(&counts.requests, 1);
        add(&counts.failures, u64::from(course.status >= 500));
        add(&counts.parked, u64::from(course.parked));
        add(&counts.redirected, u64::from(course.turns > 0));
        add(
            &counts.total_us,
            u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        );
        let slower = |bound: &u64| took > Duration::from_millis(*bound);
        let at = BOUNDS_MS.iter().take_while(|bound| slower(bound)).count();
        add(&counts.within[at], 1);
    }

    fn of(&self, kind: Kind) -> Arc<Counts> {
        let known = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = known.get(&kind) {
            return Arc::clone(counts);
        }
        drop(known);
        let mut all = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(kind).or_default())
    }

    /// All kinds that were counted, in order.
    pub fn all(&self) -> Vec<(Kind, Arc<Counts>)> {
        let known = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = known
            .iter()
            .map(|(kind, counts)| (kind.clone(), Arc::clone(counts)))
            .collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_policy_speaks_of_and_nothing_else() {
        let tally = Tally::new([Market::from("IN")].into());
        let home = Some(SiteId(1));
        let served = Course {
            home,
            status: 200,
            ..Course::default()
        };
        let failed = Course {
            status: 503,
            parked: true,
            turns: 2,
            ..served
        };
        let ms = Duration::from_millis;
        tally.count(0, Some(&"IN".into()), served, ms(1));
        tally.count(0, Some(&"IN".into()), failed, ms(30));
        tally.count(0, Some(&"what somebody wrote".into()), served, ms(9000));
        tally.count(0, None, served, ms(0));
        let all = tally.all();
        let names: Vec<&str> = all.iter().map(|(kind, _)| &*kind.market).collect();
        assert_eq!(names, ["", "IN", "other"]);
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (_, india) = &all[1];
        assert_eq!((read(&india.requests), read(&india.failures)), (2, 1));
        assert_eq!((read(&india.parked), read(&india.redirected)), (1, 1));
        assert_eq!((read(&india.within[0]), read(&india.within[5])), (1, 1));
        assert_eq!(read(&india.total_us), 31_000);
        assert_eq!(read(&all[2].1.within[BOUNDS_MS.len()]), 1);
    }
}
