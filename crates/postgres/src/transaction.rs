//! Puts the stream's pieces together to transactions, and finds out whose rows each of them changed.
//!
//! A row message seldom says who owns the row. The guard does: in the same transaction it emits logical
//! messages with the prefix `domicile.row`, one per row that concerns a moving user. Its triggers fire at
//! the end of each statement, so messages stand after the rows and are paired with them by table and key,
//! not by order. A row without a message concerns nobody who moves, and is dropped here.
//!
//! The pairing fails closed: a message about a moving user's row that finds no row in its transaction, and
//! a row whose owner nobody names, are reported as [`Unresolved`]; a driver that goes on would lose a write.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::pgoutput::{Relation, Tuple};

mod assembler;
mod key;
mod ownership;
mod row_message;
mod spool_format;

pub use assembler::{AssembleError, Assembler, Event};
pub use spool_format::{SpoolFormatError, read_changes, write_changes};

// One name each, from where the message is written.
pub use residency::fence::MESSAGE as FENCE_PREFIX;
pub use residency::guard::ROW_MESSAGE as ROW_PREFIX;
pub use residency::journal::BEAT as BEAT_PREFIX;

/// A user and the copying attempt under which he was enrolled when the row changed.
pub type Enrolled = (String, i64);

/// A committed transaction, as far as it concerns users who move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its top-level id, 32 bits of it.
    pub xid: u32,
    /// Where its commit record stands.
    pub commit_lsn: Lsn,
    /// Where its commit record ends: the position to confirm.
    pub end_lsn: Lsn,
    /// The changes of moving users' rows, in stream order, without those of users in `departures`.
    pub changes: Vec<Change>,
    /// The marks of the mover, in stream order.
    pub marks: Vec<Mark>,
    /// Rows that changed hands: everybody named here needs a fresh copy.
    pub departures: Vec<OwnerChange>,
    /// What the guard said and could not be followed; not empty means that the stream must stop.
    pub unresolved: Vec<Unresolved>,
    /// Published tables that were emptied at once.
    pub truncated: Vec<u32>,
    /// Users named in a transaction whose rows are over the assembler's bound. Their changes were
    /// not kept: they need a fresh copy.
    pub oversized: Vec<Enrolled>,
}

/// One change of one moving user's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The table's oid at the source.
    pub table: u32,
    /// The table as the stream described it; a column is flagged `key` if it is one of the table's
    /// key columns, under replica identity FULL as well.
    pub relation: Arc<Relation>,
    /// What happened.
    pub op: Op,
    /// The owner.
    pub user: String,
    /// The owner's copying attempt.
    pub attempt: i64,
}

/// What happened to a row. In a tuple that tells a key, all columns but the key's read NULL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// It came.
    Insert {
        /// The row.
        new: Tuple,
    },
    /// It changed.
    Update {
        /// The key before, if the update changed it.
        key_old: Option<Tuple>,
        /// The row after; values out of line that did not change are absent, key values never.
        new: Tuple,
    },
    /// It went.
    Delete {
        /// Its key.
        key: Tuple,
    },
}

/// What the mover wrote into the stream itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Everything before the fence of this batch has been read.
    Fence(String),
}

/// A row that went from one user to another; `None` is a user who does not move, or nobody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerChange {
    /// The table's oid.
    pub table: u32,
    /// The owner before.
    pub user_before: Option<Enrolled>,
    /// The owner after.
    pub user_after: Option<Enrolled>,
}

/// A message of the guard that could not be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unresolved {
    /// The table's oid.
    pub table: u32,
    /// What is missing.
    pub missing: Missing,
}

/// What a message of the guard wants and its transaction does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Missing {
    /// The row's parent names no owner.
    Owner,
    /// The row itself is not in the stream under that key: not published, or its key reads otherwise.
    Row,
}

// === impl Transaction ===

impl Transaction {
    /// About how many bytes the changes take in memory.
    pub fn bytes(&self) -> usize {
        self.changes.iter().map(Change::bytes).sum()
    }
}

// === impl Change ===

impl Change {
    /// About how many bytes the change takes in memory, its relation apart.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.user.len() + self.op.bytes()
    }
}

// === impl Op ===

impl Op {
    /// About how many bytes the values take in memory.
    pub fn bytes(&self) -> usize {
        let values = match self {
            Self::Insert { new } => new.bytes(),
            Self::Update { key_old, new } => key_old.as_ref().map_or(0, Tuple::bytes) + new.bytes(),
            Self::Delete { key } => key.bytes(),
        };
        size_of::<Self>() + values
    }
}

#[cfg(test)]
mod tests;
