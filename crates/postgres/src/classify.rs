//! From declarations to SQL: which rows belong to which user, or everything that stands in the way.
//!
//! Pure. All mistakes are collected, so that one run of `check` names them all.
//!
//! A user's key is compared as text between the stream, the guard's messages and Domicile's own
//! tables. That is sound under the settings that [`connect`](crate::connect) pins, for the kinds of
//! key admitted here: integers, uuid, and text of a deterministic collation.

mod error;
mod fingerprint;
mod ways;

use std::collections::{BTreeMap, BTreeSet};

use model::ownership::Ownership;
use model::table::{Column, ForeignKey, HomeSchema, OwnedTable, TableName, UserTable, quote};

use crate::catalog::{Catalog, Table, TableColumn, TableKind};

pub use error::ClassifyError;

/// What the configuration says about a service's tables.
#[derive(Clone, Debug)]
pub struct Declared {
    /// The user table.
    pub user_table: String,
    /// Its key column.
    pub key: String,
    /// A column of it, or an SQL expression over its row, that gives the market. Names in an
    /// expression are resolved in `pg_catalog` and the user table's columns alone.
    pub market: Option<String>,
    /// Table -> classification. The user table need not be among them.
    pub tables: BTreeMap<String, Ownership>,
}

/// Resolves the declarations against the catalog.
///
/// Owned tables come out parents first along ownership paths, the user table before all others.
pub fn classify(catalog: &Catalog, declared: &Declared) -> Result<HomeSchema, Vec<ClassifyError>> {
    let users = user_table(catalog, declared).map_err(|error| vec![error])?;
    let mut room = Room {
        catalog,
        key: &catalog.tables[&users.name]
            .column(&users.key)
            .expect("just found")
            .clone(),
        users: &users,
        declared: BTreeMap::new(),
        failed: BTreeSet::new(),
        errors: Vec::new(),
    };
    room.collect(declared);
    let owned = room.owned_tables();
    let foreign_keys = room.foreign_keys(&owned);
    let references = room.references();
    let copied = room.declared.iter();
    let copied = copied.filter(|(_, ownership)| **ownership == Ownership::ReferenceCopied);
    let references_copied = copied.map(|(name, _)| name.clone()).collect();
    let mut errors = room.errors;
    if let Some(market) = &declared.market
        && is_plain_name(market)
        && catalog.tables[&users.name].column(market).is_none()
    {
        errors.push(ClassifyError::NoMarketColumn {
            table: users.name.clone(),
            column: market.clone(),
        });
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut schema = HomeSchema {
        users,
        owned,
        references,
        references_copied,
        foreign_keys,
        fingerprint: String::new(),
    };
    schema.fingerprint = fingerprint::fingerprint(&schema, catalog);
    Ok(schema)
}

fn user_table(catalog: &Catalog, declared: &Declared) -> Result<UserTable, ClassifyError> {
    let name = TableName::parse(&declared.user_table);
    let Some(table) = catalog.tables.get(&name) else {
        return Err(ClassifyError::NoSuchTable { table: name });
    };
    if let Some(form) = unsupported_form(table) {
        return Err(ClassifyError::UnsupportedTable { table: name, form });
    }
    let key = declared.key.clone();
    let Some(column) = table.column(&key) else {
        return Err(ClassifyError::NoSuchColumn {
            table: name,
            column: key,
        });
    };
    let Some(kind) = column.key_kind() else {
        let found = column.column.sql_type.clone();
        return Err(ClassifyError::UnsupportedKey {
            table: name,
            column: key,
            found,
        });
    };
    if column.loose_collation {
        return Err(ClassifyError::LooseKey {
            table: name,
            column: key,
        });
    }
    if !column.column.not_null || !table.is_unique(std::slice::from_ref(&key)) {
        return Err(ClassifyError::KeyNotUnique {
            table: name,
            column: key,
        });
    }
    // A column is quoted here, so that everybody after can paste an expression.
    let market = declared
        .market
        .as_ref()
        .map(|market| match table.column(market) {
            Some(_) => quote(market),
            None => format!("({market})"),
        });
    Ok(UserTable {
        name,
        key,
        kind,
        market,
    })
}

/// Why this version cannot own the rows of such a table, in words.
pub(crate) fn unsupported_form(table: &Table) -> Option<&'static str> {
    match table.kind {
        TableKind::Leaf => Some("a partition"),
        TableKind::Foreign => Some("a foreign table"),
        TableKind::View | TableKind::MaterializedView => Some("a view"),
        TableKind::Ordinary if table.inherits => Some("a table with inheritance"),
        TableKind::Ordinary | TableKind::Partitioned => None,
    }
}

fn is_plain_name(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// The state of one classification.
struct Room<'a> {
    catalog: &'a Catalog,
    users: &'a UserTable,
    key: &'a TableColumn,
    /// The declarations of tables that exist, each checked by itself; the user table's own included.
    declared: BTreeMap<TableName, Ownership>,
    /// The tables whose declarations are wrong by themselves.
    failed: BTreeSet<TableName>,
    errors: Vec<ClassifyError>,
}

// === impl Room ===

impl Room<'_> {
    /// Checks every declaration by itself, and that there is one for every table.
    fn collect(&mut self, declared: &Declared) {
        let mut seen = BTreeSet::new();
        for (text, ownership) in &declared.tables {
            let name = TableName::parse(text);
            if !seen.insert(name.clone()) {
                self.errors
                    .push(ClassifyError::DeclaredTwice { table: name });
                continue;
            }
            match self.check(&name, ownership) {
                Ok(()) => drop(self.declared.insert(name, ownership.clone())),
                Err(error) => {
                    self.failed.insert(name);
                    self.errors.push(error);
                }
            }
        }
        let users = self.users.name.clone();
        self.declared
            .entry(users.clone())
            .or_insert(Ownership::Column(self.users.key.clone()));
        for (name, table) in &self.catalog.tables {
            if table.wants_classification() && *name != users && !seen.contains(name) {
                self.errors.push(ClassifyError::Unclassified {
                    table: name.clone(),
                });
            }
        }
    }

    fn check(&self, name: &TableName, ownership: &Ownership) -> Result<(), ClassifyError> {
        let Some(table) = self.catalog.tables.get(name) else {
            return Err(ClassifyError::NoSuchTable {
                table: name.clone(),
            });
        };
        let column = |column: &str| {
            table
                .column(column)
                .ok_or_else(|| ClassifyError::NoSuchColumn {
                    table: name.clone(),
                    column: column.to_owned(),
                })
        };
        match ownership {
            Ownership::Ignore => return Ok(()),
            Ownership::Reference | Ownership::ReferenceCopied => {
                return match unsupported_form(table) {
                    Some(form) => Err(ClassifyError::UnsupportedTable {
                        table: name.clone(),
                        form,
                    }),
                    None => Ok(()),
                };
            }
            Ownership::Undecided => {
                return Err(ClassifyError::Undecided {
                    table: name.clone(),
                });
            }
            Ownership::Column(_)
            | Ownership::Path { .. }
            | Ownership::Against { .. }
            | Ownership::First(_)
            | Ownership::Cases(_) => {}
        }
        for (condition, way) in ways::alternatives(ownership) {
            condition
                .columns()
                .into_iter()
                .try_for_each(|name| column(name).map(drop))?;
            match way {
                Ownership::Column(owner) => {
                    let owner = column(owner)?;
                    if !owner.comparable(self.key) {
                        return Err(ClassifyError::KeyTypesDiffer {
                            table: name.clone(),
                            column: owner.column.name.clone(),
                            found: owner.column.sql_type.clone(),
                            wanted: self.key.column.sql_type.clone(),
                        });
                    }
                }
                Ownership::Path { columns, .. } => {
                    columns.iter().try_for_each(|name| column(name).map(drop))?;
                }
                _ => {}
            }
        }
        if let Some(form) = unsupported_form(table) {
            return Err(ClassifyError::UnsupportedTable {
                table: name.clone(),
                form,
            });
        }
        if *name == self.users.name && *ownership != Ownership::Column(self.users.key.clone()) {
            return Err(ClassifyError::UserTableDeclared {
                table: name.clone(),
            });
        }
        if table.identity_nothing {
            return Err(ClassifyError::IdentityNothing {
                table: name.clone(),
            });
        }
        if table.key.is_empty() {
            return Err(ClassifyError::NoKey {
                table: name.clone(),
            });
        }
        self.partitions(name, table)?;
        Ok(())
    }

    /// Rows of a partition must be told by the same columns as those of its root, and be here.
    fn partitions(&self, root: &TableName, table: &Table) -> Result<(), ClassifyError> {
        for (name, leaf) in &self.catalog.tables {
            if leaf.root != Some(table.oid) || leaf.kind == TableKind::Partitioned {
                continue;
            }
            if leaf.kind == TableKind::Foreign {
                return Err(ClassifyError::UnsupportedTable {
                    table: name.clone(),
                    form: "a foreign table",
                });
            }
            if leaf.key != table.key {
                return Err(ClassifyError::PartitionKey {
                    table: root.clone(),
                    leaf: name.clone(),
                });
            }
        }
        Ok(())
    }

    /// The foreign keys at either end of an owned table; those that tie users to each other by a
    /// table that does not move are errors.
    fn foreign_keys(&mut self, owned: &[OwnedTable]) -> Vec<ForeignKey> {
        let is_owned = |name: &TableName| owned.iter().any(|table| table.name == *name);
        let mut touching = Vec::new();
        for key in &self.catalog.foreign_keys {
            let (child, parent) = (is_owned(&key.child), is_owned(&key.parent));
            if child || parent {
                touching.push(key.clone());
            }
            let stays = match self.declared.get(&key.child) {
                Some(ownership) => ownership.is_reference() || *ownership == Ownership::Ignore,
                // A partition may have a foreign key of its own, and no table that users own has any;
                // whatever else has no declaration is named for that.
                None => self.catalog.tables[&key.child].partition,
            };
            if parent && stays {
                self.errors.push(ClassifyError::Tied {
                    table: key.child.clone(),
                    constraint: key.name.clone(),
                    parent: key.parent.clone(),
                });
            }
        }
        touching
    }

    fn references(&self) -> BTreeMap<TableName, Vec<Column>> {
        let names = self.declared.iter().filter(|(_, o)| o.is_reference());
        let columns = |name: &TableName| {
            self.catalog.tables[name]
                .columns
                .iter()
                .map(|column| column.column.clone())
                .collect()
        };
        names
            .map(|(name, _)| (name.clone(), columns(name)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
