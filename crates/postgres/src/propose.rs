//! What `init` proposes: whose rows each table holds, guessed from the foreign keys.
//!
//! A guess is a proposal with its reason beside it; where two guesses are equally good it is `"?"`,
//! which stops a move until somebody decides.

use std::collections::{BTreeMap, BTreeSet};

use model::ownership::Ownership;
use model::table::{ForeignKey, TableName};

use crate::catalog::{Catalog, Table};
use crate::classify::unsupported_form;

/// Names of columns that say where a user is at home, the likeliest first.
const MARKETS: &[&str] = &["market", "country", "country_code", "region", "locale"];

/// A proposed classification of a whole database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The user table.
    pub user_table: TableName,
    /// Its key column.
    pub key: String,
    /// The column that gives the market, where one was given or could be guessed.
    pub market: Option<String>,
    /// Why this market, or why none.
    pub market_why: String,
    /// Every table that needs a classification, but the user table.
    pub tables: BTreeMap<TableName, Proposed>,
}

/// The proposal for one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The classification; `Undecided` where a person must choose.
    pub ownership: Ownership,
    /// Why, in words, for a comment beside it.
    pub why: String,
}

/// Why nothing can be proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// The user table is not in the database.
    #[error("there is no table {0}; name the table whose rows are the users")]
    NoUserTable(TableName),
    /// The key column is not in the user table.
    #[error("table {0} has no column {1}; name the column that holds the user's key")]
    NoKeyColumn(TableName, String),
    /// The user table has no primary key of one column to take for the user's key.
    #[error(
        "table {0} has no primary key of one column; name the column that holds the user's key"
    )]
    NoSingleKey(TableName),
}

/// Proposes a classification. `key` by default is the user table's primary key.
pub fn propose(
    catalog: &Catalog,
    user_table: &str,
    key: Option<&str>,
    market: Option<&str>,
) -> Result<Proposal, ProposeError> {
    let name = TableName::parse(user_table);
    let Some(users) = catalog.tables.get(&name) else {
        return Err(ProposeError::NoUserTable(name));
    };
    let key = match (key, users.primary_key.as_slice()) {
        (Some(key), _) if users.column(key).is_none() => {
            return Err(ProposeError::NoKeyColumn(name, key.to_owned()));
        }
        (Some(key), _) => key.to_owned(),
        (None, [only]) => only.clone(),
        (None, _) => return Err(ProposeError::NoSingleKey(name)),
    };
    let (market, market_why) = propose_market(users, market);
    let mut ways = Ways {
        catalog,
        users: &name,
        key: &key,
        found: BTreeMap::new(),
    };
    ways.follow();
    let wanting = catalog
        .tables
        .iter()
        .filter(|(_, table)| table.wants_classification());
    let tables = wanting
        .filter(|(table, _)| **table != name)
        .map(|(table, facts)| (table.clone(), ways.proposed(table, facts)))
        .collect();
    Ok(Proposal {
        market,
        market_why,
        tables,
        user_table: name.clone(),
        key: key.clone(),
    })
}

fn propose_market(users: &Table, given: Option<&str>) -> (Option<String>, String) {
    if let Some(market) = given {
        return (Some(market.to_owned()), "as given".to_owned());
    }
    let here = |name: &&&str| users.column(name).is_some();
    match MARKETS.iter().find(here) {
        Some(found) => (
            Some((*found).to_owned()),
            "guessed from the column's name".to_owned(),
        ),
        None => (
            None,
            format!(
                "no column is called {}: name the column or SQL expression that says to which market a \
                 user belongs",
                MARKETS.join(", ")
            ),
        ),
    }
}

/// One way from a table towards its user.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    ownership: Ownership,
    /// How good: the least is the best.
    rank: Rank,
    /// The foreign key's name, to tell people which one.
    constraint: String,
    /// Its own columns may be null.
    nullable: bool,
}

/// A column of the table itself goes before any path; then what cannot be null or dangle goes before what can; then
/// the shorter before the longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    path: bool,
    loose: bool,
    hops: usize,
}

/// All tables from which a way to the user was found, each with its best ways.
struct Ways<'a> {
    catalog: &'a Catalog,
    users: &'a TableName,
    key: &'a str,
    found: BTreeMap<TableName, Vec<Way>>,
}

// === impl Ways ===

impl Ways<'_> {
    /// Finds every table's best ways, the best-placed tables first, so that a path is only ever
    /// built on a parent whose own way is final.
    fn follow(&mut self) {
        loop {
            let mut next: BTreeMap<&TableName, Vec<Way>> = BTreeMap::new();
            for key in &self.catalog.foreign_keys {
                let open = key.child != *self.users && !self.found.contains_key(&key.child);
                if let Some(way) = open.then(|| self.way(key)).flatten() {
                    next.entry(&key.child).or_default().push(way);
                }
            }
            let best = |ways: &[Way]| ways.iter().map(|way| way.rank).min();
            let Some(rank) = next.values().filter_map(|ways| best(ways)).min() else {
                return;
            };
            for (table, mut ways) in next {
                if best(&ways) == Some(rank) {
                    ways.retain(|way| way.rank == rank);
                    ways.dedup_by(|a, b| a.ownership == b.ownership);
                    self.found.insert(table.clone(), ways);
                }
            }
        }
    }

    /// The way that begins with this foreign key, if its parent leads to the user.
    fn way(&self, key: &ForeignKey) -> Option<Way> {
        let child = &self.catalog.tables[&key.child];
        let nullable = key.child_columns.iter().any(|name| {
            child
                .column(name)
                .is_none_or(|column| !column.column.not_null)
        });
        let loose = nullable || !key.validated;
        let constraint = key.name.clone();
        if key.parent == *self.users && key.parent_columns == [self.key] {
            let ownership = Ownership::Column(key.child_columns[0].clone());
            return Some(Way {
                ownership,
                constraint,
                nullable,
                rank: Rank {
                    path: false,
                    loose,
                    hops: 0,
                },
            });
        }
        let (parent_loose, hops) = if key.parent == *self.users {
            (false, 0)
        } else {
            let ways = self.found.get(&key.parent)?;
            // Nobody knows yet which way an undecided parent goes: as bad as the worst.
            (ways.len() > 1 || ways[0].rank.loose, ways[0].rank.hops)
        };
        let ownership = Ownership::Path {
            columns: key.child_columns.clone(),
            parent: key.parent.to_string(),
        };
        let rank = Rank {
            path: true,
            loose: loose || parent_loose,
            hops: hops + 1,
        };
        Some(Way {
            ownership,
            rank,
            constraint,
            nullable,
        })
    }

    fn proposed(&self, name: &TableName, table: &Table) -> Proposed {
        let mut proposed = match self.found.get(name).map(Vec::as_slice) {
            Some([way]) => self.owned(way),
            Some(ways) if ways.iter().all(|way| way.nullable) => {
                // Each may be null, so that several make sense together: the first that is not decides.
                let names: Vec<&str> = ways.iter().map(|way| way.constraint.as_str()).collect();
                Proposed {
                    ownership: Ownership::First(
                        ways.iter().map(|way| way.ownership.clone()).collect(),
                    ),
                    why: format!(
                        "any of {} may be null: the first that is not decides; put the right one first",
                        names.join(", ")
                    ),
                }
            }
            Some(ways) => {
                let candidates: Vec<String> = ways
                    .iter()
                    .map(|way| format!("{:?}", way.ownership.to_string()))
                    .collect();
                undecided(format!(
                    "a row ties users together: {}; its owner's column decides, at the other end it is reported",
                    candidates.join(" or ")
                ))
            }
            None => self.apart(name, table),
        };
        if let Some(form) = unsupported_form(table).filter(|_| self.found.contains_key(name)) {
            proposed
                .why
                .push_str(&format!("; {form} cannot be moved in this version"));
        }
        proposed
    }

    fn owned(&self, way: &Way) -> Proposed {
        let mut why = match &way.ownership {
            Ownership::Path { parent, .. } => {
                format!(
                    "its row of {parent} leads to {} ({})",
                    self.users, way.constraint
                )
            }
            _ => format!("points at {} ({})", self.users, way.constraint),
        };
        if way.rank.loose {
            why.push_str(
                "; the way may be null or is not validated: rows without an owner belong to nobody and stay",
            );
        }
        Proposed {
            ownership: way.ownership.clone(),
            why,
        }
    }

    /// A table from which nothing leads to a user.
    fn apart(&self, name: &TableName, table: &Table) -> Proposed {
        let others = self
            .catalog
            .foreign_keys
            .iter()
            .filter(|key| key.child != key.parent);
        let mut children = BTreeSet::new();
        let mut parents = BTreeSet::new();
        for key in others {
            if key.parent == *name {
                children.insert(key.child.to_string());
            }
            if key.child == *name {
                parents.insert(key.parent.to_string());
            }
        }
        let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(", ");
        if let Some(proposed) = self.pointed_at(name, table) {
            return proposed;
        }
        if !children.is_empty() {
            let point = if children.len() == 1 {
                "points"
            } else {
                "point"
            };
            let why = format!(
                "{} {point} at it, nothing leads from it to {}",
                list(children),
                self.users
            );
            return Proposed {
                ownership: Ownership::Reference,
                why,
            };
        }
        if !parents.is_empty() {
            let why = format!(
                "points at {} alone, none of which leads to {}",
                list(parents),
                self.users
            );
            return Proposed {
                ownership: Ownership::Reference,
                why,
            };
        }
        if let Some(pair) = pair(table) {
            return undecided(pair);
        }
        undecided(match self.hint(table) {
            Some(column) => {
                format!("no foreign key, but column {column} looks like the user's key")
            }
            None => "no foreign key tells whose rows these are".to_owned(),
        })
    }

    /// A table at which rows of users point, one each: then it is theirs, like the address of an order. And one that has
    /// nearly as many rows as there are users: then somebody must say whether it is theirs or a catalogue.
    fn pointed_at(&self, name: &TableName, table: &Table) -> Option<Proposed> {
        let pointing = self.catalog.foreign_keys.iter().filter(|key| {
            key.parent == *name && (key.child == *self.users || self.found.contains_key(&key.child))
        });
        let pointing: Vec<&ForeignKey> = pointing.collect();
        let against = |key: &ForeignKey| Ownership::Against {
            by: key.child.to_string(),
            columns: key.child_columns.clone(),
        };
        if let [key] = pointing.as_slice()
            && self.catalog.tables[&key.child].is_unique(&key.child_columns)
        {
            return Some(Proposed {
                ownership: against(key),
                why: format!(
                    "one row of {} at most points at each ({})",
                    key.child, key.name
                ),
            });
        }
        let users = self.catalog.tables[self.users].rows_estimate;
        let grows = users >= 100.0 && table.rows_estimate * 2.0 >= users;
        let first = pointing.first().filter(|_| grows)?;
        Some(undecided(format!(
            "{} points at it, and it has nearly as many rows as there are users: {:?} if they are theirs, \"reference\" if not",
            first.child,
            against(first).to_string()
        )))
    }

    /// A column that by name and type could hold the user's key though no foreign key says so.
    fn hint<'t>(&self, table: &'t Table) -> Option<&'t str> {
        let key = self.catalog.tables[self.users].column(self.key)?;
        let with_table = format!("{}_{}", self.users.name, self.key);
        let mut columns = table.columns.iter().filter(|column| column.comparable(key));
        // A key that is called "id" is called so in every table.
        let found = columns.find(|column| {
            let name = &column.column.name;
            *name == with_table || (name == self.key && self.key != "id") || name == "user_id"
        })?;
        Some(&found.column.name)
    }
}

/// The reason for a doubt where two columns look like a (type, id) pair.
fn pair(table: &Table) -> Option<String> {
    let id = table.columns.iter().find_map(|column| {
        let stem = column.column.name.strip_suffix("_type")?;
        table.column(&format!("{stem}_id")).map(|_| stem)
    })?;
    Some(format!(
        "{id}_type and {id}_id look like a pair that names rows of several tables: write \
         [{{ when = \"{id}_type = '…'\", owner = \"{id}_id -> …\" }}, …]"
    ))
}

fn undecided(why: String) -> Proposed {
    Proposed {
        ownership: Ownership::Undecided,
        why,
    }
}

#[cfg(test)]
mod tests;
