//! The ways from each owned table to its user.

use model::ownership::Ownership;
use model::table::{Condition, ForeignKey, Hop, OwnedTable, TableName, Test, Way};

use super::{ClassifyError, Room};
use crate::catalog::TableKind;

// === impl Room ===

impl Room<'_> {
    /// The owned tables with their ways, parents first. Mistakes go to `errors`.
    pub(super) fn owned_tables(&mut self) -> Vec<OwnedTable> {
        let mut owned = Vec::new();
        let mut errors = Vec::new();
        for (name, ownership) in &self.declared {
            if !ownership.is_owned() {
                continue;
            }
            let table = &self.catalog.tables[name];
            match self.ways(name, &mut Vec::new()) {
                Ok(ways) => owned.push(OwnedTable {
                    name: name.clone(),
                    oid: table.oid,
                    leaves: self.leaves(table.oid),
                    columns: table
                        .columns
                        .iter()
                        .map(|column| column.column.clone())
                        .collect(),
                    key: table.key.clone(),
                    identity_wanted: table.identity_wanted.clone(),
                    ways,
                }),
                // The parent's own mistake is named already; this one goes with it.
                Err(ClassifyError::ParentNotOwned { parent, .. })
                    if self.failed.contains(&parent) => {}
                Err(error) => errors.push(error),
            }
        }
        errors.dedup();
        self.errors.extend(errors);
        // A child's ways are its parent's with one hop before them, so depth orders parents first.
        let depth = |table: &OwnedTable| table.ways.iter().map(|way| way.hops.len()).max();
        let rank = |table: &OwnedTable| (table.name != self.users.name, depth(table));
        owned.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name)));
        owned
    }

    fn leaves(&self, root: u32) -> Vec<(TableName, u32)> {
        let tables = self.catalog.tables.iter();
        tables
            .filter(|(_, table)| table.kind == TableKind::Leaf && table.root == Some(root))
            .map(|(name, table)| (name.clone(), table.oid))
            .collect()
    }

    /// The ways from `name` to the user; `behind` are the tables passed on the way here.
    fn ways(
        &self,
        name: &TableName,
        behind: &mut Vec<TableName>,
    ) -> Result<Vec<Way>, ClassifyError> {
        behind.push(name.clone());
        let mut ways = Vec::new();
        for (condition, ownership) in alternatives(&self.declared[name]) {
            ways.extend(self.alternative(name, condition, ownership, behind)?);
        }
        behind.pop();
        Ok(ways)
    }

    /// The ways of one alternative, which applies where `condition` holds of the row.
    fn alternative(
        &self,
        name: &TableName,
        condition: Condition,
        ownership: &Ownership,
        behind: &mut Vec<TableName>,
    ) -> Result<Vec<Way>, ClassifyError> {
        let direct = |condition, column: &String| Way {
            when: vec![condition],
            hops: Vec::new(),
            column: column.clone(),
        };
        let hop = match ownership {
            Ownership::Column(column) => return Ok(vec![direct(condition, column)]),
            Ownership::Path { columns, parent } => {
                let hop = self.hop(name, columns, self.owned_parent(name, parent, behind)?)?;
                if hop.parent == self.users.name && hop.parent_columns == [self.users.key.clone()] {
                    // The column that points at the user's key is the user's key.
                    return Ok(vec![direct(condition, &columns[0])]);
                }
                hop
            }
            Ownership::Against { by, columns } => {
                self.hop_against(name, self.owned_parent(name, by, behind)?, columns)?
            }
            Ownership::First(_)
            | Ownership::Cases(_)
            | Ownership::Reference
            | Ownership::ReferenceCopied
            | Ownership::Ignore
            | Ownership::Undecided => {
                unreachable!("an alternative is a column, a path or a way against the arrow")
            }
        };
        let beyond = self.ways(&hop.parent, behind)?;
        let ways = beyond.into_iter().map(|rest| Way {
            when: std::iter::once(condition.clone())
                .chain(rest.when)
                .collect(),
            hops: std::iter::once(hop.clone()).chain(rest.hops).collect(),
            column: rest.column,
        });
        Ok(ways.collect())
    }

    fn owned_parent(
        &self,
        name: &TableName,
        parent: &str,
        behind: &[TableName],
    ) -> Result<TableName, ClassifyError> {
        let parent = TableName::parse(parent);
        if behind.contains(&parent) {
            return Err(ClassifyError::Cycle {
                table: behind[0].clone(),
                through: parent,
            });
        }
        match self.declared.get(&parent) {
            Some(ownership) if ownership.is_owned() => Ok(parent),
            _ => Err(ClassifyError::ParentNotOwned {
                table: name.clone(),
                parent,
            }),
        }
    }

    /// The step from `name` by `columns`: the foreign key's, else to the parent's primary key.
    fn hop(
        &self,
        name: &TableName,
        columns: &[String],
        parent: TableName,
    ) -> Result<Hop, ClassifyError> {
        let (enforced, parent_columns) = self.pointed(name, columns, &parent)?;
        Ok(Hop {
            columns: columns.to_vec(),
            parent_oid: self.catalog.tables[&parent].oid,
            parent,
            parent_columns,
            enforced,
            against: false,
        })
    }

    /// The step from `name` to the rows of `by` whose `columns` point at it.
    fn hop_against(
        &self,
        name: &TableName,
        by: TableName,
        columns: &[String],
    ) -> Result<Hop, ClassifyError> {
        for column in columns {
            if self.catalog.tables[&by].column(column).is_none() {
                return Err(ClassifyError::NoSuchColumn {
                    table: by,
                    column: column.clone(),
                });
            }
        }
        let (enforced, pointed) = self.pointed(&by, columns, name)?;
        Ok(Hop {
            columns: pointed,
            parent_oid: self.catalog.tables[&by].oid,
            parent: by,
            parent_columns: columns.to_vec(),
            enforced,
            against: true,
        })
    }

    /// The columns of `parent` that `columns` of `name` point at: the foreign key's, else the primary key. And whether
    /// a validated foreign key enforces it.
    fn pointed(
        &self,
        name: &TableName,
        columns: &[String],
        parent: &TableName,
    ) -> Result<(bool, Vec<String>), ClassifyError> {
        let target = &self.catalog.tables[parent];
        let keys = self
            .catalog
            .foreign_keys_of(name)
            .filter(|key| key.parent == *parent);
        let keys = keys.filter_map(|key| Some((key.validated, pointed_at(key, columns)?)));
        let key = keys.max_by_key(|(validated, _)| *validated);
        let (enforced, pointed) = match key {
            Some((validated, pointed)) => (validated, pointed),
            None => (false, target.primary_key.clone()),
        };
        let child = &self.catalog.tables[name];
        let fits = pointed.len() == columns.len()
            && columns.iter().zip(&pointed).all(|(from, to)| {
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
        Ok((enforced, pointed))
    }
}

/// The alternatives of a declaration, each with the condition under which it is the one that applies.
pub(super) fn alternatives(declared: &Ownership) -> Vec<(Condition, &Ownership)> {
    let own: Vec<(Condition, &Ownership)> = match declared {
        Ownership::First(ways) => {
            let filled = |way: &Ownership| match way {
                Ownership::Path { columns, .. } => Test::Filled(columns.clone()),
                Ownership::Column(column) => Test::Filled(vec![column.clone()]),
                _ => unreachable!("a list holds columns and paths"),
            };
            ways.iter()
                .map(|way| (Condition(vec![filled(way)]), way))
                .collect()
        }
        Ownership::Cases(cases) => {
            let holds = |when: &[model::ownership::Comparison]| {
                Condition(when.iter().cloned().map(Test::Holds).collect())
            };
            cases
                .iter()
                .map(|case| (holds(&case.when), &case.owner))
                .collect()
        }
        single => return vec![(Condition::default(), single)],
    };
    let exclusive = |n: usize| {
        let earlier = own[..n]
            .iter()
            .map(|(condition, _)| Test::Not(condition.clone()));
        Condition(earlier.chain(own[n].0.0.iter().cloned()).collect())
    };
    (0..own.len()).map(|n| (exclusive(n), own[n].1)).collect()
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
