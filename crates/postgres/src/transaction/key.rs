//! What tells a row of a table: the key columns, in the order in which the guard's messages have them.

use std::sync::Arc;

use bytes::Bytes;

use super::{AssembleError, Op};
use crate::pgoutput::{OldTuple, Relation, ReplicaIdentity, Tuple, TupleValue};

/// A row of the source database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RowId {
    pub(super) table: u32,
    pub(super) key: Vec<Option<Bytes>>,
}

/// A described table and its key.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) relation: Arc<Relation>,
    /// Positions of the key columns, in the order of the messages.
    key: Vec<usize>,
    /// A whole row serves as its key; it may have NULLs.
    whole_row: bool,
}

// === impl Known ===

impl Known {
    pub(super) fn new(
        mut relation: Relation,
        columns: Option<&[String]>,
    ) -> Result<Self, AssembleError> {
        let table = relation.id;
        let Some(columns) = columns else {
            let key = relation.key_positions();
            let whole_row = relation.identity == ReplicaIdentity::Full;
            return Ok(Self {
                relation: Arc::new(relation),
                key,
                whole_row,
            });
        };
        let position = |name: &String| {
            let found = relation
                .columns
                .iter()
                .position(|column| column.name == *name);
            found.ok_or_else(|| AssembleError::KeyColumn {
                table,
                column: name.clone(),
            })
        };
        let key = columns
            .iter()
            .map(position)
            .collect::<Result<Vec<_>, _>>()?;
        for (position, column) in relation.columns.iter_mut().enumerate() {
            column.key = key.contains(&position);
        }
        Ok(Self {
            relation: Arc::new(relation),
            key,
            whole_row: false,
        })
    }

    pub(super) fn insert(&self, new: Tuple) -> Result<Op, AssembleError> {
        self.check(&new)?;
        Ok(Op::Insert { new })
    }

    pub(super) fn update(
        &self,
        old: Option<OldTuple>,
        mut new: Tuple,
    ) -> Result<Op, AssembleError> {
        let key_old = old.map(|old| self.key_only(old)).transpose()?;
        self.check_width(&new)?;
        if let Some(old) = &key_old {
            // A key value out of line that did not change stands in the old row.
            for &position in &self.key {
                if new.0[position] == TupleValue::Unchanged {
                    new.0[position] = old.0[position].clone();
                }
            }
        }
        self.check(&new)?;
        let moved = |old: &Tuple| self.key.iter().any(|&at| old.0[at] != new.0[at]);
        Ok(Op::Update {
            key_old: key_old.filter(moved),
            new,
        })
    }

    pub(super) fn delete(&self, old: OldTuple) -> Result<Op, AssembleError> {
        Ok(Op::Delete {
            key: self.key_only(old)?,
        })
    }

    /// The row that a change concerns: after it, or before it if it went.
    pub(super) fn id(&self, op: &Op) -> RowId {
        match op {
            Op::Insert { new } | Op::Update { new, .. } => self.id_of(new),
            Op::Delete { key } => self.id_of(key),
        }
    }

    /// The row under the key that an update took from it.
    pub(super) fn old_id(&self, op: &Op) -> Option<RowId> {
        match op {
            Op::Update {
                key_old: Some(key), ..
            } => Some(self.id_of(key)),
            Op::Update { key_old: None, .. } | Op::Insert { .. } | Op::Delete { .. } => None,
        }
    }

    fn id_of(&self, tuple: &Tuple) -> RowId {
        let key = self.key.iter().map(|&position| match &tuple.0[position] {
            TupleValue::Text(bytes) => Some(bytes.clone()),
            TupleValue::Null | TupleValue::Unchanged | TupleValue::Binary(_) => None,
        });
        RowId {
            table: self.relation.id,
            key: key.collect(),
        }
    }

    /// The row with its key values alone, in memory of their own: the rest of the message can go.
    fn key_only(&self, old: OldTuple) -> Result<Tuple, AssembleError> {
        let tuple = old.into_tuple();
        self.check(&tuple)?;
        let mut key = Tuple(vec![TupleValue::Null; tuple.0.len()]);
        for &position in &self.key {
            if let TupleValue::Text(bytes) = &tuple.0[position] {
                key.0[position] = TupleValue::Text(Bytes::copy_from_slice(bytes));
            }
        }
        Ok(key)
    }

    /// The row has its table's columns, and its key in a form that can be paired.
    fn check(&self, tuple: &Tuple) -> Result<(), AssembleError> {
        self.check_width(tuple)?;
        let good = self.key.iter().all(|&position| match &tuple.0[position] {
            TupleValue::Text(_) => true,
            TupleValue::Null => self.whole_row,
            TupleValue::Unchanged | TupleValue::Binary(_) => false,
        });
        if good {
            Ok(())
        } else {
            Err(AssembleError::RowKey {
                table: self.relation.id,
            })
        }
    }

    fn check_width(&self, tuple: &Tuple) -> Result<(), AssembleError> {
        let (expected, found) = (self.relation.columns.len(), tuple.0.len());
        if expected == found {
            return Ok(());
        }
        Err(AssembleError::RowWidth {
            table: self.relation.id,
            expected,
            found,
        })
    }
}
