//! Which change goes to which attempt: the line along which copy and stream meet.
//!
//! A transaction goes to an attempt exactly when it is not visible in the snapshot of the attempt's copy and its commit
//! stands above the attempt's position. While the copy runs its snapshot is not known: everything above the position
//! is spooled, and what the snapshot saw is left out when the spool is drained.

use std::collections::HashMap;

use model::{Attempt, UserKey};
use postgres::lsn::Lsn;
use postgres::snapshot::Snapshot;
use postgres::transaction::{Change, Enrolled, Transaction};
use serde::{Deserialize, Serialize};

/// Reason of a user whose row changed owner while he moved: he goes again with a fresh copy.
pub const AGAIN_HANDS: &str = "a row changed owner while the user moved";
/// Reason of a user in a transaction too large to follow: he goes again with a fresh copy.
pub const AGAIN_LARGE: &str = "a transaction was too large to follow while the user moved";

/// Where an attempt stands.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Its snapshot, once its spool is drained; none while it is being copied.
    pub snapshot: Option<Snapshot>,
    /// Its durable position.
    pub position: Lsn,
}

/// What one attempt gets.
#[derive(Debug, Serialize, Deserialize)]
pub struct Work {
    pub(crate) attempt: Attempt,
    /// Whether its copy is not complete yet: then this goes to its spool.
    pub(crate) copying: bool,
    /// The position at which the attempt must still stand.
    pub(crate) from: Lsn,
    /// In stream order, none of them empty.
    pub(crate) portions: Vec<Portion>,
}

/// What one attempt gets from one transaction.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Portion {
    pub(crate) xid: u32,
    pub(crate) commit_lsn: Lsn,
    #[serde(with = "as_spooled")]
    pub(crate) changes: Vec<Change>,
    /// Users who need a fresh copy, with the reason.
    pub(crate) spoil: Vec<(UserKey, String)>,
}

/// Whether a copy under `snapshot` lacks what the transaction of this 32-bit id did.
pub(crate) fn came_after(snapshot: &Snapshot, xid: u32) -> bool {
    !snapshot.sees(snapshot.widen(xid))
}

/// What each of the attempts `chunks` gets from these transactions, in stream order.
pub(crate) fn sort(chunks: &HashMap<Attempt, Progress>, transactions: &[Transaction]) -> Vec<Work> {
    let mut work: HashMap<Attempt, Work> = HashMap::new();
    for transaction in transactions {
        let mut mine: HashMap<Attempt, Portion> = HashMap::new();
        let concerns =
            |attempt: &Attempt| chunks.get(attempt).is_some_and(|at| at.wants(transaction));
        for change in &transaction.changes {
            let attempt = Attempt(change.attempt);
            if concerns(&attempt) {
                mine.entry(attempt)
                    .or_default()
                    .changes
                    .push(change.clone());
            }
        }
        for (enrolled, reason) in fresh_copies(transaction) {
            let attempt = Attempt(enrolled.1);
            if concerns(&attempt) {
                mine.entry(attempt)
                    .or_default()
                    .spoil
                    .push((UserKey::new(enrolled.0), reason));
            }
        }
        for (attempt, mut portion) in mine {
            portion.xid = transaction.xid;
            portion.commit_lsn = transaction.commit_lsn;
            let entry = work.entry(attempt).or_insert(Work {
                attempt,
                copying: chunks[&attempt].snapshot.is_none(),
                from: chunks[&attempt].position,
                portions: Vec::new(),
            });
            entry.portions.push(portion);
        }
    }
    let mut work: Vec<Work> = work.into_values().collect();
    work.sort_by_key(|w| w.attempt);
    work
}

/// Users who need a fresh copy after `transaction`, and why.
fn fresh_copies(transaction: &Transaction) -> impl Iterator<Item = (Enrolled, String)> + '_ {
    let hands = transaction.departures.iter().flat_map(|change| {
        [&change.user_before, &change.user_after]
            .into_iter()
            .flatten()
            .cloned()
    });
    let hands = hands.map(|enrolled| (enrolled, AGAIN_HANDS.to_owned()));
    let large = transaction
        .oversized
        .iter()
        .cloned()
        .map(|enrolled| (enrolled, AGAIN_LARGE.to_owned()));
    hands.chain(large)
}

// === impl Progress ===

impl Progress {
    fn wants(&self, transaction: &Transaction) -> bool {
        let new = match &self.snapshot {
            Some(snapshot) => came_after(snapshot, transaction.xid),
            None => true,
        };
        new && transaction.commit_lsn > self.position
    }
}

// === impl Work ===

impl Work {
    /// The position at which the attempt stands once this is done.
    pub(crate) fn upto(&self) -> Lsn {
        self.portions.last().map_or(self.from, |p| p.commit_lsn)
    }
}

/// Changes between two sites, in the form that they have in a spool.
mod as_spooled {
    use postgres::transaction::{Change, read_changes, write_changes};
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(changes: &[Change], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&write_changes(changes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Change>, D::Error> {
        let bytes = bytes::Bytes::deserialize(from)?;
        read_changes(&bytes).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
