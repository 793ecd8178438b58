//! The classified tables of one home database, as its catalog gives them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::KeyKind;
pub use crate::way::{Condition, Hop, Test, Way};

/// A table's name with its schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema, `public` where the configuration names none.
    pub schema: String,
    /// The table.
    pub name: String,
}

impl TableName {
    /// Reads `table` or `schema.table`, as the configuration writes it.
    pub fn parse(text: &str) -> Self {
        match text.split_once('.') {
            Some((schema, name)) => Self {
                schema: schema.into(),
                name: name.into(),
            },
            None => Self {
                schema: "public".into(),
                name: text.into(),
            },
        }
    }

    /// The name quoted for SQL, always with its schema.
    pub fn sql(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }
}

impl std::fmt::Display for TableName {
    /// As the configuration writes it: without `public`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.schema != "public" {
            write!(f, "{}.", self.schema)?;
        }
        f.write_str(&self.name)
    }
}

/// Quotes an identifier for SQL.
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Quotes a text as an SQL literal, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as `format_type` prints it, with length or precision.
    pub sql_type: String,
    /// NOT NULL.
    pub not_null: bool,
    /// GENERATED ALWAYS AS (...) STORED: left out of copies, compared.
    pub generated: bool,
    /// GENERATED ... AS IDENTITY.
    pub identity: bool,
    /// Whether the type's binary form means the same at every site. Not so where it carries object ids
    /// of this database: arrays of enums or of composites, composites, ranges of such.
    pub portable_binary: bool,
}

/// `a.x = b.y AND ...` over two lists of columns.
pub fn equal(left: &str, left_columns: &[String], right: &str, right_columns: &[String]) -> String {
    let pairs = left_columns.iter().zip(right_columns);
    let terms = pairs.map(|(l, r)| format!("{left}.{} = {right}.{}", quote(l), quote(r)));
    terms.collect::<Vec<_>>().join(" AND ")
}

/// A table whose rows belong to users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedTable {
    /// Its name.
    pub name: TableName,
    /// Its object id at the site that was read; differs between sites.
    pub oid: u32,
    /// Its partitions that hold rows, with their object ids at the site that was read; empty where it is not partitioned.
    pub leaves: Vec<(TableName, u32)>,
    /// Its columns in their order.
    pub columns: Vec<Column>,
    /// The columns of its replica identity: the primary key as a rule. Never empty.
    pub key: Vec<String>,
    /// The index that must be made the replica identity before updates and deletes show in the log; `None` where
    /// nothing is wanting.
    pub identity_wanted: Option<String>,
    /// The ways to the owner: of one row at most one applies. Never empty.
    pub ways: Vec<Way>,
}

impl OwnedTable {
    /// The columns that are copied: all but generated ones.
    pub fn copied(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.generated)
    }

    /// The copied columns, quoted and joined, each prefixed with `prefix` (`"t."` or nothing).
    pub fn column_list(&self, prefix: &str) -> String {
        let names = self
            .copied()
            .map(|column| format!("{prefix}{}", quote(&column.name)));
        names.collect::<Vec<_>>().join(", ")
    }

    /// Whether rows may travel in binary COPY: no copied column's binary form names local object ids.
    pub fn portable_binary(&self) -> bool {
        self.copied().all(|column| column.portable_binary)
    }

    /// The column that holds the owner's key, where that is the only way.
    pub fn owner_column(&self) -> Option<&str> {
        match self.ways.as_slice() {
            [way] if way.hops.is_empty() && way.when[0].is_empty() => Some(&way.column),
            _ => None,
        }
    }

    /// The tables by whose rows it is owned, in the order of the ways.
    pub fn parents(&self) -> impl Iterator<Item = &Hop> {
        self.ways.iter().filter_map(|way| way.hops.first())
    }
}

/// A foreign key that touches an owned table, at either end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// The referencing table.
    pub child: TableName,
    /// Its columns.
    pub child_columns: Vec<String>,
    /// The referenced table.
    pub parent: TableName,
    /// Its columns.
    pub parent_columns: Vec<String>,
    /// `MATCH FULL`.
    pub match_full: bool,
    /// Whether it has been validated.
    pub validated: bool,
}

/// The user table: the one whose rows are the users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserTable {
    /// Its name; it is also among the owned tables.
    pub name: TableName,
    /// The column that holds the key.
    pub key: String,
    /// The key's type family.
    pub kind: KeyKind,
    /// The SQL expression over the user row that gives the market; `None`: the service has one market.
    pub market: Option<String>,
}

/// Everything about one home database that a move needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeSchema {
    /// The user table.
    pub users: UserTable,
    /// The owned tables, parents before children along ownership paths; the user table first.
    pub owned: Vec<OwnedTable>,
    /// The reference tables with their columns' names and types.
    pub references: BTreeMap<TableName, Vec<Column>>,
    /// Those of them whose rows are copied to a target that lacks them.
    pub references_copied: BTreeSet<TableName>,
    /// The foreign keys that touch an owned table.
    pub foreign_keys: Vec<ForeignKey>,
    /// A digest of all the above without object ids: equal at two sites whose schemas agree.
    pub fingerprint: String,
}

impl HomeSchema {
    /// The owned table of that name.
    pub fn owned(&self, name: &TableName) -> Option<&OwnedTable> {
        self.owned.iter().find(|table| table.name == *name)
    }

    /// The owned table with that object id at the site that was read.
    pub fn owned_by_oid(&self, oid: u32) -> Option<&OwnedTable> {
        self.owned.iter().find(|table| table.oid == oid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_literals_are_quoted() {
        assert_eq!(quote(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\b"), r" E'a\\b'");
    }
}
