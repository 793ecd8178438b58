//! What the catalog of a home database says: tables, keys, foreign keys, triggers, sequences.
//!
//! Facts only; what they mean for users is decided in [`classify`](crate::classify). Left out are
//! PostgreSQL's own schemas, `domicile`, temporary tables and what extensions own.

mod read;
#[cfg(test)]
pub(crate) mod sample;
mod types;

use std::collections::{BTreeMap, HashMap};

use model::KeyKind;
use model::table::{Column, ForeignKey, TableName};
use serde::{Deserialize, Serialize};

pub use read::read;

/// A question to a database that found no answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}")]
pub struct ReadError {
    /// What was being read: a table's name, or the catalog's part in words.
    pub what: String,
    /// The server's reason.
    pub source: tokio_postgres::Error,
}

impl ReadError {
    /// For `map_err`.
    pub(crate) fn of(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let what = what.into();
        |source| Self { what, source }
    }
}

/// The catalog of one home database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// `server_version_num`: 150018.
    pub server_version: i32,
    /// Every table and view, by name.
    pub tables: BTreeMap<TableName, Table>,
    /// Every foreign key between them; those that partitions inherit stand once, at the root.
    pub foreign_keys: Vec<ForeignKey>,
}

/// What kind of relation a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableKind {
    /// An ordinary table that is no partition.
    Ordinary,
    /// The root or an inner node of a partitioned table.
    Partitioned,
    /// A partition that holds rows.
    Leaf,
    /// A foreign table.
    Foreign,
    /// A view.
    View,
    /// A materialized view: a copy of rows that nobody classified.
    MaterializedView,
}

/// One relation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its object id in this database.
    pub oid: u32,
    /// What it is.
    pub kind: TableKind,
    /// Whether it is a partition of another table.
    pub partition: bool,
    /// The table at the root of the partitions that it is one of.
    pub root: Option<u32>,
    /// Not written to the log, so that no stream shows its changes.
    pub unlogged: bool,
    /// Inherits from, or is inherited by, another table otherwise than as a partition.
    pub inherits: bool,
    /// Row-level security is switched on.
    pub row_security: bool,
    /// The role that owns it.
    pub owner: String,
    /// The planner's estimate of its rows; negative where nobody has looked yet.
    pub rows_estimate: f64,
    /// Its columns in their order.
    pub columns: Vec<TableColumn>,
    /// `REPLICA IDENTITY NOTHING`: its updates and deletes cannot be read from the log.
    pub identity_nothing: bool,
    /// The columns that name a row in the stream: by replica identity the primary key's, the chosen
    /// index's, or with FULL the primary key's if there is one. Without one, those of the first unique index whose
    /// columns are all NOT NULL. Empty: nothing names a row.
    pub key: Vec<String>,
    /// The index of [`key`](Self::key), where it must be made the replica identity before updates and deletes show in
    /// the log.
    pub identity_wanted: Option<String>,
    /// The primary key's columns; empty without one.
    pub primary_key: Vec<String>,
    /// The columns of every unique index (the primary key's too) that is valid, immediate, whole and
    /// without expressions.
    pub unique: Vec<Vec<String>>,
    /// The triggers that are not the server's own.
    pub triggers: Vec<Trigger>,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableColumn {
    /// As a move needs it.
    pub column: Column,
    /// The type that is left when domains are taken off, without length: `integer`.
    pub base_type: String,
    /// What a type of the application's own means: the labels of an enum, a domain's checks...
    pub definition: Option<String>,
    /// The expression of a generated column.
    pub generation: Option<String>,
    /// Its collation takes texts for equal that differ.
    pub loose_collation: bool,
    /// The sequences that feed it: its own (serial, identity) or its default's.
    pub sequences: Vec<Sequence>,
}

/// A sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Its name.
    pub name: TableName,
    /// The first value.
    pub start: i64,
    /// The step.
    pub increment: i64,
    /// The least value.
    pub min: i64,
    /// The greatest value.
    pub max: i64,
    /// The last value given; `None`: none yet, or the role may not look.
    pub last: Option<i64>,
}

/// When a trigger fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TriggerFires {
    /// Not under `session_replication_role = replica`.
    Origin,
    /// Only under it.
    Replica,
    /// Under either.
    Always,
    /// Never.
    Disabled,
}

/// A trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// When it fires.
    pub fires: TriggerFires,
    /// Its function, with schema.
    pub function: TableName,
}

impl Catalog {
    /// The foreign keys whose child is `table`.
    pub fn foreign_keys_of<'a>(
        &'a self,
        table: &'a TableName,
    ) -> impl Iterator<Item = &'a ForeignKey> {
        self.foreign_keys
            .iter()
            .filter(move |key| key.child == *table)
    }
}

impl Table {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns
            .iter()
            .find(|column| column.column.name == name)
    }

    /// Whether the configuration must say whose rows these are. Views hold none, and a partition is
    /// what its root is.
    pub fn wants_classification(&self) -> bool {
        match self.kind {
            TableKind::Ordinary | TableKind::Partitioned | TableKind::Foreign => !self.partition,
            TableKind::Leaf | TableKind::View | TableKind::MaterializedView => false,
        }
    }

    /// Whether a unique index stands on exactly these columns, in any order.
    pub fn is_unique(&self, columns: &[String]) -> bool {
        self.unique.iter().any(|index| {
            index.len() == columns.len() && index.iter().all(|column| columns.contains(column))
        })
    }
}

impl TableColumn {
    /// The family of user keys that the column could hold. `character(n)` is none: its text form is
    /// padded with blanks in the stream and not elsewhere.
    pub fn key_kind(&self) -> Option<KeyKind> {
        match self.base_type.as_str() {
            "smallint" | "integer" | "bigint" => Some(KeyKind::Integer),
            "uuid" => Some(KeyKind::Uuid),
            "text" | "character varying" => Some(KeyKind::Text),
            _ => None,
        }
    }

    /// Whether values of the two columns can be equal: the same type, or one family of keys.
    pub fn comparable(&self, other: &Self) -> bool {
        self.base_type == other.base_type
            || (self.key_kind().is_some() && self.key_kind() == other.key_kind())
    }
}

/// Tables by object id while the catalog is being read.
type ByOid = HashMap<u32, (TableName, Table)>;
