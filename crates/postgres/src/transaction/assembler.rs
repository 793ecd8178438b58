//! Collects the stream's pieces until a transaction is complete.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::key::{Known, RowId};
use super::ownership::{Ownership, Present};
use super::row_message::RowMessage;
use super::{Change, Enrolled, FENCE_PREFIX, Mark, Op, ROW_PREFIX, Transaction};
use crate::lsn::Lsn;
use crate::pgoutput;

/// Collects one transaction at a time.
#[derive(Debug)]
pub struct Assembler {
    key_columns: HashMap<u32, Vec<String>>,
    bytes_max: usize,
    relations: HashMap<u32, Arc<Known>>,
    open: Option<Open>,
}

/// What the assembler is fed with, in the order of the stream.
#[derive(Debug)]
pub enum Event {
    /// A transaction begins.
    Begin {
        /// Where its commit record stands.
        final_lsn: Lsn,
        /// Its top-level id, 32 bits of it.
        xid: u32,
    },
    /// A table's description or a row.
    Row(pgoutput::Message),
    /// A logical message.
    Message {
        /// Whether it belongs to the open transaction; others are ignored.
        transactional: bool,
        /// Who it is for.
        prefix: String,
        /// What it says.
        content: Bytes,
    },
    /// The transaction ends.
    Commit {
        /// Where its commit record stands.
        lsn: Lsn,
        /// Where its commit record ends: the position to confirm.
        end_lsn: Lsn,
    },
}

/// The stream is not what a published, guarded database sends. Carries no row data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// Begin, Commit or a row where the protocol has none.
    #[error("{what} came at the wrong place of the change stream")]
    OutOfOrder {
        /// What came.
        what: &'static str,
    },
    /// A row of a table that was not described before.
    #[error("the change stream has a row of table {table}, which it did not describe")]
    UnknownRelation {
        /// The table's oid.
        table: u32,
    },
    /// A row does not have the columns of its table.
    #[error("a row of table {table} has {found} values instead of {expected}")]
    RowWidth {
        /// The table's oid.
        table: u32,
        /// The described columns.
        expected: usize,
        /// The row's values.
        found: usize,
    },
    /// A key column is not published.
    #[error("the change stream describes table {table} without its key column {column:?}")]
    KeyColumn {
        /// The table's oid.
        table: u32,
        /// The column.
        column: String,
    },
    /// A row of a table with a key comes without it, or with it in binary.
    #[error("a row of table {table} came without its key in text form")]
    RowKey {
        /// The table's oid.
        table: u32,
    },
    /// A message under one of our prefixes that we cannot read.
    #[error("a message {prefix} in the change stream is malformed at byte {at}")]
    Malformed {
        /// The prefix.
        prefix: &'static str,
        /// About where.
        at: usize,
    },
    /// The guard's messages of one transaction alone are over the bound.
    #[error("a transaction changes more rows of moving users than {bytes_max} bytes can describe")]
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
}

#[derive(Debug)]
struct Open {
    final_lsn: Lsn,
    xid: u32,
    rows: Vec<PendingRow>,
    rows_bytes: usize,
    /// The rows went over the bound: they are no longer kept, the messages are.
    overflowed: bool,
    ownership: Ownership,
    marks: Vec<Mark>,
    truncated: Vec<u32>,
}

/// A row of the open transaction, before anybody knows whose it is.
#[derive(Debug)]
struct PendingRow {
    known: Arc<Known>,
    op: Op,
}

// === impl Assembler ===

impl Assembler {
    /// An assembler for one replication session.
    ///
    /// `key_columns` gives, by table oid, the columns that the guard's messages tell a row by, in their
    /// order; for a table that is not in it, the stream's replica identity is taken. A transaction whose
    /// rows take more than `bytes_max` bytes is not kept: see [`Transaction::oversized`].
    pub fn new(key_columns: HashMap<u32, Vec<String>>, bytes_max: usize) -> Self {
        Self {
            key_columns,
            bytes_max,
            relations: HashMap::new(),
            open: None,
        }
    }

    /// Takes the next event; gives the transaction that it completes.
    ///
    /// # Errors
    ///
    /// After an [`AssembleError`] the session is of no further use: begin again from the confirmed position.
    pub fn feed(&mut self, event: Event) -> Result<Option<Transaction>, AssembleError> {
        match event {
            Event::Begin { final_lsn, xid } => {
                if self.open.is_some() {
                    return Err(AssembleError::OutOfOrder {
                        what: "the begin of a transaction",
                    });
                }
                self.open = Some(Open::new(final_lsn, xid));
            }
            Event::Row(message) => self.row(message)?,
            // What is not bound to a transaction says nothing about rows.
            Event::Message {
                transactional: false,
                ..
            } => {}
            Event::Message {
                transactional: true,
                prefix,
                content,
            } => {
                self.message(&prefix, &content)?;
            }
            Event::Commit { lsn, end_lsn } => {
                let error = AssembleError::OutOfOrder {
                    what: "the end of a transaction",
                };
                let open = self
                    .open
                    .take()
                    .filter(|open| open.final_lsn == lsn)
                    .ok_or(error)?;
                return Ok(Some(open.complete(end_lsn)));
            }
        }
        Ok(None)
    }

    /// About how many bytes the open transaction holds.
    pub fn bytes(&self) -> usize {
        self.open
            .as_ref()
            .map_or(0, |open| open.rows_bytes + open.ownership.bytes())
    }

    fn row(&mut self, message: pgoutput::Message) -> Result<(), AssembleError> {
        match message {
            pgoutput::Message::Ignored => {}
            pgoutput::Message::Relation(relation) => {
                let columns = self.key_columns.get(&relation.id).map(Vec::as_slice);
                let known = Known::new(relation, columns)?;
                self.relations.insert(known.relation.id, Arc::new(known));
            }
            pgoutput::Message::Truncate { relations } => {
                self.open("a truncation")?.truncated.extend(relations);
            }
            pgoutput::Message::Insert { relation, new } => {
                let known = self.known(relation)?;
                let op = known.insert(new)?;
                self.keep(known, op)?;
            }
            pgoutput::Message::Update { relation, old, new } => {
                let known = self.known(relation)?;
                let op = known.update(old, new)?;
                self.keep(known, op)?;
            }
            pgoutput::Message::Delete { relation, old } => {
                let known = self.known(relation)?;
                let op = known.delete(old)?;
                self.keep(known, op)?;
            }
        }
        Ok(())
    }

    fn known(&self, table: u32) -> Result<Arc<Known>, AssembleError> {
        self.relations
            .get(&table)
            .cloned()
            .ok_or(AssembleError::UnknownRelation { table })
    }

    fn keep(&mut self, known: Arc<Known>, op: Op) -> Result<(), AssembleError> {
        let bytes_max = self.bytes_max;
        let open = self.open("a row")?;
        if open.overflowed {
            return Ok(());
        }
        open.rows_bytes += op.bytes();
        open.rows.push(PendingRow { known, op });
        if open.rows_bytes > bytes_max {
            // Most large transactions are of users who stay. So the rows go, and the messages, which
            // tell whether anybody else is in it, are waited for.
            open.overflowed = true;
            open.rows_bytes = 0;
            open.rows = Vec::new();
        }
        Ok(())
    }

    fn message(&mut self, prefix: &str, content: &[u8]) -> Result<(), AssembleError> {
        let bytes_max = self.bytes_max;
        match prefix {
            ROW_PREFIX => {
                let message = RowMessage::parse(content)?;
                let open = self.open("a message about a row")?;
                open.ownership.add(message);
                if open.ownership.bytes() > bytes_max {
                    return Err(AssembleError::TooLarge { bytes_max });
                }
            }
            FENCE_PREFIX => {
                let batch =
                    std::str::from_utf8(content).map_err(|error| AssembleError::Malformed {
                        prefix: FENCE_PREFIX,
                        at: error.valid_up_to(),
                    })?;
                self.open("a fence")?
                    .marks
                    .push(Mark::Fence(batch.to_owned()));
            }
            // Beats, and whatever other programs write into the stream.
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, what: &'static str) -> Result<&mut Open, AssembleError> {
        self.open.as_mut().ok_or(AssembleError::OutOfOrder { what })
    }
}

// === impl Open ===

impl Open {
    fn new(final_lsn: Lsn, xid: u32) -> Self {
        Self {
            final_lsn,
            xid,
            rows: Vec::new(),
            rows_bytes: 0,
            overflowed: false,
            ownership: Ownership::default(),
            marks: Vec::new(),
            truncated: Vec::new(),
        }
    }

    fn complete(self, end_lsn: Lsn) -> Transaction {
        let mut transaction = Transaction {
            xid: self.xid,
            commit_lsn: self.final_lsn,
            end_lsn,
            changes: Vec::new(),
            marks: self.marks,
            departures: Vec::new(),
            unresolved: Vec::new(),
            truncated: self.truncated,
            oversized: Vec::new(),
        };
        if self.ownership.is_empty() {
            return transaction;
        }
        let ids: Vec<RowId> = self.rows.iter().map(|row| row.known.id(&row.op)).collect();
        let mut present = Present {
            gone: self.overflowed,
            again: taken_again(&self.rows, &ids),
            ..Present::default()
        };
        for (row, id) in self.rows.iter().zip(&ids) {
            present.changed.insert(id.clone());
            present.changed.extend(row.known.old_id(&row.op));
            match row.op {
                Op::Insert { .. } => present.inserted.insert(id.clone()),
                Op::Delete { .. } => present.deleted.insert(id.clone()),
                Op::Update { .. } => false,
            };
        }
        let findings = self.ownership.resolve(&present);

        let pairs = findings.departures.iter();
        let departed: HashSet<&Enrolled> = pairs
            .flat_map(|pair| [&pair.user_before, &pair.user_after])
            .flatten()
            .collect();
        for (row, id) in self.rows.into_iter().zip(&ids) {
            let Some(owner) = findings
                .owners
                .get(id)
                .filter(|owner| !departed.contains(owner))
            else {
                continue;
            };
            let (user, attempt) = owner.clone();
            let relation = Arc::clone(&row.known.relation);
            let change = Change {
                table: id.table,
                relation,
                op: row.op,
                user,
                attempt,
            };
            transaction.changes.push(change);
        }
        if self.overflowed {
            let enrolled: BTreeSet<Enrolled> = findings.owners.into_values().collect();
            transaction.oversized.extend(enrolled);
        }
        transaction.departures = findings.departures;
        transaction.unresolved = findings.unresolved;
        transaction
    }
}

/// The keys that a row left, by a deletion or by another key, and that a row took later; with the number of changes
/// of rows under them.
fn taken_again(rows: &[PendingRow], ids: &[RowId]) -> HashMap<RowId, usize> {
    let mut left: HashSet<RowId> = HashSet::new();
    let mut again: HashMap<RowId, usize> = HashMap::new();
    for (row, id) in rows.iter().zip(ids) {
        let old = row.known.old_id(&row.op);
        let takes = match row.op {
            Op::Insert { .. } => true,
            Op::Update { .. } => old.is_some(),
            Op::Delete { .. } => {
                left.insert(id.clone());
                false
            }
        };
        if takes && left.contains(id) {
            again.insert(id.clone(), 0);
        }
        left.extend(old);
    }
    if !again.is_empty() {
        for id in ids {
            if let Some(changes) = again.get_mut(id) {
                *changes += 1;
            }
        }
    }
    again
}
