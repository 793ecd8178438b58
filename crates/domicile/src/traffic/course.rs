//! When a market's users moved, and which time of its history is before, during and after that.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, SystemTime};

use model::{Market, MoveId, SiteName};
use remote::figures::Cuts;
use residency::traffic::Traffic;

use super::Sum;

/// Departures closer to each other than this are one time: history knows minutes.
const TOGETHER: Duration = Duration::from_secs(60);

/// Users of a market who changed home in one move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The move.
    pub r#move: MoveId,
    /// Its phase, where it is one's.
    pub phase: Option<String>,
    /// Where they lived.
    pub from: SiteName,
    /// Where they went.
    pub to: SiteName,
    /// How many.
    pub users: u64,
    /// When the first of them left.
    pub first: SystemTime,
    /// When the last of them left.
    pub last: SystemTime,
}

/// How a time stands to a market's moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nobody moved.
    Throughout,
    /// Before the first departure.
    Before,
    /// From a first departure to a last one.
    During,
    /// After a move and before another.
    Between,
    /// After the last departure.
    After,
}

/// A time, and what was asked in it.
#[derive(Clone, Debug)]
pub struct Window {
    /// How it stands to the moves.
    pub when: When,
    /// From the beginning of the first minute or hour with requests to the end of the last one.
    pub seen: Option<(SystemTime, SystemTime)>,
    /// The requests.
    pub sum: Sum,
}

/// A market's history, cut where its users moved.
#[derive(Clone, Debug)]
pub struct Course {
    legs: Vec<Leg>,
    /// First and last departures, in order, none within another.
    times: Vec<(SystemTime, SystemTime)>,
    windows: Vec<Window>,
}

/// What one summed row is of: market, window, home, bounds.
type Of = (Market, usize, Option<SiteName>, Vec<u64>);

/// A history, summed up between the times at which users moved: for a peer, which sends no more of it.
#[derive(Debug)]
pub struct Summed {
    cuts: Cuts,
    rows: BTreeMap<Of, Traffic>,
}

// === impl When ===

impl When {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Throughout => "throughout",
            Self::Before => "before",
            Self::During => "during",
            Self::Between => "between",
            Self::After => "after",
        }
    }
}

// === impl Course ===

impl Course {
    /// Of a market whose users moved so.
    pub fn new(mut legs: Vec<Leg>) -> Self {
        legs.sort_by(|a, b| (a.first, &a.r#move).cmp(&(b.first, &b.r#move)));
        let mut times: Vec<(SystemTime, SystemTime)> = Vec::new();
        for leg in &legs {
            match times.last_mut() {
                Some((_, last)) if leg.first <= *last + TOGETHER => *last = leg.last.max(*last),
                _ => times.push((leg.first, leg.last)),
            }
        }
        let windows = (0..=2 * times.len())
            .map(|n| Window {
                when: match n {
                    _ if times.is_empty() => When::Throughout,
                    0 => When::Before,
                    n if n % 2 == 1 => When::During,
                    n if n == 2 * times.len() => When::After,
                    _ => When::Between,
                },
                seen: None,
                sum: Sum::default(),
            })
            .collect();
        Self {
            legs,
            times,
            windows,
        }
    }

    /// Adds a minute or an hour. One in which users left counts as during, whole: nobody knows its parts.
    pub fn add(&mut self, traffic: &Traffic) {
        let (from, to) = (traffic.from, traffic.from + traffic.span);
        let window = &mut self.windows[window(&self.times, traffic)];
        let seen = window.seen.get_or_insert((from, to));
        *seen = (seen.0.min(from), seen.1.max(to));
        window.sum.add(traffic);
    }

    /// How its users moved, the first first.
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// First and last departures, in order, none within another.
    pub fn times(&self) -> &[(SystemTime, SystemTime)] {
        &self.times
    }

    /// The times, in order.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }
}

/// Into which window that goes: an even one lies beside all `times`.
fn window(times: &[(SystemTime, SystemTime)], traffic: &Traffic) -> usize {
    let over = times.iter().take_while(|(_, last)| *last < traffic.from);
    let over = over.count();
    let to = traffic.from + traffic.span;
    let during = times.get(over).is_some_and(|(first, _)| *first < to);
    2 * over + usize::from(during)
}

// === impl Summed ===

impl Summed {
    /// Nothing yet, of markets whose users moved so.
    pub fn new(cuts: Cuts) -> Self {
        Self {
            cuts,
            rows: BTreeMap::new(),
        }
    }

    /// Adds a minute or an hour.
    pub fn add(&mut self, traffic: &Traffic) {
        let counted = &traffic.counted;
        let times = self
            .cuts
            .get(&counted.market)
            .map_or(&[][..], Vec::as_slice);
        let key = (
            counted.market.clone(),
            window(times, traffic),
            counted.home.clone(),
            traffic.bounds_ms.clone(),
        );
        match self.rows.entry(key) {
            Entry::Vacant(new) => drop(new.insert(traffic.clone())),
            Entry::Occupied(sum) => join(sum.into_mut(), traffic),
        }
    }

    /// The sums: each of the time from the first to the last that it is of, so that [`Course::add`] puts it where it would have put them.
    pub fn into_rows(self) -> Vec<Traffic> {
        self.rows.into_values().collect()
    }
}

fn join(sum: &mut Traffic, more: &Traffic) {
    let to = (sum.from + sum.span).max(more.from + more.span);
    sum.from = sum.from.min(more.from);
    sum.span = to.duration_since(sum.from).unwrap_or_default();
    let (sum, more) = (&mut sum.counted, &more.counted);
    sum.requests += more.requests;
    sum.failures += more.failures;
    sum.parked += more.parked;
    sum.redirected += more.redirected;
    sum.total_us = sum.total_us.saturating_add(more.total_us);
    for (sum, more) in sum.within.iter_mut().zip(&more.within) {
        *sum += more;
    }
}

#[cfg(test)]
mod tests {
    use super::super::counting::{minute, traffic};
    use super::*;

    fn leg(id: &str, first: u64, last: u64) -> Leg {
        Leg {
            r#move: id.into(),
            phase: None,
            from: "beijing".into(),
            to: "singapore".into(),
            users: 1,
            first: minute(first) + Duration::from_secs(20),
            last: minute(last) + Duration::from_secs(40),
        }
    }

    fn course(legs: &[(&str, u64, u64)], minutes: &[u64]) -> Vec<(&'static str, u64)> {
        let mut course = Course::new(legs.iter().map(|(id, a, b)| leg(id, *a, *b)).collect());
        for at in minutes {
            course.add(&traffic(*at, "a", "IN", [1, 0, 0, 0, 0]));
        }
        let windows = course.windows().iter();
        windows.map(|w| (w.when.word(), w.sum.requests)).collect()
    }

    #[test]
    fn a_market_that_stayed_has_one_time() {
        assert_eq!(course(&[], &[1, 2, 3]), [("throughout", 3)]);
    }

    #[test]
    fn a_minute_with_a_departure_is_during() {
        let found = course(&[("m1", 10, 12)], &[8, 9, 10, 11, 12, 13]);
        assert_eq!(found, [("before", 2), ("during", 3), ("after", 1)]);
    }

    #[test]
    fn an_hour_that_saw_any_departure_is_during() {
        let mut course = Course::new(vec![leg("m1", 90, 91)]);
        let mut hour = traffic(60, "a", "IN", [5, 0, 0, 0, 0]);
        hour.span = Duration::from_secs(3600);
        course.add(&hour);
        assert_eq!(course.windows()[1].sum.requests, 5);
        assert_eq!(course.windows()[1].seen, Some((minute(60), minute(120))));
    }

    #[test]
    fn moves_one_after_the_other_have_a_time_between_and_together_they_have_none() {
        let apart = [("m2", 50, 51), ("m1", 10, 12)];
        let expected = [
            ("before", 1),
            ("during", 1),
            ("between", 1),
            ("during", 1),
            ("after", 1),
        ];
        assert_eq!(course(&apart, &[1, 11, 30, 50, 60]), expected);
        let together = [("m1", 10, 12), ("m2", 11, 15), ("m3", 15, 15)];
        let found = course(&together, &[1, 13, 16]);
        assert_eq!(found, [("before", 1), ("during", 1), ("after", 1)]);
    }

    #[test]
    fn what_was_summed_up_comes_to_the_same_windows() {
        let legs = [("m1", 10, 12), ("m2", 50, 51)];
        let new = || Course::new(legs.iter().map(|(id, a, b)| leg(id, *a, *b)).collect());
        let (mut whole, mut summed) = (new(), new());
        let mut sums = Summed::new([("IN".into(), whole.times().to_vec())].into());
        for at in 0..80 {
            let home = if at < 11 { "beijing" } else { "singapore" };
            let mut one = traffic(at, home, "IN", [at, 1, 2, 3, 4]);
            if at % 20 == 0 {
                one.span = Duration::from_secs(3600);
            }
            whole.add(&one);
            sums.add(&one);
        }
        let rows = sums.into_rows();
        assert!(rows.len() <= 6, "{rows:?}");
        for row in &rows {
            summed.add(row);
        }
        for (whole, summed) in whole.windows().iter().zip(summed.windows()) {
            assert_eq!(whole.sum, summed.sum, "{:?}", whole.when);
            assert_eq!(whole.seen, summed.seen, "{:?}", whole.when);
        }
    }
}
