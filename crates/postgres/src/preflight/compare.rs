//! Two sites' tables side by side.

use model::table::{Column, TableName, quote};

use super::{Finding, Findings, Side};
use crate::catalog::Catalog;

/// What differs at `b` from `a`, table by table and column by column; also the unique indexes of owned tables
/// (those of whole columns), which the fingerprint leaves out. Empty only if the two fingerprints are equal.
pub fn compare(a: &Side<'_>, b: &Side<'_>) -> Vec<Finding> {
    let mut findings = Findings {
        site: b.site,
        list: Vec::new(),
    };
    let mut comparison = Comparison {
        a,
        b,
        findings: &mut findings,
    };
    comparison.users();
    comparison.owned();
    comparison.references();
    comparison.foreign_keys();
    if findings.list.is_empty() && a.schema.fingerprint != b.schema.fingerprint {
        findings.blocker(
            format!("the tables differ from those at {}", a.site),
            "make the two schemas equal",
        );
    }
    findings.list
}

struct Comparison<'a, 'f, 's> {
    a: &'a Side<'a>,
    b: &'a Side<'a>,
    findings: &'f mut Findings<'s>,
}

// === impl Comparison ===

impl Comparison<'_, '_, '_> {
    fn differs(&mut self, what: String) {
        let (a, b) = (self.a.site, self.b.site);
        let what = format!("{what}: {b} differs from {a}");
        self.findings
            .blocker(what, format!("make it equal at {a} and {b}"));
    }

    fn missing(&mut self, what: &str, at_b: bool) {
        self.missing_unless(what, at_b, "create it");
    }

    /// `create` says how it is created where it is missing.
    fn missing_unless(&mut self, what: &str, at_b: bool, create: &str) {
        let (absent, there) = if at_b {
            (self.b.site, self.a.site)
        } else {
            (self.a.site, self.b.site)
        };
        self.findings.blocker(
            format!("{what} stands at {there} and not at {absent}"),
            format!("{create} at {absent}, or drop it at {there}"),
        );
    }

    fn users(&mut self) {
        let (a, b) = (&self.a.schema.users, &self.b.schema.users);
        if a != b {
            self.differs(format!("the user table {}, its key or its market", a.name));
        }
    }

    fn owned(&mut self) {
        let (a, b) = (self.a.schema, self.b.schema);
        for table in &b.owned {
            if a.owned(&table.name).is_none() {
                self.missing(&format!("table {}", table.name), false);
            }
        }
        for table in &a.owned {
            let Some(other) = b.owned(&table.name) else {
                self.missing(&format!("table {}", table.name), true);
                continue;
            };
            self.columns(&table.name, &table.columns, &other.columns);
            if table.key != other.key {
                self.differs(format!("the key of table {}", table.name));
            }
            self.unique(&table.name);
            let nameless = |ways: &[model::table::Way]| {
                let mut ways = ways.to_vec();
                for hop in ways.iter_mut().flat_map(|way| &mut way.hops) {
                    hop.parent_oid = 0;
                }
                ways
            };
            if nameless(&table.ways) != nameless(&other.ways) {
                self.differs(format!("the way from table {} to its user", table.name));
            }
        }
    }

    /// Without one of them a site takes values that no other can take over.
    fn unique(&mut self, table: &TableName) {
        let (a, b) = (self.a.catalog, self.b.catalog);
        let (Some(a), Some(b)) = (a.tables.get(table), b.tables.get(table)) else {
            return;
        };
        for (here, there, at_b) in [(a, b, true), (b, a, false)] {
            for columns in &here.unique {
                // Another key is named as such.
                if there.is_unique(columns) || *columns == here.key {
                    continue;
                }
                let quoted: Vec<String> = columns.iter().map(|column| quote(column)).collect();
                let create = format!(
                    "CREATE UNIQUE INDEX ON {} ({})",
                    table.sql(),
                    quoted.join(", ")
                );
                let what = format!(
                    "the unique index on ({}) of table {table}",
                    columns.join(", ")
                );
                self.missing_unless(&what, at_b, &create);
            }
        }
    }

    fn references(&mut self) {
        let (a, b) = (&self.a.schema.references, &self.b.schema.references);
        for name in b.keys().filter(|name| !a.contains_key(*name)) {
            self.missing(&format!("reference table {name}"), false);
        }
        for (name, columns) in a {
            match b.get(name) {
                Some(other) => self.columns(name, columns, other),
                None => self.missing(&format!("reference table {name}"), true),
            }
        }
    }

    fn columns(&mut self, table: &TableName, a: &[Column], b: &[Column]) {
        let named =
            |columns: &[Column], name: &str| columns.iter().any(|column| column.name == name);
        let mut alike = true;
        for column in b.iter().filter(|column| !named(a, &column.name)) {
            self.missing(&format!("column {} of table {table}", column.name), false);
            alike = false;
        }
        for column in a {
            let Some(other) = b.iter().find(|other| other.name == column.name) else {
                self.missing(&format!("column {} of table {table}", column.name), true);
                alike = false;
                continue;
            };
            let about = format!("column {} of table {table}", column.name);
            if column.sql_type != other.sql_type {
                self.differs(format!(
                    "{about} ({} and {})",
                    column.sql_type, other.sql_type
                ));
            } else if column.not_null != other.not_null {
                self.differs(format!("{about} (NOT NULL)"));
            } else if (column.identity, column.generated) != (other.identity, other.generated) {
                self.differs(format!("{about} (GENERATED)"));
            }
            let meaning = |catalog: &Catalog| {
                let found = catalog
                    .tables
                    .get(table)
                    .and_then(|table| table.column(&column.name));
                found.map(|found| (found.generation.clone(), found.definition.clone()))
            };
            if meaning(self.a.catalog) != meaning(self.b.catalog) {
                self.differs(format!("{about} (what its type or its expression means)"));
            }
        }
        let order = |columns: &[Column]| -> Vec<String> {
            columns.iter().map(|column| column.name.clone()).collect()
        };
        if alike && order(a) != order(b) {
            self.differs(format!("the order of the columns of table {table}"));
        }
    }

    /// Two foreign keys are the same that do the same, whatever their names.
    fn foreign_keys(&mut self) {
        let nameless = |side: &Side<'_>| -> Vec<_> {
            let keys = side.schema.foreign_keys.iter().cloned();
            keys.map(|key| {
                (
                    key.name.clone(),
                    model::table::ForeignKey {
                        name: String::new(),
                        ..key
                    },
                )
            })
            .collect()
        };
        let (a, b) = (nameless(self.a), nameless(self.b));
        for (here, there, at_b) in [(&a, &b, true), (&b, &a, false)] {
            for (name, key) in here {
                if !there.iter().any(|(_, other)| other == key) {
                    let validated = if key.validated { "" } else { " NOT VALID" };
                    let what = format!(
                        "foreign key {name} of table {} ({}{validated}) to {}",
                        key.child,
                        key.child_columns.join(", "),
                        key.parent
                    );
                    self.missing(&what, at_b);
                }
            }
        }
    }
}
