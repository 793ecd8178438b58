//! The writers' own log: what the shop's databases acknowledged, and so must still hold.

use std::time::Duration;

use serde::Serialize;

use crate::rows::Rows;

/// A line of an invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// `invoice_line_id`
    pub id: i32,
    /// `track_id`
    pub track: i32,
    /// `unit_price`, in hundredths.
    pub cents: i64,
    /// `quantity`
    pub quantity: i32,
}

/// What every change of an invoice leaves on its row, so that a change that got lost can be told
/// from the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stamp {
    /// `billing_address`, unlike any before.
    pub address: String,
    /// `total` after the change, in hundredths.
    pub cents: i64,
}

/// What one operation, one transaction, changes. All rows belong to one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// Inserts the user's row.
    CreateUser {
        /// `country`
        market: String,
        /// `company`, unlike any before.
        company: String,
    },
    /// Updates the user's row.
    EditUser {
        /// `company`, unlike any before.
        company: String,
    },
    /// Inserts an invoice and its lines.
    CreateInvoice {
        /// `invoice_id`
        invoice: i32,
        /// Of the new row.
        stamp: Stamp,
        /// At least one.
        lines: Vec<Line>,
    },
    /// Updates an invoice.
    EditInvoice {
        /// `invoice_id`
        invoice: i32,
        /// Of the row from now on.
        stamp: Stamp,
    },
    /// Inserts a line and updates its invoice.
    AddLine {
        /// `invoice_id`
        invoice: i32,
        /// Of the invoice from now on.
        stamp: Stamp,
        /// The new line.
        line: Line,
    },
    /// Deletes a line and updates its invoice.
    DeleteLine {
        /// `invoice_id`
        invoice: i32,
        /// Of the invoice from now on.
        stamp: Stamp,
        /// `invoice_line_id`
        line: i32,
    },
    /// Deletes an invoice and all its lines.
    DeleteInvoice {
        /// `invoice_id`
        invoice: i32,
    },
}

/// What the writer knows about an operation's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// COMMIT returned: the write must be at the user's home, once.
    Acknowledged,
    /// The connection was lost in COMMIT: the write is there as a whole or not at all.
    Unknown,
}

/// One operation that was or may have been committed.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Number of the operation, unique in this log.
    pub operation: u64,
    /// The user's key.
    pub user: i32,
    /// What it did.
    #[serde(flatten)]
    pub change: Change,
    /// How it ended.
    pub outcome: Outcome,
    /// The site that acknowledged it, or to which its COMMIT was sent.
    pub site: String,
    /// When, since the workload's start.
    #[serde(serialize_with = "as_milliseconds")]
    pub at: Duration,
}

/// Everything a workload did. Entries of one invoice, and of one user row, are in the order in
/// which they were committed.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Acknowledged operations, and those with an unknown outcome.
    pub entries: Vec<Entry>,
    /// What no correct database would have answered (a key that stands there already, a row that
    /// is nowhere), in words without row values. At most the first hundred.
    pub anomalies: Vec<String>,
    /// The users whose rows the log accounts for.
    pub(crate) users: Vec<i32>,
    /// Their rows as they stood before the workload began.
    pub(crate) baseline: Rows,
}

impl Log {
    /// Number of acknowledged operations.
    pub fn acknowledged(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.outcome == Outcome::Acknowledged)
            .count()
    }

    /// Number of operations with an unknown outcome.
    pub fn unknown(&self) -> usize {
        self.entries.len() - self.acknowledged()
    }

    /// The users that the log accounts for, created ones included.
    pub fn users(&self) -> &[i32] {
        &self.users
    }
}

/// A sum of money as PostgreSQL prints `numeric(10,2)`.
pub(crate) fn money(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.abs();
    format!("{sign}{}.{:02}", cents / 100, cents % 100)
}

/// The inverse of [`money`] for sums that are not negative; `None` for anything else.
pub(crate) fn cents(money: &str) -> Option<i64> {
    let (whole, fraction) = money.split_once('.')?;
    if whole.starts_with('-') {
        return None;
    }
    let fraction: i64 = (fraction.len() == 2).then(|| fraction.parse().ok())??;
    Some(whole.parse::<i64>().ok()? * 100 + fraction)
}

fn as_milliseconds<S: serde::Serializer>(at: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(at.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_and_cents_are_inverse() {
        for value in [0, 5, 99, 100, 198, 123_456] {
            assert_eq!(cents(&money(value)), Some(value));
        }
        assert_eq!(cents("12"), None);
        assert_eq!(cents("1.5"), None);
    }
}
