//! Catalogs written by hand, for the tests of what is pure.

use model::table::{Column, ForeignKey, TableName};

use super::{Catalog, Sequence, Table, TableColumn, TableKind};

/// An ordinary table: `name`, columns as `(name, type)`, a trailing `?` on the type for nullable, and
/// the first column as primary key.
pub(crate) fn table(catalog: &mut Catalog, name: &str, columns: &[(&str, &str)]) {
    let oid = 1000 + u32::try_from(catalog.tables.len()).expect("a few tables");
    let columns: Vec<TableColumn> = columns
        .iter()
        .map(|(name, kind)| column(name, kind))
        .collect();
    let key = vec![columns[0].column.name.clone()];
    let table = Table {
        oid,
        kind: TableKind::Ordinary,
        partition: false,
        root: None,
        unlogged: false,
        inherits: false,
        row_security: false,
        owner: "app".to_owned(),
        rows_estimate: 0.0,
        columns,
        identity_nothing: false,
        key: key.clone(),
        identity_wanted: None,
        primary_key: key.clone(),
        unique: vec![key],
        triggers: Vec::new(),
    };
    catalog.tables.insert(TableName::parse(name), table);
}

fn column(name: &str, kind: &str) -> TableColumn {
    let (sql_type, not_null) = match kind.strip_suffix('?') {
        Some(kind) => (kind, false),
        None => (kind, true),
    };
    TableColumn {
        column: Column {
            name: name.to_owned(),
            sql_type: sql_type.to_owned(),
            not_null,
            generated: false,
            identity: false,
            portable_binary: true,
        },
        base_type: sql_type.to_owned(),
        definition: None,
        generation: None,
        loose_collation: false,
        sequences: Vec::new(),
    }
}

/// A validated foreign key from `child.column` to the primary key of `parent`.
pub(crate) fn points(catalog: &mut Catalog, child: &str, column: &str, parent: &str) {
    let (child, parent) = (TableName::parse(child), TableName::parse(parent));
    catalog.foreign_keys.push(ForeignKey {
        name: format!("{}_{column}_fkey", child.name),
        child_columns: vec![column.to_owned()],
        parent_columns: catalog.tables[&parent].primary_key.clone(),
        child,
        parent,
        match_full: false,
        validated: true,
    });
}

/// A sequence that gives `start`, `start + increment`... up to `max`.
pub(crate) fn sequence(start: i64, increment: i64, max: i64, last: Option<i64>) -> Sequence {
    Sequence {
        name: TableName::parse("s"),
        start,
        increment,
        min: 1,
        max,
        last,
    }
}
