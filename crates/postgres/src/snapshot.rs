//! Which transactions a chunk's snapshot saw: the line along which copy and stream meet.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The snapshot of `pg_current_snapshot()`, in full (64-bit) transaction ids.
///
/// It must be taken inside the transaction that copies, at an isolation level that keeps one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Snapshot {
    /// Every transaction below had ended.
    xmin: u64,
    /// No transaction at or above had ended.
    xmax: u64,
    /// Transactions in between that were still running; sorted.
    running: Vec<u64>,
}

/// The text is not a snapshot as PostgreSQL writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSnapshotError {
    /// Not `xmin:xmax:xip,…`.
    #[error("a snapshot must look like 10:20:10,14")]
    Form,
    /// A part is not a transaction id.
    #[error("{part} of a snapshot is not a 64-bit transaction id")]
    Number {
        /// Which part.
        part: &'static str,
    },
    /// `xmin` above `xmax`, or a running transaction outside of them.
    #[error("the transaction ids of a snapshot are out of order")]
    Order,
}

// === impl Snapshot ===

impl Snapshot {
    /// Whether the effects of top-level transaction `xid`, if it committed, are in the snapshot.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// The full transaction id that the stream's 32-bit one stands for: the one nearest to `xmax`.
    ///
    /// Right as long as fewer than 2^31 transactions lie between the two, which PostgreSQL's own
    /// wrap-around limit guarantees for as long as the slot holds its catalog horizon.
    pub fn widen(&self, xid: u32) -> u64 {
        // The low halves' difference, read as signed, is the shortest way round the 32-bit circle.
        #[allow(clippy::cast_possible_truncation)]
        let distance = xid.wrapping_sub(self.xmax as u32).cast_signed();
        // Left of the first epoch or right of the last one there is nothing: then the other way round.
        self.xmax
            .checked_add_signed(i64::from(distance))
            .unwrap_or_else(|| {
                let around = if distance < 0 {
                    1_i64 << 32
                } else {
                    -(1_i64 << 32)
                };
                self.xmax.wrapping_add_signed(i64::from(distance) + around)
            })
    }
}

impl FromStr for Snapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, ParseSnapshotError> {
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(running), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseSnapshotError::Form);
        };
        let xmin = number(xmin, "xmin")?;
        let xmax = number(xmax, "xmax")?;
        let mut running = match running {
            "" => Vec::new(),
            list => list
                .split(',')
                .map(|xid| number(xid, "xip"))
                .collect::<Result<Vec<_>, _>>()?,
        };
        running.sort_unstable();
        let inside = running.iter().all(|xid| (xmin..xmax).contains(xid));
        if xmin > xmax || !inside {
            return Err(ParseSnapshotError::Order);
        }
        Ok(Self {
            xmin,
            xmax,
            running,
        })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (index, xid) in self.running.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{xid}")?;
        }
        Ok(())
    }
}

impl From<Snapshot> for String {
    fn from(snapshot: Snapshot) -> Self {
        snapshot.to_string()
    }
}

impl TryFrom<String> for Snapshot {
    type Error = ParseSnapshotError;

    fn try_from(text: String) -> Result<Self, ParseSnapshotError> {
        text.parse()
    }
}

fn number(text: &str, part: &'static str) -> Result<u64, ParseSnapshotError> {
    let error = ParseSnapshotError::Number { part };
    // Checked by hand because parse() takes a sign.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error);
    }
    text.parse().map_err(|_| error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EPOCH: u64 = 1 << 32;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn sees_what_had_ended_and_nothing_else() {
        let snapshot = snapshot("10:20:10,14,15");
        let seen: Vec<u64> = (8..24).filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 16, 17, 18, 19]);
    }

    #[test]
    fn an_idle_database_has_nobody_running() {
        let idle = snapshot("740:740:");
        assert!(idle.sees(739));
        assert!(!idle.sees(740));
        assert_eq!(idle.to_string(), "740:740:");
    }

    #[test]
    fn text_that_is_no_snapshot_is_refused() {
        for text in [
            "",
            "1:2",
            "1:2:3:4",
            "a:2:",
            "1:+2:",
            "1:2:,",
            "1:18446744073709551616:",
        ] {
            assert!(text.parse::<Snapshot>().is_err(), "{text:?}");
        }
        for text in ["3:2:", "1:5:5", "2:5:1"] {
            assert_eq!(
                text.parse::<Snapshot>(),
                Err(ParseSnapshotError::Order),
                "{text:?}"
            );
        }
    }

    #[test]
    fn widening_crosses_the_border_of_an_epoch_both_ways() {
        let after = snapshot(&format!("{0}:{0}:", 5 * EPOCH + 7));
        assert_eq!(after.widen(7), 5 * EPOCH + 7);
        assert_eq!(after.widen(u32::MAX), 5 * EPOCH - 1);
        let before = snapshot(&format!("{0}:{0}:", 5 * EPOCH - 2));
        assert_eq!(before.widen(u32::MAX - 1), 5 * EPOCH - 2);
        assert_eq!(before.widen(3), 5 * EPOCH + 3);
        assert!(!before.sees(before.widen(3)));
        assert!(after.sees(after.widen(u32::MAX)));
    }

    #[test]
    fn widening_stays_inside_the_first_and_the_last_epoch() {
        assert_eq!(snapshot("740:740:").widen(u32::MAX), u64::from(u32::MAX));
        let last = snapshot(&format!("{0}:{0}:", u64::MAX));
        assert_eq!(last.widen(0), u64::MAX - u64::from(u32::MAX));
    }

    proptest! {
        #[test]
        #[allow(clippy::cast_possible_truncation)]
        fn widening_finds_every_transaction_within_reach(
            xmax in (1_u64 << 31)..(1 << 60),
            distance in -(1_i64 << 31) + 1..(1 << 31),
        ) {
            let xid = xmax.checked_add_signed(distance).unwrap();
            let snapshot = Snapshot { xmin: xmax, xmax, running: Vec::new() };
            prop_assert_eq!(snapshot.widen(xid as u32), xid);
        }

        #[test]
        fn a_snapshot_survives_a_round_trip(
            xmin in 3_u64..1 << 50,
            offsets in proptest::collection::btree_set(0_u64..1000, 0..20),
        ) {
            let running: Vec<u64> = offsets.iter().map(|offset| xmin + offset).collect();
            let snapshot = Snapshot { xmin, xmax: xmin + 1000, running };
            prop_assert_eq!(snapshot.to_string().parse::<Snapshot>(), Ok(snapshot));
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = text.parse::<Snapshot>();
        }
    }
}
