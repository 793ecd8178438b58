//! The classified tables of one home database, as its catalog gives them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::KeyKind;

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

/// A step of an ownership path: the row of `parent` whose `parent_columns` equal the child's `columns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The child's columns.
    pub columns: Vec<String>,
    /// The table that they point at.
    pub parent: TableName,
    /// The parent's object id.
    pub parent_oid: u32,
    /// The parent's columns, a key of it.
    pub parent_columns: Vec<String>,
    /// Whether a validated foreign key enforces this step.
    pub enforced: bool,
}

/// How a row of an owned table leads to its user: along `hops`, then `column` of the last table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerPath {
    /// The steps; empty where the table itself has the column.
    pub hops: Vec<Hop>,
    /// The column that holds the user's key.
    pub column: String,
}

impl OwnerPath {
    /// ` JOIN parent AS p1 ON ... JOIN ... AS p2 ON ...` for a row aliased `row`; empty without hops.
    pub fn joins(&self, row: &str) -> String {
        let mut sql = String::new();
        let mut child = row.to_owned();
        for (n, hop) in self.hops.iter().enumerate() {
            let alias = format!("p{}", n + 1);
            sql.push_str(&format!(" JOIN {} AS {alias} ON ", hop.parent.sql()));
            sql.push_str(&equal(&alias, &hop.parent_columns, &child, &hop.columns));
            child = alias;
        }
        sql
    }

    /// The expression that gives the owner in a query with [`joins`](Self::joins).
    pub fn owner(&self, row: &str) -> String {
        let last = if self.hops.is_empty() {
            row.to_owned()
        } else {
            format!("p{}", self.hops.len())
        };
        format!("{last}.{}", quote(&self.column))
    }
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
    /// Its columns in their order.
    pub columns: Vec<Column>,
    /// The columns of its replica identity: the primary key as a rule. Never empty.
    pub key: Vec<String>,
    /// The way to the owner.
    pub owner: OwnerPath,
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

    /// ` FROM table AS t JOIN ...`: the rows with their way to the owner.
    pub fn from_clause(&self) -> String {
        format!(" FROM {} AS t{}", self.name.sql(), self.owner.joins("t"))
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
    fn a_path_of_two_hops_joins_to_the_owner() {
        let hop = |column: &str, parent: &str| Hop {
            columns: vec![column.into()],
            parent: TableName::parse(parent),
            parent_oid: 0,
            parent_columns: vec![column.into()],
            enforced: true,
        };
        let path = OwnerPath {
            hops: vec![hop("line_id", "line"), hop("order_id", "orders")],
            column: "user_id".into(),
        };
        assert_eq!(
            path.joins("t"),
            r#" JOIN "public"."line" AS p1 ON p1."line_id" = t."line_id" JOIN "public"."orders" AS p2 ON p2."order_id" = p1."order_id""#
        );
        assert_eq!(path.owner("t"), r#"p2."user_id""#);
    }

    #[test]
    fn identifiers_and_literals_are_quoted() {
        assert_eq!(quote(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\b"), r" E'a\\b'");
    }
}
