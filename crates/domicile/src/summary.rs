//! What a move came to: the numbers that are known when it has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// Pauses of users, kept as counts per hundredth of a millisecond: what is kept grows with the spread of
/// the pauses, which `max_pause` bounds, and not with the number of users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    counts: BTreeMap<u64, u64>,
    users: u64,
}

/// The pauses' percentiles (nearest rank), in milliseconds; zero where nobody was paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PauseMs {
    /// Half of the users were paused no longer.
    pub p50: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Pauses {
    /// `users` users were paused for `pause` each.
    pub fn add(&mut self, pause: Duration, users: u64) {
        if users > 0 {
            *self.counts.entry(hundredths(pause)).or_default() += users;
            self.users += users;
        }
    }

    /// Adds the pauses of another move.
    pub fn merge(&mut self, other: &Self) {
        for (hundredths, users) in &other.counts {
            *self.counts.entry(*hundredths).or_default() += users;
        }
        self.users += other.users;
    }

    /// The pause that `percent` of 100 users did not exceed, by nearest rank, in milliseconds.
    pub fn percentile(&self, percent: u64) -> f64 {
        let rank = (self.users * percent).div_ceil(100).max(1);
        let mut passed = 0;
        for (hundredths, users) in &self.counts {
            passed += users;
            if passed >= rank {
                return *hundredths as f64 / 100.0;
            }
        }
        0.0
    }

    /// The percentiles that are shown.
    pub fn shown(&self) -> PauseMs {
        PauseMs {
            p50: self.percentile(50),
            p95: self.percentile(95),
            p99: self.percentile(99),
            max: self.percentile(100),
        }
    }
}

/// Rounded up, so that no pause is shown shorter than it was.
fn hundredths(pause: Duration) -> u64 {
    u64::try_from(pause.as_nanos().div_ceil(10_000)).unwrap_or(u64::MAX)
}

/// A user who stays where he is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// His key.
    pub user: String,
    /// Why.
    pub reason: String,
}

/// The last line of `apply --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename = "summary")]
pub struct Summary {
    /// The move.
    pub r#move: String,
    /// Users moved.
    pub moved: u64,
    /// Users who stay, and why.
    pub set_aside: Vec<SetAside>,
    /// Rows handed off.
    pub rows: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// How long users were paused.
    pub pause_ms: PauseMs,
    /// Whether every user moved was compared before the switch.
    pub verified: bool,
    /// Users who differed after it.
    pub mismatches: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn percentiles_are_by_nearest_rank_over_users() {
        let mut pauses = Pauses::default();
        for n in 1..=100 {
            pauses.add(ms(n), 1);
        }
        let shown = PauseMs {
            p50: 50.0,
            p95: 95.0,
            p99: 99.0,
            max: 100.0,
        };
        assert_eq!(pauses.shown(), shown);
        // The classic example of nearest rank: 15, 20, 35, 40, 50.
        let mut five = Pauses::default();
        for n in [15, 20, 35, 40, 50] {
            five.add(ms(n), 1);
        }
        assert_eq!(
            [
                five.percentile(30),
                five.percentile(40),
                five.percentile(50)
            ],
            [20.0, 20.0, 35.0]
        );
    }

    #[test]
    fn a_batch_counts_as_many_users_as_it_has() {
        let mut pauses = Pauses::default();
        pauses.add(ms(5), 98);
        pauses.add(ms(900), 2);
        pauses.add(ms(7000), 0);
        let shown = PauseMs {
            p50: 5.0,
            p95: 5.0,
            p99: 900.0,
            max: 900.0,
        };
        assert_eq!(pauses.shown(), shown);
        let mut twice = pauses.clone();
        twice.merge(&pauses);
        assert_eq!(twice.shown(), shown);
    }

    #[test]
    fn nobody_paused_is_zero_and_one_is_all() {
        assert_eq!(Pauses::default().shown(), PauseMs::default());
        let mut one = Pauses::default();
        one.add(Duration::from_micros(1_234), 1);
        assert_eq!(one.shown().p50, 1.24);
        assert_eq!(one.shown().max, 1.24);
    }

    #[test]
    fn the_summary_is_written_as_scripts_expect_it() {
        let summary = Summary {
            r#move: "m1".into(),
            moved: 2,
            set_aside: vec![SetAside {
                user: "7".into(),
                reason: "unique value taken".into(),
            }],
            rows: 30,
            bytes: 4096,
            seconds: 1.5,
            pause_ms: PauseMs {
                p50: 4.2,
                p95: 5.0,
                p99: 5.0,
                max: 5.0,
            },
            verified: true,
            mismatches: 0,
        };
        assert_eq!(
            serde_json::to_string(&summary).unwrap(),
            r#"{"event":"summary","move":"m1","moved":2,"set_aside":[{"user":"7","reason":"unique value taken"}],"rows":30,"bytes":4096,"seconds":1.5,"pause_ms":{"p50":4.2,"p95":5.0,"p99":5.0,"max":5.0},"verified":true,"mismatches":0}"#
        );
    }
}
