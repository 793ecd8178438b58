//! The way from each owned table to its user.

use model::ownership::Ownership;
use model::table::{ForeignKey, Hop, OwnedTable, OwnerPath, TableName};

use super::{ClassifyError, Room};

// === impl Room ===

impl Room<'_> {
    /// The owned tables with their ways, parents first. Mistakes go to `errors`.
    pub(super) fn owned_tables(&mut self) -> Vec<OwnedTable> {
        let mut owned = Vec::new();
        let mut errors = Vec::new();
        for (name, ownership) in &self.declared {
            if !matches!(ownership, Ownership::Column(_) | Ownership::Path { .. }) {
                continue;
            }
            let table = &self.catalog.tables[name];
            match self.owner_path(name, &mut Vec::new()) {
                Ok(owner) => owned.push(OwnedTable {
                    name: name.clone(),
                    oid: table.oid,
                    columns: table
                        .columns
                        .iter()
                        .map(|column| column.column.clone())
                        .collect(),
                    key: table.key.clone(),
                    owner,
                }),
                // The parent's own mistake is named already; this one goes with it.
                Err(ClassifyError::ParentNotOwned { parent, .. })
                    if self.failed.contains(&parent) => {}
                Err(error) => errors.push(error),
            }
        }
        errors.dedup();
        self.errors.extend(errors);
        // A child's path is its parent's with one hop before it, so depth orders parents first.
        let rank = |table: &OwnedTable| (table.name != self.users.name, table.owner.hops.len());
        owned.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name)));
        owned
    }

    /// The way from `name` to the user; `behind` are the tables passed on the way here.
    fn owner_path(
        &self,
        name: &TableName,
        behind: &mut Vec<TableName>,
    ) -> Result<OwnerPath, ClassifyError> {
        let (columns, parent) = match &self.declared[name] {
            Ownership::Column(column) => {
                return Ok(OwnerPath {
                    hops: Vec::new(),
                    column: column.clone(),
                });
            }
            Ownership::Path { columns, parent } => (columns, TableName::parse(parent)),
            Ownership::Reference | Ownership::Ignore | Ownership::Undecided => {
                unreachable!("only owned tables are asked for their path")
            }
        };
        behind.push(name.clone());
        if behind.contains(&parent) {
            return Err(ClassifyError::Cycle {
                table: behind[0].clone(),
                through: parent,
            });
        }
        match self.declared.get(&parent) {
            Some(Ownership::Column(_) | Ownership::Path { .. }) => {}
            _ => {
                return Err(ClassifyError::ParentNotOwned {
                    table: name.clone(),
                    parent,
                });
            }
        }
        let hop = self.hop(name, columns, &parent)?;
        if parent == self.users.name && hop.parent_columns == [self.users.key.clone()] {
            // The column that points at the user's key is the user's key.
            return Ok(OwnerPath {
                hops: Vec::new(),
                column: columns[0].clone(),
            });
        }
        let rest = self.owner_path(&parent, behind)?;
        let hops = std::iter::once(hop).chain(rest.hops).collect();
        Ok(OwnerPath {
            hops,
            column: rest.column,
        })
    }

    /// The step from `name` by `columns`: the foreign key's, else to the parent's primary key.
    fn hop(
        &self,
        name: &TableName,
        columns: &[String],
        parent: &TableName,
    ) -> Result<Hop, ClassifyError> {
        let target = &self.catalog.tables[parent];
        let keys = self
            .catalog
            .foreign_keys_of(name)
            .filter(|key| key.parent == *parent);
        let keys = keys.filter_map(|key| Some((key.validated, pointed_at(key, columns)?)));
        let key = keys.max_by_key(|(validated, _)| *validated);
        let (enforced, parent_columns) = match key {
            Some((validated, pointed)) => (validated, pointed),
            None => (false, target.primary_key.clone()),
        };
        let child = &self.catalog.tables[name];
        let fits = parent_columns.len() == columns.len()
            && columns.iter().zip(&parent_columns).all(|(from, to)| {
                child
                    .column(from)
                    .zip(target.column(to))
                    .is_some_and(|(from, to)| from.comparable(to))
            });
        if !fits {
            return Err(ClassifyError::NoWay {
                table: name.clone(),
                columns: columns.join(", "),
                parent: parent.clone(),
            });
        }
        Ok(Hop {
            columns: columns.to_vec(),
            parent: parent.clone(),
            parent_oid: target.oid,
            parent_columns,
            enforced,
        })
    }
}

/// The parent's columns that `columns` point at, if `key` is a foreign key of exactly those.
fn pointed_at(key: &ForeignKey, columns: &[String]) -> Option<Vec<String>> {
    if key.child_columns.len() != columns.len() {
        return None;
    }
    let target = |column: &String| {
        let place = key.child_columns.iter().position(|child| child == column)?;
        key.parent_columns.get(place).cloned()
    };
    columns.iter().map(target).collect()
}
